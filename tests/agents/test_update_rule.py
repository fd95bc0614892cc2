"""The rule of LPG against a loop in numpy, its derivatives, and what it cannot see."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.agents.update_rule import (
    Outputs,
    RuleConfig,
    Seen,
    Targets,
    agent_loss,
    apply_rule,
    init_rule,
    see,
)

T, N, A = 6, 3, 4
KEY = jax.random.PRNGKey(0)
KINDS = ("distribution", "vector", "value")


def small(prediction="distribution") -> RuleConfig:
    return RuleConfig(units=5, prediction=prediction, prediction_size=3, embedding=4)


def some_rule(config: RuleConfig, rng):
    """With biases too."""
    rule = jax.jit(init_rule, static_argnums=0)(config, KEY)
    return jax.tree.map(lambda x: np.asarray(x) + 0.3 * rng.normal(size=x.shape), rule)


def some_agent(config: RuleConfig, rng):
    """Outputs in T + 1 states, actions, rewards, discounts with two ends, gammas."""
    outputs = Outputs(rng.normal(size=(T + 1, N, A)), rng.normal(size=(T + 1, N, config.outputs)))
    discount = np.ones((T, N))
    discount[2, 1] = discount[5, 0] = 0
    action = rng.integers(A, size=(T, N))
    reward = rng.normal(size=(T, N))
    return outputs, action, reward, discount, np.array([0.9, 0.99, 0.5])


@functools.partial(jax.jit, static_argnames="config")
def targets_of(rule, agent, config, reset=None):
    return apply_rule(rule, see(*agent, config, reset), config)


def softmax(x):
    e = np.exp(x - np.max(x))
    return e / e.sum()


def slow_targets(rule, outputs, action, reward, discount, gamma, config):
    """The paper's words, for one step after the other from the end."""
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    pi_hat, y_hat = np.zeros((T, N)), np.zeros((T, N, config.outputs))

    def embed(y):
        if config.prediction == "value":
            return y[0]
        y = softmax(y) if config.prediction == "distribution" else y
        hidden = np.maximum(y @ rule.embedding.hidden.w + rule.embedding.hidden.b, 0)
        return (hidden @ rule.embedding.out.w + rule.embedding.out.b)[0]

    for n in range(N):
        h = c = np.zeros(config.units)
        for t in reversed(range(T)):
            ended = discount[t, n] == 0
            if ended:
                h = c = np.zeros(config.units)
            x = np.array([
                reward[t, n], discount[t, n], gamma[n],
                softmax(outputs.logits[t, n])[action[t, n]],
                embed(outputs.prediction[t, n]),
                0.0 if ended else embed(outputs.prediction[t + 1, n]),
            ])  # fmt: skip
            z = x @ rule.lstm.inputs + h @ rule.lstm.recurrent + rule.lstm.bias
            i, g, f, o = np.split(z, 4)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            pi_hat[t, n] = (h @ rule.policy.w + rule.policy.b)[0]
            if config.prediction != "value":
                y_hat[t, n] = h @ rule.prediction.w + rule.prediction.b
    if config.prediction == "value":
        v = outputs.prediction[..., 0]
        for n in range(N):
            error = 0.0
            for t in reversed(range(T)):
                step = gamma[n] * discount[t, n]
                error = reward[t, n] + step * v[t + 1, n] - v[t, n] + step * 0.95 * error
                y_hat[t, n, 0] = v[t, n] + error
    return pi_hat, y_hat


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("prediction", KINDS)
def test_targets_are_those_of_the_slow_loop(prediction):
    config, rng = small(prediction), np.random.default_rng(0)
    rule, agent = some_rule(config, rng), some_agent(config, rng)
    found = targets_of(rule, agent, config)
    expected = slow_targets(rule, *agent, config)
    np.testing.assert_allclose(found.policy, expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.prediction, expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("prediction", KINDS)
def test_the_agents_loss_is_equation_2(prediction):
    config, rng = small(prediction), np.random.default_rng(1)
    outputs, action, *_ = some_agent(config, rng)
    outputs = jax.tree.map(lambda x: x[:-1], outputs)
    targets = Targets(rng.normal(size=(T, N)), rng.normal(size=(T, N, config.outputs)))
    total = 0.0
    for t in range(T):
        for n in range(N):
            log_pi = np.log(softmax(outputs.logits[t, n]))[action[t, n]]
            y, y_hat = outputs.prediction[t, n], targets.prediction[t, n]
            if prediction == "distribution":
                y, y_hat = softmax(y), softmax(y_hat)
                distance = sum(p * np.log(p / q) for p, q in zip(y, y_hat))
            else:
                distance = sum((p - q) ** 2 for p, q in zip(y, y_hat))
                distance *= 0.5 if prediction == "value" else 1
            total += -log_pi * targets.policy[t, n] + 0.3 * distance
    found = jax.jit(agent_loss, static_argnums=4)(outputs, targets, action, 0.3, config)
    np.testing.assert_allclose(found, total / (T * N), rtol=1e-10)


@pytest.mark.usefixtures("doubles")
def test_a_rule_that_says_the_advantage_makes_the_policy_gradient():
    """Whatever it predicts: the agent's gradient is A2C's, and that of y is its own."""
    config, rng = small(), np.random.default_rng(2)
    outputs, action, *_ = some_agent(config, rng)
    outputs = jax.tree.map(lambda x: x[:-1], outputs)
    advantage = rng.normal(size=(T, N))
    targets = Targets(advantage, outputs.prediction)
    gradient = jax.jit(jax.grad(agent_loss), static_argnums=4)(
        outputs, targets, action, 0.5, config
    )
    policy = np.apply_along_axis(softmax, -1, outputs.logits)
    expected = -(np.eye(A)[action] - policy) * advantage[..., None] / (T * N)
    np.testing.assert_allclose(gradient.logits, expected, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(gradient.prediction, 0, atol=1e-15)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("prediction", KINDS)
def test_where_a_time_limit_cuts_an_episode_two_rollouts_meet(prediction):
    """The steps before end in the last state, whose y is seen; those after begin by themselves."""
    config, rng = small(prediction), np.random.default_rng(4)
    rule = some_rule(config, rng)
    outputs, action, reward, discount, gamma = some_agent(config, rng)
    cut = 3  # the step in which nothing is done: reward and discount are 0
    reward[cut] = discount[cut] = 0.0
    reset = np.zeros((T, N), bool)
    reset[cut] = True

    def targets(first, last, reset=None):
        states = jax.tree.map(lambda x: x[first : last + 1], outputs)
        steps = (x[first:last] for x in (action, reward, discount))
        return targets_of(rule, (states, *steps, gamma), config, reset)

    found, before, after = targets(0, T, reset), targets(0, cut), targets(cut + 1, T)
    for whole, one, other in zip(found, before, after):
        np.testing.assert_allclose(whole[:cut], one, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(whole[cut + 1 :], other, rtol=1e-9, atol=1e-12)
    ended = targets(0, T)  # as if it were an end: another rule
    assert np.max(np.abs(ended.policy[cut - 1] - found.policy[cut - 1])) > 1e-4


def test_nothing_of_the_next_episode_is_seen():
    """Not the rewards, the policy or the prediction after an end: outputs stay to the last bit."""
    config, rng = small(), np.random.default_rng(3)
    rule, agent = some_rule(config, rng), some_agent(config, rng)
    outputs, action, reward, discount, gamma = agent
    there = np.zeros((T + 1, N, 1))
    there[3:, 1] = 1.0
    other = Outputs(*(x + there for x in outputs))
    before = targets_of(rule, agent, config)
    after = targets_of(rule, (other, action, reward + there[:-1, :, 0], discount, gamma), config)
    for a, b in zip(before, after):
        np.testing.assert_array_equal(a[:3], b[:3])
        assert np.all(a[3:, 1] != b[3:, 1])


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("prediction", KINDS)
def test_derivatives_in_the_rule_and_in_what_it_sees(prediction):
    """Along random directions, against finite differences."""
    config, rng = small(prediction), np.random.default_rng(4)
    rule, (outputs, *rest) = some_rule(config, rng), some_agent(config, rng)
    weight = Targets(rng.normal(size=(T, N)), rng.normal(size=(T, N, config.outputs)))

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(rule, outputs):
        targets = apply_rule(rule, see(outputs, *rest, config), config)
        return sum(jnp.sum(jnp.sin(x) * w) for x, w in zip(targets, weight))

    _, gradient = loss(rule, outputs)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), (rule, outputs))

    def moved(e):
        return loss(*jax.tree.map(lambda x, d: x + e * d, (rule, outputs), direction))[0]

    products = jax.tree.map(np.vdot, gradient, direction)
    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=1e-6)
    for part in (gradient[1].logits, gradient[1].prediction):
        assert np.any(part != 0), "the rule's inputs stay connected"


def test_the_papers_rule_has_so_many_weights():
    """513 + 269,312 + 257 + 7,710 of e, the LSTM and its two heads."""
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    rule = jax.eval_shape(lambda: init_rule(RuleConfig(), KEY))
    assert [count(part) for part in rule] == [513, 269_312, 257, 7_710]
    agent = some_agent(small(), np.random.default_rng(0))
    assert isinstance(jax.eval_shape(lambda: see(*agent, small())), Seen)
    assert RuleConfig(prediction="value").outputs == 1
