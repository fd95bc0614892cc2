"""The actor-critic, MG and BMG against a slow numpy oracle and finite differences."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.environments import two_colors
from bmg.experiments.two_colors import actor_critic
from bmg.experiments.two_colors.config import ActorCriticConfig, TwoColorsConfig
from bmg.meta import core
from bmg.meta.objectives import BootstrapBatch
from tests.experiments.two_colors import oracle

observe = functools.partial(two_colors.observe, two_colors.make_params())
OWN = ActorCriticConfig(hidden=(12, 9), meta_hidden=(6,), rollout_length=8)
RATE, GAMMA = OWN.learning_rate, OWN.discount
CLIPPED = 0.1  # a norm that every gradient here exceeds


pytestmark = pytest.mark.usefixtures("doubles", "quick_compilation")


def config_of(own: dict | None = None, **changes) -> TwoColorsConfig:
    own = dataclasses.replace(OWN, **(own or {}))
    return TwoColorsConfig(actor_critic=own, flip_every=64, **changes)


@functools.cache
def start():
    """A lifetime in float64, some updates old, so that its context is not empty."""
    lifetime = actor_critic.make_lifetime(config_of(method="bmg", target_steps=1))
    state = oracle.double(lifetime.init(jax.random.PRNGKey(0)))
    state, _ = jax.jit(lifetime.window)(state, None)
    # Larger meta-weights than the initial ones: the entropy weight then depends on the context.
    params = jax.tree.map(lambda w: 2.0 * w + 0.1, state.meta.params)
    return oracle.double(state._replace(meta=state.meta._replace(params=params)))


def test_returns_are_the_slow_loop_s():
    reward = np.random.default_rng(0).normal(size=16)
    for value in (0.0, -2.5):
        np.testing.assert_allclose(
            actor_critic.n_step_returns(jnp.asarray(reward), value, 0.9),
            oracle.returns(reward, value, 0.9),
            rtol=1e-12,
        )


@pytest.mark.heavy
@pytest.mark.parametrize("max_norm", [0.0, CLIPPED, 100.0])
def test_an_update_is_the_slow_one(max_norm):
    config = config_of({"entropy_weight": 0.3, "max_gradient_norm": max_norm}, method="fixed")
    agent = start().agent
    step = actor_critic.make_step(actor_critic.make_networks(config.actor_critic), config)
    new, aux = jax.jit(step)(None, agent, None, jax.random.PRNGKey(5))
    advantage = oracle.advantages(agent.critic, agent.rollout, GAMMA)
    np.testing.assert_allclose(aux.advantage, advantage, rtol=1e-9)
    np.testing.assert_allclose(aux.entropy_weight, 0.3, rtol=1e-6)
    expected = oracle.policy_step(agent.policy, agent.rollout, advantage, 0.3, RATE, max_norm)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new.policy, expected)
    if max_norm == CLIPPED:
        moved_by = [np.sum(np.square(x - y)) for x, y in zip(
            jax.tree.leaves(new.policy), jax.tree.leaves(agent.policy), strict=True
        )]  # fmt: skip
        np.testing.assert_allclose(np.sqrt(sum(moved_by)), RATE * CLIPPED, rtol=1e-6)
    expected = oracle.critic_step(agent.critic, agent.rollout, GAMMA, RATE, max_norm)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new.critic, expected)


@pytest.mark.heavy
def test_a_rollout_is_played_by_its_policy_in_the_world():
    """Actions have the policy's frequencies; states, rewards and world follow from them."""
    config = config_of({"rollout_length": 20_000}, method="fixed", record_every=20_000)
    networks = actor_critic.make_networks(config.actor_critic)
    agent = start().agent
    world, rollout = jax.jit(
        lambda key: actor_critic.collect(networks.policy, agent.policy, agent.world, key, config)
    )(jax.random.PRNGKey(1))
    pi = oracle.softmax(oracle.forward(agent.policy, np.asarray(rollout.observation[:-1])))
    taken = np.eye(4)[np.asarray(rollout.action)]
    # Each action's count is a sum of independent trials with known chances.
    deviation = np.sqrt(np.sum(pi * (1 - pi), axis=0))
    assert np.all(np.abs(np.sum(taken - pi, axis=0)) < 5 * deviation)
    assert world.steps == agent.world.steps + 20_000
    np.testing.assert_array_equal(rollout.observation[0], observe(agent.world))
    np.testing.assert_array_equal(rollout.observation[-1], observe(world))
    # -0.04 where no square was reached: neither square's coordinates have changed.
    squares = np.asarray(rollout.observation)[:, 10:]
    moved = np.any(squares[1:] != squares[:-1], axis=-1)
    np.testing.assert_array_equal(np.abs(np.asarray(rollout.reward)) == 1, moved)


def contexts_of(agent, auxs):
    """t before each update: the mean rewards of the last rollouts, the pending one's last."""
    context, contexts = np.asarray(agent.context), [np.asarray(agent.context)]
    for aux in auxs[1:]:
        context = np.append(context[1:], np.mean(aux.rollout.reward))
        contexts.append(context)
    return contexts


def unrolled_by_hand(w, agent, auxs, max_norm):
    """Policies x(0) ... x(T) and critics under w, on the rollouts that were collected."""
    policies, critics = [agent.policy], [agent.critic]
    for aux, context in zip(auxs, contexts_of(agent, auxs)):
        advantage = oracle.advantages(critics[-1], aux.rollout, GAMMA)
        weight = oracle.entropy_weight(w, context)
        policies.append(
            oracle.policy_step(policies[-1], aux.rollout, advantage, weight, RATE, max_norm)
        )
        critics.append(oracle.critic_step(critics[-1], aux.rollout, GAMMA, RATE, max_norm))
    return policies, critics


def moved(params, path, index, amount):
    """A copy of the parameters with one number changed."""
    changed = {name: {k: np.array(v) for k, v in layer.items()} for name, layer in params.items()}
    changed[path[0]][path[1]].flat[index] += amount
    return changed


def finite_differences(loss, params, size=1e-5):
    """d loss / d params, one number at a time."""
    gradient = {}
    for name, layer in params.items():
        gradient[name] = {}
        for key, value in layer.items():
            slopes = [
                (
                    loss(moved(params, (name, key), index, size))
                    - loss(moved(params, (name, key), index, -size))
                )
                / (2 * size)
                for index in range(np.size(value))
            ]
            gradient[name][key] = np.reshape(slopes, np.shape(value))
    return gradient


def compare(actual, expected):
    largest = max(np.max(np.abs(x)) for x in jax.tree.leaves(expected))
    assert largest > 1e-7, "there must be something to compare"
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5 * largest),
        actual, expected,
    )  # fmt: skip


def meta_gradient_of(config, state, key=None):
    networks = actor_critic.make_networks(config.actor_critic)
    compute = core.meta_gradient(
        core.online_start,
        actor_critic.make_step(networks, config),
        actor_critic.make_objective(networks, config),
    )
    batch = BootstrapBatch(target=(None,) * (config.target_steps - 1))
    key = jax.random.PRNGKey(9) if key is None else key
    batches = (None,) * config.inner_steps
    return jax.jit(lambda w, agent: compute(w, agent, batches, batch, key))(
        state.meta.params, state.agent
    )


@pytest.mark.heavy
@pytest.mark.parametrize(
    "inner_steps, own",
    [
        (1, {}),
        (1, {"meta_regularization": 0.1}),
        (3, {}),
        (3, {"meta_regularization": 0.1}),
        (3, {"meta_regularization": 0.1, "max_gradient_norm": CLIPPED}),
    ],
)
def test_mg_is_the_finite_difference(inner_steps, own):
    config = config_of(own, method="mg", inner_steps=inner_steps)
    own = config.actor_critic
    state = start()
    result = meta_gradient_of(config, state)

    def loss(w):
        policies, critics = unrolled_by_hand(w, state.agent, result.aux, own.max_gradient_norm)
        total = 0.0
        for t, aux in enumerate(result.aux):
            advantage = oracle.advantages(critics[t], aux.rollout, GAMMA)
            total += oracle.policy_loss(
                policies[t + 1], aux.rollout, advantage, own.meta_regularization
            )
        return total / len(result.aux)

    np.testing.assert_allclose(result.loss, loss(state.meta.params), rtol=1e-9)
    compare(result.gradient, finite_differences(loss, state.meta.params))


@pytest.mark.heavy
@pytest.mark.parametrize(
    "inner_steps, target_steps, matching, own",
    [
        (1, 1, "kl", {}),
        (1, 4, "kl", {}),
        (2, 3, "kl", {"meta_regularization": 0.1}),
        (2, 3, "kl", {"max_gradient_norm": CLIPPED}),
        (1, 4, "kl", {"max_gradient_norm": 0.0}),
        (1, 3, "reverse_kl", {"matching_reduction": "sum"}),
        (2, 2, "symmetric_kl", {"last_rollout": "same"}),
        (1, 1, "kl", {"last_rollout": "same"}),
        (1, 3, "kl", {"final_objective": "learned"}),
    ],
)
def test_bmg_is_the_finite_difference_with_the_target_held(
    inner_steps, target_steps, matching, own
):
    config = config_of(
        own, method="bmg", inner_steps=inner_steps, target_steps=target_steps, matching=matching
    )
    state = start()
    result = meta_gradient_of(config, state)
    w = state.meta.params
    learned, last = result.target_aux
    steps = [jax.tree.map(lambda x: x[i], learned) for i in range(target_steps - 1)]
    auxs = [*result.aux, *steps]
    assert len(auxs) == inner_steps + target_steps - 1

    max_norm = config.actor_critic.max_gradient_norm
    policies, critics = unrolled_by_hand(w, state.agent, auxs, max_norm)
    same = config.actor_critic.last_rollout == "same"
    rollout = auxs[-1].rollout if same else result.next_state.rollout
    np.testing.assert_array_equal(last.observation, rollout.observation)
    weight = config.actor_critic.meta_regularization
    if config.actor_critic.final_objective == "learned":
        weight = oracle.entropy_weight(w, result.next_state.context)
    advantage = oracle.advantages(critics[-1], rollout, GAMMA)
    target = oracle.policy_step(policies[-1], rollout, advantage, weight, RATE, max_norm)
    observation = np.asarray(rollout.observation[:-1], np.float64)
    target_logits = oracle.forward(target, observation)

    def loss(w):
        logits = oracle.forward(
            unrolled_by_hand(w, state.agent, result.aux, max_norm)[0][-1], observation
        )
        forward, reverse = oracle.kl(target_logits, logits), oracle.kl(logits, target_logits)
        value = {"kl": forward, "reverse_kl": reverse, "symmetric_kl": forward + reverse}[matching]
        return value * (8 if config.actor_critic.matching_reduction == "sum" else 1)

    np.testing.assert_allclose(result.loss, loss(w), rtol=1e-6)
    compare(result.gradient, finite_differences(loss, w))
    # The L - 1 steps are the agent's own: it goes on from them, not from the target.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7),
        (result.next_state.policy, result.next_state.critic), (policies[-1], critics[-1]),
    )  # fmt: skip
    length = config.actor_critic.rollout_length
    assert result.next_state.world.steps == state.agent.world.steps + length * len(auxs)
    context = np.append(contexts_of(state.agent, auxs)[-1][1:], np.mean(rollout.reward))
    if not same:
        np.testing.assert_allclose(result.next_state.context, context, rtol=1e-12)


@pytest.mark.heavy
def test_a_window_moves_the_meta_parameters_with_adam_and_records_every_update():
    config = config_of(method="bmg", inner_steps=2, target_steps=3, meta_learning_rate=1e-2)
    lifetime = actor_critic.make_lifetime(config)
    state = oracle.double(lifetime.init(jax.random.PRNGKey(0)))
    after, records = jax.jit(lifetime.window)(state, None)
    assert lifetime.updates_per_window == 4
    assert {k: v.shape for k, v in records.items()} == dict.fromkeys(lifetime.columns, (4,))
    assert after.agent.world.steps == state.agent.world.steps + 4 * 8
    np.testing.assert_allclose(records["reward"][0], np.mean(state.agent.rollout.reward))
    # Adam's first step is rate * g / (|g| + eps), with Table 1's eps of 1e-4.
    gradient = meta_gradient_of(config, state, jax.random.split(state.key)[1]).gradient
    expected = jax.tree.map(
        lambda w, g: w - 1e-2 * g / (np.abs(g) + 1e-4), state.meta.params, gradient
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9),
        after.meta.params, expected,
    )  # fmt: skip


@pytest.mark.heavy
def test_the_entropy_weight_is_about_a_half_at_first_and_fixed_where_it_is_fixed():
    _, records = start_records(config_of(method="bmg"))
    assert np.all(np.abs(records["entropy_weight"] - 0.5) < 0.1)
    _, records = start_records(config_of({"entropy_weight": 0.2}, method="fixed"))
    np.testing.assert_allclose(records["entropy_weight"], 0.2, rtol=1e-6)


def start_records(config):
    lifetime = actor_critic.make_lifetime(config)
    return jax.jit(lambda key: lifetime.window(lifetime.init(key), None))(jax.random.PRNGKey(0))
