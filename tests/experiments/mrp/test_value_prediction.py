"""Value prediction on the Markov reward process: formulas by loops, and that it learns."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bmg.environments import markov_reward
from bmg.experiments.mrp import value_prediction as mrp
from bmg.experiments.mrp.config import MrpConfig
from bmg.experiments.multistep.objectives import objective_batch, unrolled_batches
from bmg.meta.objectives import mixture_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.PRNGKey(0)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("form", ["power", "product"])
def test_targets_are_the_printed_formula(form):
    rng = np.random.default_rng(0)
    rewards, discount = rng.normal(size=10), rng.uniform(0.05, 0.95, size=10)
    expected = np.zeros(10)
    for i in range(10):
        for j in range(i, 10):
            if form == "power":
                expected[i] += discount[j] ** (j - i + 1) * rewards[j]
            else:
                expected[i] += np.prod(discount[i : j + 1]) * rewards[j]
    found = jax.jit(mrp.targets, static_argnums=2)(rewards, discount, form)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    returns = [rewards[i:].sum() for i in range(10)]
    np.testing.assert_allclose(jax.jit(mrp.undiscounted)(rewards), returns, rtol=1e-9)


@pytest.mark.usefixtures("doubles")
def test_the_gradient_is_that_of_every_episodes_squared_error():
    """Against each episode's own target, as the losses are written; the mean target serves."""
    config = MrpConfig(batch_size=6)
    network = mrp.make_network(config)

    def written(params, discount, episodes):
        errors = [
            mrp.targets(rewards, discount, "power") - mrp.values(network, params)
            for rewards in episodes
        ]
        return 0.5 * jnp.mean(jnp.square(jnp.stack(errors)))

    def used(params, discount, episodes):
        target = mrp.targets(jnp.mean(episodes, axis=0), discount, "power")
        return mrp.squared_error(mrp.values(network, params), target)

    @jax.jit
    def both(key):
        params, discount = network.init(key), jnp.linspace(0.2, 0.9, 10)
        episodes = markov_reward.episodes(markov_reward.make_params(), key, 6)
        return [jax.grad(loss)(params, discount, episodes) for loss in (written, used)]

    for a, b in zip(*map(jax.tree.leaves, both(KEY)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.heavy
@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(("objective", "steps"), [("n-step", 1), ("n-step", 2), ("mixed", 2)])
def test_the_meta_gradient_agrees_with_finite_differences(objective, steps):
    """Through Adam and its moments, on the data that the key draws."""
    config = MrpConfig(objective=objective, inner_steps=steps, activation="tanh")
    network = mrp.make_network(config)
    optimizer = mrp.make_optimizer(config)
    step = mrp.make_step(network, optimizer, config)
    logits = np.linspace(-0.5, 0.7, 10)

    @jax.jit
    def some_agent(key):
        params = network.init(key)
        agent = mrp.Agent(params, optimizer.init(params))
        for i in range(2):  # moments that are not zero
            agent, _ = step(logits, agent, None, jax.random.PRNGKey(i))
        return agent

    agent = some_agent(KEY)
    compute = mrp.make_meta_gradient(network, optimizer, config)
    batches, batch = unrolled_batches(config), objective_batch(config)
    loss = jax.jit(lambda logits: compute(logits, agent, batches, batch, jax.random.PRNGKey(9)))
    gradient = loss(logits).gradient
    assert np.all(np.abs(gradient) > 0)
    width = 1e-5
    for i in range(10):
        shift = width * np.eye(10)[i]
        slope = (loss(logits + shift).loss - loss(logits - shift).loss) / (2 * width)
        np.testing.assert_allclose(gradient[i], slope, rtol=1e-4, atol=1e-10)


def learning(objective: str) -> MrpConfig:
    """With large steps of the discounts."""
    return MrpConfig(objective=objective, inner_steps=2, meta_learning_rate=5e-2, estimates=32)


@functools.cache
def programs(config: MrpConfig):
    """(init, window) of a lifetime."""
    lifetime = mrp.make_lifetime(config)
    return jax.jit(lifetime.init), jax.jit(lifetime.window)


@pytest.mark.heavy
@pytest.mark.parametrize("objective", ["n-step", "mixed", "bmg", "mixed-bmg"])
def test_what_is_kept_is_the_first_update(objective):
    """Agent and optimiser go on from one update under the old meta-parameters."""
    init, window = programs(learning(objective))
    state = init(KEY)
    after, _ = window(state, None)
    _, key, _ = jax.random.split(state.key, 3)
    expected, _ = update(state.meta.params, state.agent, None, key)
    for a, b in zip(jax.tree.leaves(after.agent), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    assert int(optax.tree.get(after.agent.opt_state, "count")) == 1
    assert np.all(after.meta.params != state.meta.params)


@jax.jit
def update(*arguments):
    """The agent's, of every objective."""
    config = MrpConfig()
    return mrp.make_step(mrp.make_network(config), mrp.make_optimizer(config), config)(*arguments)


def test_the_agents_optimizer_is_adam():
    config = MrpConfig(learning_rate=0.1, adam_momentum=0.0)
    optimizer = mrp.make_optimizer(config)
    update, state = jax.jit(optimizer.update), jax.jit(optimizer.init)(np.zeros(2))
    second = np.zeros(2)
    for t, gradient in enumerate([np.array([1.0, -3.0]), np.array([-2.0, 0.5])], 1):
        found, state = update(gradient, state)
        second = 0.999 * second + 0.001 * gradient**2
        expected = -0.1 * gradient / (np.sqrt(second / (1 - 0.999**t) + 1e-8) + 1e-8)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def discounts_learned(config: MrpConfig):
    """Discounts after 200 updates; the values' error before and after."""
    init, window = programs(config)
    state, errors = init(jax.random.PRNGKey(2)), []
    for _ in range(200):
        state, columns = window(state, None)
        errors.append(columns["value_error"][0])
    assert set(columns) == set(mrp.COLUMNS)
    return np.stack([columns[f"discount_{i}"][0] for i in range(10)]), errors[0], errors[-1]


@pytest.mark.heavy
@pytest.mark.parametrize("objective", ["n-step", "mixed"])
def test_discounts_of_noise_fall_and_the_others_rise(objective):
    discounts, before, after = discounts_learned(learning(objective))
    assert np.all(discounts[::2] > 0.9) and np.all(discounts[1::2] < 0.5), discounts
    assert after < before / 2


@pytest.mark.heavy
@pytest.mark.parametrize("objective", ["bmg", "mixed-bmg"])
def test_bootstrapped_discounts_of_noise_fall_without_momentum(objective):
    """With it the target goes on along the noise of the update before, and they rise."""
    config = learning(objective)
    without = dataclasses.replace(config, adam_momentum=0.0)
    discounts, before, after = discounts_learned(without)
    assert np.all(discounts[::2] > 0.9) and np.mean(discounts[1::2]) < 0.45, discounts
    assert after < before / 2
    with_momentum, *_ = discounts_learned(config)
    assert np.mean(with_momentum[1::2]) > np.mean(discounts[1::2]) + 0.05, with_momentum


def test_nothing_is_meta_learned_where_it_is_fixed():
    init, window = programs(MrpConfig(objective="fixed", discount=0.8))
    _, records = window(init(KEY), None)
    np.testing.assert_allclose(records["discount_3"], 0.8, rtol=1e-6)
    assert records["meta_gradient_norm"] == 0


def test_mixtures_take_their_weights_from_the_configuration():
    config = MrpConfig(objective="mixed", inner_steps=4, kappa=0.5)
    assert config.weights == mixture_weights(4, 0.5)
    assert dataclasses.replace(config, kappa=None).weights == mixture_weights(4)
