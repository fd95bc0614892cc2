"""Value prediction on the Markov reward process: formulas by loops, and that it learns."""

from __future__ import annotations

import dataclasses

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
    np.testing.assert_allclose(mrp.targets(rewards, discount, form), expected, rtol=1e-9)
    returns = [rewards[i:].sum() for i in range(10)]
    np.testing.assert_allclose(mrp.undiscounted(rewards), returns, rtol=1e-9)


@pytest.mark.usefixtures("doubles")
def test_the_gradient_is_that_of_every_episodes_squared_error():
    """Against each episode's own target, as the losses are written; the mean target serves."""
    config = MrpConfig(batch_size=6)
    network = mrp.make_network(config)
    params = network.init(KEY)
    discount = jnp.linspace(0.2, 0.9, 10)
    episodes = markov_reward.episodes(markov_reward.make_params(), KEY, 6)

    def written(params):
        errors = [
            mrp.targets(rewards, discount, "power") - mrp.values(network, params)
            for rewards in episodes
        ]
        return 0.5 * jnp.mean(jnp.square(jnp.stack(errors)))

    def used(params):
        target = mrp.targets(jnp.mean(episodes, axis=0), discount, "power")
        return mrp.squared_error(mrp.values(network, params), target)

    for a, b in zip(*map(jax.tree.leaves, (jax.grad(written)(params), jax.grad(used)(params)))):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.heavy
@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(("objective", "steps"), [("n-step", 1), ("n-step", 3), ("mixed", 3)])
def test_the_meta_gradient_agrees_with_finite_differences(objective, steps):
    """Through Adam and its moments, on the data that the key draws."""
    config = MrpConfig(objective=objective, inner_steps=steps, activation="tanh")
    network = mrp.make_network(config)
    optimizer = mrp.make_optimizer(config)
    step = mrp.make_step(network, optimizer, config)
    params = network.init(KEY)
    agent = mrp.Agent(params, optimizer.init(params))
    logits = jnp.linspace(-0.5, 0.7, 10)
    for i in range(3):  # moments that are not zero
        agent, _ = step(logits, agent, None, jax.random.PRNGKey(i))
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


@pytest.mark.heavy
@pytest.mark.parametrize("objective", ["n-step", "mixed", "bmg", "mixed-bmg"])
def test_what_is_kept_is_the_first_update(objective):
    """Agent and optimiser go on from one update under the old meta-parameters."""
    config = MrpConfig(objective=objective, inner_steps=3, estimates=4)
    network = mrp.make_network(config)
    optimizer = mrp.make_optimizer(config)
    lifetime = mrp.make_lifetime(config)
    state = lifetime.init(KEY)
    after, _ = jax.jit(lifetime.window)(state, None)
    step = mrp.make_step(network, optimizer, config)
    expected, _ = step(state.meta.params, state.agent, None, jax.random.split(state.key, 3)[1])
    for a, b in zip(jax.tree.leaves(after.agent), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    assert int(optax.tree.get(after.agent.opt_state, "count")) == 1
    assert np.all(after.meta.params != state.meta.params)


def test_the_agents_optimizer_is_adam():
    config = MrpConfig(learning_rate=0.1, adam_momentum=0.0)
    optimizer = mrp.make_optimizer(config)
    state, expected, second = optimizer.init(jnp.zeros(2)), np.zeros(2), np.zeros(2)
    for t, gradient in enumerate([np.array([1.0, -3.0]), np.array([-2.0, 0.5])], 1):
        update, state = optimizer.update(jnp.asarray(gradient), state)
        second = 0.999 * second + 0.001 * gradient**2
        expected = -0.1 * gradient / (np.sqrt(second / (1 - 0.999**t) + 1e-8) + 1e-8)
        np.testing.assert_allclose(update, expected, rtol=1e-4)


def discounts_learned(objective, **changes):
    """Discounts after 200 updates with a large step size; the values' error before and after."""
    config = MrpConfig(
        objective=objective, inner_steps=3, meta_learning_rate=5e-2, estimates=64, **changes
    )
    lifetime = mrp.make_lifetime(config)
    window = lifetime.window
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: window(s, None), state, length=200))
    _, columns = run(lifetime.init(KEY))
    assert set(columns) == set(lifetime.columns)
    error = columns["value_error"][:, 0]
    return np.stack([columns[f"discount_{i}"][-1, 0] for i in range(10)]), error[0], error[-1]


@pytest.mark.heavy
@pytest.mark.parametrize("objective", ["n-step", "mixed"])
def test_discounts_of_noise_fall_and_the_others_rise(objective):
    discounts, before, after = discounts_learned(objective)
    assert np.all(discounts[::2] > 0.9) and np.all(discounts[1::2] < 0.5), discounts
    assert after < before / 2


@pytest.mark.heavy
@pytest.mark.parametrize("objective", ["bmg", "mixed-bmg"])
def test_bootstrapped_discounts_of_noise_fall_without_momentum(objective):
    """With it the target goes on along the noise of the update before, and they rise."""
    discounts, before, after = discounts_learned(objective, adam_momentum=0.0)
    assert np.all(discounts[::2] > 0.9) and np.mean(discounts[1::2]) < 0.45, discounts
    assert after < before / 2
    with_momentum, *_ = discounts_learned(objective)
    assert np.mean(with_momentum[1::2]) > np.mean(discounts[1::2]) + 0.05, with_momentum


def test_nothing_is_meta_learned_where_it_is_fixed():
    lifetime = mrp.make_lifetime(MrpConfig(objective="fixed", discount=0.8))
    _, records = jax.jit(lifetime.window)(lifetime.init(KEY), None)
    np.testing.assert_allclose(records["discount_3"], 0.8, rtol=1e-6)
    assert records["meta_gradient_norm"] == 0


def test_mixtures_take_their_weights_from_the_configuration():
    config = MrpConfig(objective="mixed", inner_steps=4, kappa=0.5)
    assert config.weights == mixture_weights(4, 0.5)
    assert dataclasses.replace(config, kappa=None).weights == mixture_weights(4)
