"""Q(lambda) and its meta-learned exploration against slow loops and finite differences."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

from bmg.environments import two_colors
from bmg.experiments.networks import mlp
from bmg.experiments.two_colors import q_lambda
from bmg.experiments.two_colors.config import QLambdaConfig, TwoColorsConfig
from bmg.experiments.two_colors.networks import sigmoid_network
from bmg.meta import core
from tests.experiments.two_colors import oracle

observe = jax.jit(functools.partial(two_colors.observe, two_colors.make_params()))
OWN = QLambdaConfig(hidden=(12, 9), meta_hidden=(6,), meta_inputs=7, learning_rate=1e-3)


pytestmark = pytest.mark.usefixtures("doubles", "quick_compilation")


def config_of(own: dict | None = None, **changes) -> TwoColorsConfig:
    own = dataclasses.replace(OWN, **(own or {}))
    return TwoColorsConfig(agent="q-lambda", q_lambda=own, flip_every=64, **changes)


@functools.lru_cache(None)
def first_state(method):
    """Of a lifetime, in float64."""
    init = q_lambda.make_lifetime(config_of(method=method)).init
    return oracle.double(jax.tree.map(np.asarray, jax.jit(init)(jax.random.PRNGKey(0))))


@functools.lru_cache(None)
def compiled_window(config):
    return jax.jit(q_lambda.make_lifetime(config).window)


def start_of(config):
    """A lifetime after some windows."""
    state = first_state(config.method)
    for _ in range(3):
        state, _ = compiled_window(config)(state, None)
        state = oracle.double(jax.tree.map(np.asarray, state))
    return state


@functools.lru_cache(None)
def compiled_step(config):
    """The agent's, whatever it is compared to."""
    network = mlp(two_colors.OBSERVATION_SIZE, OWN.hidden, 4)
    meta_network = sigmoid_network(OWN.meta_inputs, OWN.meta_hidden, 0.5)
    return jax.jit(q_lambda.make_step(network, q_lambda.make_epsilon(meta_network, config), config))


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_peng_s_traces_are_the_forward_view(lambda_):
    """With action values that stand still, the increments of the incremental form sum up to
    sum_t (G_t - q(s_t, a_t)) grad q(s_t, a_t), where
    G_t = r_{t+1} + gamma ((1 - lambda) max q(s_{t+1}) + lambda G_{t+1})    (Peng and Williams)."""
    rng, gamma, length = np.random.default_rng(0), 0.9, 12
    table = rng.normal(size=(5, 3))  # q of 5 states and 3 actions: gradients are one-hot
    states, actions = rng.integers(0, 5, length + 1), rng.integers(0, 3, length)
    reward = rng.normal(size=length)

    expected, target = np.zeros_like(table), table[states[-1]].max()
    for t in range(length - 1, -1, -1):
        target = reward[t] + gamma * ((1 - lambda_) * table[states[t + 1]].max() + lambda_ * target)
        expected[states[t], actions[t]] += target - table[states[t], actions[t]]

    trace, actual, step = np.zeros_like(table), np.zeros_like(table), jax.jit(q_lambda.peng_step)
    for t in range(length):
        gradient = np.zeros_like(table)
        gradient[states[t], actions[t]] = 1.0
        one_step = reward[t] + gamma * table[states[t + 1]].max()
        direction, trace = step(
            trace, gradient,
            error=one_step - table[states[t], actions[t]],
            greedy_error=one_step - table[states[t]].max(),
            decay=gamma * lambda_,
        )  # fmt: skip
        actual += direction
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


@pytest.mark.heavy
def test_updates_are_the_slow_ones():
    """Ten steps of the agent, and the same in numpy: traces, moving average, Adam."""
    config = config_of({"epsilon": 0.4}, method="fixed")
    step, agent = compiled_step(config), first_state("fixed").agent
    zeros = {
        name: {k: np.zeros(np.shape(v)) for k, v in layer.items()}
        for name, layer in agent.params.items()
    }
    x, trace, average, first, second = agent.params, zeros, zeros, zeros, zeros

    def combine(function, *trees):
        return {n: {k: function(*(np.asarray(t[n][k]) for t in trees)) for k in x[n]} for n in x}

    decay = OWN.discount * OWN.trace_decay
    for count in range(1, 11):
        s_tm1, a_tm1, r_t = np.asarray(agent.observation), int(agent.action), float(agent.reward)
        s_t = np.asarray(observe(agent.world))
        q_tm1, q_t = oracle.forward(x, s_tm1), oracle.forward(x, s_t)
        gradient = oracle.backward(x, s_tm1[None], np.eye(4)[[a_tm1]])
        error = r_t + OWN.discount * max(q_t) - q_tm1[a_tm1]
        greedy_error = r_t + OWN.discount * max(q_t) - max(q_tm1)
        trace = combine(lambda e: decay * e, trace)
        g = combine(lambda e, d: -(greedy_error * e + error * d), trace, gradient)
        trace = combine(np.add, trace, gradient)
        average = combine(lambda m, g: 0.9 * m + 0.1 * g, average, g)
        first = combine(lambda m, g: 0.9 * m + 0.1 * g, first, average)
        second = combine(lambda v, g: 0.999 * v + 0.001 * g**2, second, average)
        x = combine(
            lambda p, m, v: p
            - 1e-3 * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-4),
            x, first, second,
        )  # fmt: skip
        agent, aux = step(None, agent, None, jax.random.PRNGKey(count))
        for actual, expected in ((agent.params, x), (agent.trace, trace)):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12),
                actual, expected,
            )  # fmt: skip
        np.testing.assert_array_equal(agent.observation, s_t)
        assert aux.reward == r_t and agent.world.steps == count + 1


def epsilon_greedy(q, epsilon):
    """The cases of appendix B.3."""
    pi = np.zeros_like(q)
    for i in range(len(q)):
        best = [a for a in range(4) if q[i][a] == max(q[i])][0]
        for a in range(4):
            pi[i, a] = 1 - epsilon[i] + epsilon[i] / 4 if a == best else epsilon[i] / 4
    return pi


def test_matching_functions_are_the_slow_ones():
    rng = np.random.default_rng(1)
    q, target_q = rng.normal(size=(30, 4)), rng.normal(size=(30, 4))
    q[3] = 0.5  # a tie: the first action is greedy
    epsilon = rng.uniform(0.01, 0.9, size=30)
    pi = epsilon_greedy(q, epsilon)
    np.testing.assert_allclose(jax.jit(q_lambda.epsilon_greedy)(q, epsilon), pi, rtol=1e-12)
    # The target acts greedily, whatever its own epsilon.
    target = q_lambda.Exploration(target_q, np.full(30, 0.5))
    online = q_lambda.Exploration(q, epsilon)
    match_policy, match_value = jax.jit(q_lambda.match_policy), jax.jit(q_lambda.match_value)
    divergence = np.mean([-np.log(pi[i, np.argmax(target_q[i])]) for i in range(30)])
    np.testing.assert_allclose(match_policy(target, online), divergence, rtol=1e-12)
    squares = [(max(target_q[i]) - sum(pi[i] * q[i])) ** 2 for i in range(30)]
    np.testing.assert_allclose(match_value(target, online), np.mean(squares), rtol=1e-12)


@pytest.mark.heavy
@pytest.mark.parametrize("matching", ["policy", "value"])
@pytest.mark.parametrize("target_steps", [1, 5])
def test_the_meta_gradient_is_the_finite_difference(matching, target_steps):
    config = config_of(method="bmg", matching=matching, target_steps=target_steps)
    start = config_of(method="bmg", matching="policy", target_steps=1)
    state = start_of(start)
    # Adam's first moment holds a tenth of the first moving average, a hundredth of the gradient.
    fresh = jax.tree.map(np.zeros_like, state.meta.opt_state)
    state = state._replace(meta=state.meta._replace(opt_state=fresh))
    after, records = jax.tree.map(np.asarray, compiled_window(config)(state, None))
    gradient = jax.tree.map(lambda m: m / 0.01, after.meta.opt_state[1][0].mu)

    # The same L steps once more, with the behaviour of before.
    step = compiled_step(start)
    seen, inputs = [], state.agent

    def recording(w, agent, batch, key):
        seen.append(
            (
                np.asarray(observe(agent.world)),
                np.asarray(agent.context),
            )
        )
        return step(w, agent, batch, key)

    key = jax.random.split(state.key)[1]
    objective_key = jax.random.split(key, 3)[2]
    target_key, final_key = jax.random.split(objective_key)
    agent = core.unroll(
        recording, state.meta.params, inputs, (None,) * (target_steps - 1), target_key
    ).states[-1]
    agent, _ = recording(state.meta.params, agent, None, final_key)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        agent.params, after.agent.params,
    )  # fmt: skip
    assert after.agent.world.steps == state.agent.world.steps + target_steps

    observation = np.stack([s for s, _ in seen])
    context = np.stack([t for _, t in seen])
    q, target_q = (oracle.forward(x, observation) for x in (state.agent.params, agent.params))
    greedy_target = np.argmax(target_q, axis=-1)

    def loss(w):
        raw = 1.0 / (1.0 + np.exp(-oracle.forward(w, context)[:, 0]))
        pi = epsilon_greedy(q, 1e-3 + (1 - 1e-3) * raw)
        if matching == "policy":
            return np.mean(-np.log(pi[np.arange(len(q)), greedy_target]))
        return np.mean((target_q.max(-1) - np.sum(pi * q, -1)) ** 2)

    for name, layer in state.meta.params.items():
        for k, value in layer.items():
            for index in range(0, np.size(value), 3):
                slopes = []
                for sign in (1, -1):
                    changed = {
                        n: {j: np.array(v) for j, v in la.items()}
                        for n, la in state.meta.params.items()
                    }
                    changed[name][k].flat[index] += sign * 1e-5
                    slopes.append(loss(changed))
                expected = (slopes[0] - slopes[1]) / 2e-5
                np.testing.assert_allclose(
                    np.asarray(gradient[name][k]).flat[index], expected, rtol=1e-4, atol=1e-8
                )
    assert max(np.max(np.abs(g)) for g in jax.tree.leaves(gradient)) > 1e-5
    assert {k: v.shape for k, v in records.items()} == dict.fromkeys(
        q_lambda.COLUMNS, (target_steps,)
    )


def test_actions_are_epsilon_greedy():
    """At a standing agent, over many keys: the greedy action has 1 - eps + eps / 4."""
    config = config_of({"epsilon": 0.3}, method="fixed")
    step, agent = compiled_step(config), start_of(config).agent
    count = 20_000
    keys = jax.random.split(jax.random.PRNGKey(2), count)
    actions = jax.jit(jax.vmap(lambda key: step(None, agent, None, key)[0].action))(keys)
    q = oracle.forward(agent.params, np.asarray(observe(agent.world)))
    expected = epsilon_greedy(q[None], [0.3])[0]
    frequency = np.bincount(np.asarray(actions), minlength=4) / count
    assert np.all(np.abs(frequency - expected) < 5 * np.sqrt(expected * (1 - expected) / count))


@pytest.mark.heavy
def test_recorded_entropy_and_epsilon():
    config = config_of({"epsilon": 0.3}, method="fixed")
    _, records = compiled_window(config)(first_state("fixed"), None)
    pi = np.array([0.775, 0.075, 0.075, 0.075])
    np.testing.assert_allclose(records["entropy"], [-np.sum(pi * np.log(pi))], rtol=1e-5)
    np.testing.assert_allclose(records["epsilon"], [0.3], rtol=1e-6)
    config = config_of(method="bmg", matching="policy", target_steps=5)
    _, records = compiled_window(config)(first_state("bmg"), None)
    assert np.all(np.abs(np.asarray(records["epsilon"]) - 0.5) < 0.2)
