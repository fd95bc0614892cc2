"""Leaky V-trace, LASER's mask and the actor-critic loss against slow loops and identities."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

from bmg.agents.actor_critic import reduction_scale, total_loss
from bmg.agents.config import LossConfig
from bmg.agents.losses import (
    Hyperparameters,
    actor_critic_loss,
    behaviour_relevance,
    entropy,
    leaky_vtrace,
    outer_hyperparameters,
)
from bmg.agents.networks import Predictions
from bmg.agents.trajectory import Sequences
from tests.agents import oracle

NUM_STEPS, NUM_ACTIONS = 7, 4


pytestmark = pytest.mark.usefixtures("doubles")


def returns_data(seed: int):
    """v [T + 1], r, gamma, eta, accept [T]: ratios around 1, an episode end, rejected states."""
    rng = np.random.default_rng(seed)
    gamma = 0.97 * np.ones(NUM_STEPS)
    gamma[3] = 0.0
    accept = np.ones(NUM_STEPS)
    accept[[1, 5]] = 0.0
    eta = np.exp(rng.normal(0.0, 1.0, NUM_STEPS))
    assert np.any(eta > 1.2) and np.any(eta < 0.8)
    return rng.normal(size=NUM_STEPS + 1), rng.normal(size=NUM_STEPS), gamma, eta, accept


compiled_vtrace, compiled_relevance = jax.jit(leaky_vtrace), jax.jit(behaviour_relevance)


def vtrace(v, r, gamma, eta, accept, lambda_, alpha, rho_clip=1.0, c_clip=1.0):
    result = compiled_vtrace(v[:-1], v[1:], r, gamma, eta, accept, lambda_, alpha, rho_clip, c_clip)
    return jax.tree.map(np.asarray, result)


@pytest.mark.parametrize("rho_clip, c_clip", [(1.0, 1.0), (1.5, 0.8)])
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_vtrace_is_appendix_c(alpha, lambda_, rho_clip, c_clip):
    v, r, gamma, eta, accept = returns_data(1)
    for mask in (np.ones(NUM_STEPS), accept):
        actual = vtrace(v, r, gamma, eta, mask, lambda_, alpha, rho_clip, c_clip)
        error, rho = oracle.leaky_vtrace(v, r, gamma, eta, mask, lambda_, alpha, rho_clip, c_clip)
        np.testing.assert_allclose(actual.error_tm1, error, rtol=1e-12)
        np.testing.assert_allclose(actual.target_tm1, v[:-1] + error, rtol=1e-12)
        np.testing.assert_allclose(actual.rho_tm1, rho, rtol=1e-12)
        following = np.append(error[1:], 0.0)
        np.testing.assert_allclose(
            actual.one_step_tm1, r + gamma * (v[1:] + following), rtol=1e-12, atol=1e-14
        )


@pytest.mark.rlax
@pytest.mark.parametrize("lambda_", [0.6, 1.0])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_vtrace_is_rlax(alpha, lambda_):
    import rlax

    v, r, gamma, eta, _ = returns_data(2)
    actual = vtrace(v, r, gamma, eta, np.ones(NUM_STEPS), lambda_, alpha)
    expected = rlax.leaky_vtrace(v[:-1], v[1:], r, gamma, eta, alpha, lambda_)
    np.testing.assert_allclose(actual.error_tm1, expected, rtol=1e-9)
    if alpha == 1.0:
        expected = rlax.vtrace(v[:-1], v[1:], r, gamma, eta, lambda_)
        np.testing.assert_allclose(actual.error_tm1, expected, rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_on_policy_vtrace_is_the_n_step_return(alpha):
    """For every alpha, ratios being 1; Eq. 4's G with n reaching to the rollout's end."""
    v, r, gamma, _, _ = returns_data(3)
    ones = np.ones(NUM_STEPS)
    actual = vtrace(v, r, gamma, ones, ones, 1.0, alpha)
    for t in range(NUM_STEPS):
        target, discount = 0.0, 1.0
        for i in range(t, NUM_STEPS):
            target += discount * r[i]
            discount *= gamma[i]
        target += discount * v[NUM_STEPS]
        np.testing.assert_allclose(actual.target_tm1[t], target, rtol=1e-12)
        np.testing.assert_allclose(actual.one_step_tm1[t], target, rtol=1e-12)


def test_a_rejected_state_keeps_its_value_and_ends_traces():
    v, r, gamma, eta, accept = returns_data(4)
    whole = vtrace(v, r, gamma, eta, accept, 1.0, 1.0)
    assert whole.rho_tm1[5] == 0 and whole.rho_tm1[1] == 0
    np.testing.assert_array_equal(whole.target_tm1[[1, 5]], v[[1, 5]])
    # Steps 2, 3, 4 stand alone, bootstrapped from v_5: the same as a rollout that ends there.
    part = slice(2, 5)
    alone = vtrace(v[2:6], r[part], gamma[part], eta[part], np.ones(3), 1.0, 1.0)
    np.testing.assert_allclose(whole.target_tm1[part], alone.target_tm1, rtol=1e-12)


# LASER


@pytest.mark.parametrize("rho_clip", [1.0, 3.5])
def test_relevance_is_its_definition(rho_clip):
    rng = np.random.default_rng(5)
    logits, behaviour = rng.normal(0, 2, (2, 50, NUM_ACTIONS))
    expected = [
        oracle.relevance(oracle.softmax(p), oracle.softmax(m), rho_clip)
        for p, m in zip(logits, behaviour)
    ]
    assert min(expected) < 0.1 and max(expected) > 1
    actual = compiled_relevance(logits, behaviour, rho_clip)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_relevance_of_extremes():
    """Zero where V-trace loses nothing, large where the behaviour never did what pi does."""
    rng = np.random.default_rng(6)
    policy = rng.normal(0, 2, (1, NUM_ACTIONS))
    uniform = np.zeros((1, NUM_ACTIONS))
    deterministic = np.array([[30.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(compiled_relevance(policy, policy, 1.0), 0.0, atol=1e-14)
    np.testing.assert_allclose(compiled_relevance(policy + 3.0, policy, 1.0), 0.0, atol=1e-14)
    np.testing.assert_allclose(compiled_relevance(deterministic, uniform, 1.0), 0.0, atol=1e-10)
    # pi uniform: sum_a 1/4 log(pi / mu) of the three others, each e^-30, and log Z = log 1/4.
    expected = 0.75 * (30.0 - np.log(4.0)) - np.log(4.0)
    actual = compiled_relevance(uniform, deterministic, 1.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


# The loss


def sequence_data(seed: int, is_replay: bool, reset_at: int = -1):
    """One rollout and predictions for it, both [T + 1], as the agent and the oracle take them."""
    rng = np.random.default_rng(seed)
    sharpness = rng.uniform(0.1, 3.0, (NUM_STEPS + 1, 1))
    logits = sharpness * rng.normal(size=(NUM_STEPS + 1, NUM_ACTIONS))
    behaviour = logits[:-1] + rng.normal(0, 1.2, (NUM_STEPS, NUM_ACTIONS))
    values = rng.normal(size=NUM_STEPS + 1)
    discount = np.ones(NUM_STEPS)
    discount[3] = 0.0
    action = rng.integers(0, NUM_ACTIONS, NUM_STEPS).astype(np.int32)
    reward = rng.normal(size=NUM_STEPS)
    reset = np.arange(NUM_STEPS) == reset_at
    sequence = Sequences(
        discount, action, reward, discount, reset, behaviour, np.asarray(is_replay)
    )
    tau = oracle.Data(None, action, reward, discount, reset, behaviour, is_replay)
    return Predictions(logits, values), sequence, tau


HYPER = oracle.Hyper(0.97, 0.9, 0.6, 0.8, 0.05, 0.3)
CONFIG = LossConfig(laser_threshold=0.3)


@functools.lru_cache(None)
def compiled_loss(config):
    return jax.jit(functools.partial(actor_critic_loss, config=config))


def loss_of(predictions, bootstrap, sequence, config, hyper=HYPER):
    return compiled_loss(config)(predictions, bootstrap, Hyperparameters(*hyper), sequence)


@functools.lru_cache(None)
def compiled_gradient(config, argument=0, term="total"):
    def loss(*arguments):
        return getattr(actor_critic_loss(*arguments, config), term)

    return jax.jit(jax.grad(loss, argnums=argument))


def gradient_of(predictions, sequence, config, **what):
    """Of a term of the loss; the predictions are the bootstrap as well."""
    hyper = Hyperparameters(*HYPER)
    gradient = compiled_gradient(config, **what)(predictions, predictions, hyper, sequence)
    return jax.tree.map(np.asarray, gradient)


@pytest.mark.parametrize("advantage", ["target", "one_step"])
@pytest.mark.parametrize("is_replay", [False, True])
def test_gradient_is_eq_4(is_replay, advantage):
    """Hand-written semi-gradient in logits and values; nothing else is differentiated."""
    config = dataclasses.replace(CONFIG, advantage=advantage)
    fixed = oracle.Fixed(threshold=0.3, advantage=advantage)
    for seed in range(4):
        predictions, sequence, tau = sequence_data(seed, is_replay, reset_at=2 * seed)
        gradient = gradient_of(predictions, sequence, config)
        logits, values = oracle.prediction_gradient(*predictions, HYPER, tau, fixed)
        np.testing.assert_allclose(gradient.logits, logits / NUM_STEPS, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(gradient.value, values / NUM_STEPS, rtol=1e-9, atol=1e-13)
        assert np.all(gradient.logits[-1] == 0) and gradient.value[-1] == 0


def test_the_bootstrap_argument_is_not_detached():
    """Nothing is stopped inside: the full derivative differs from the semi-gradient."""
    predictions, sequence, _ = sequence_data(0, False)
    gradient = gradient_of(predictions, sequence, CONFIG, argument=1)
    assert np.all(gradient.value != 0)
    assert np.any(gradient.logits != 0)


def test_terms_are_the_losses_of_eq_4():
    for seed in range(4):
        predictions, sequence, tau = sequence_data(seed, True, reset_at=2 * seed)
        terms = loss_of(predictions, predictions, sequence, CONFIG)
        logits, v = predictions
        pi, mu = oracle.softmax(logits[:-1]), oracle.softmax(tau.nu)
        steps = np.arange(NUM_STEPS)
        eta = pi[steps, tau.a] / mu[steps, tau.a]
        accept = np.array([oracle.relevance(p, m) < 0.3 for p, m in zip(pi, mu)], float)
        accept[2 * seed] = 0.0
        error, rho = oracle.leaky_vtrace(
            v, tau.r, 0.97 * tau.discount, eta, accept, HYPER.lambda_, HYPER.alpha
        )
        entropies = -np.sum(pi * np.log(pi), axis=-1)
        limited = np.minimum(entropies, 0.9 * np.log(NUM_ACTIONS))
        expected = {
            "policy": -np.mean(rho * np.log(pi[steps, tau.a]) * error),
            "entropy": -np.mean(accept * limited),
            "value": np.mean(accept * 0.5 * error**2),
            "policy_entropy": np.mean(entropies),
            "rho": np.mean(rho),
            "clipped_ratio": np.mean(eta > 1),
            "accepted": np.mean(accept),
            "advantage": np.mean(error),
        }
        expected["total"] = 0.8 * expected["policy"] + 0.05 * expected["entropy"]
        expected["total"] += 0.3 * expected["value"]
        assert set(expected) == set(terms._fields)
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(terms, name), value, rtol=1e-6, err_msg=name)


def test_only_replayed_states_are_rejected():
    online, replayed = (sequence_data(1, is_replay) for is_replay in (False, True))
    accepted = [loss_of(p, p, s, CONFIG).accepted for p, s, _ in (online, replayed)]
    assert accepted[0] == 1 and 0 < accepted[1] < 1
    wide = dataclasses.replace(CONFIG, laser_threshold=1e3)
    predictions, sequence, _ = replayed
    assert loss_of(predictions, predictions, sequence, wide).accepted == 1


def test_a_rejected_state_has_no_gradient_of_its_own():
    """Nor is the mean taken over the accepted states alone."""
    predictions, sequence, tau = sequence_data(1, True)
    pi, mu = oracle.softmax(predictions.logits[:-1]), oracle.softmax(tau.nu)
    rejected = np.array([oracle.relevance(p, m) >= 0.3 for p, m in zip(pi, mu)])
    assert 0 < np.sum(rejected) < NUM_STEPS
    gradient = gradient_of(predictions, sequence, CONFIG)
    assert np.all(gradient.logits[:-1][rejected] == 0)
    assert np.all(gradient.value[:-1][rejected] == 0)
    assert np.all(gradient.value[:-1][~rejected] != 0)


@pytest.mark.parametrize("advantage", ["target", "one_step"])
def test_a_time_limit_is_bootstrapped_through_and_nothing_leaks_over_it(advantage):
    """An episode is cut in state 3, another begins in state 4: what is learned of states 0 to 2 is
    what is learned of them where the rollout ends in state 3, and of state 3 nothing."""
    config = dataclasses.replace(CONFIG, advantage=advantage)
    predictions, sequence, _ = sequence_data(3, False, reset_at=3)
    sequence = sequence._replace(discount=np.array([1, 1, 1, 0, 1, 1, 1.0]))
    whole = gradient_of(predictions, sequence, config)
    short = gradient_of(
        jax.tree.map(lambda x: x[:4], predictions),
        jax.tree.map(lambda x: x[:3] if np.ndim(x) else x, sequence),
        config,
    )
    for found, expected in zip(whole, short):
        np.testing.assert_allclose(found[:3], 3 / NUM_STEPS * expected[:3], rtol=1e-12)
        assert np.all(found[:3] != 0) and np.all(found[3] == 0) and np.all(found[4:-1] != 0)


@pytest.mark.parametrize("max_entropy, expects_gradient", [(0.9, False), (1.0, True)])
def test_no_entropy_bonus_above_the_limit(max_entropy, expects_gradient):
    """Entropies of 0.95 log|A| and more: the bonus has exactly no gradient; below it has one."""
    predictions, sequence, _ = sequence_data(2, False)
    config = dataclasses.replace(CONFIG, max_entropy=max_entropy)
    flat = predictions._replace(logits=0.1 * predictions.logits)
    entropies = jax.jit(entropy)
    assert np.all(np.asarray(entropies(flat.logits)) > 0.95 * np.log(NUM_ACTIONS))
    sharp = predictions._replace(logits=5.0 * predictions.logits)

    def gradient(at):
        return gradient_of(at, sequence, config, term="entropy").logits[:-1]

    assert np.any(gradient(flat) != 0) == expects_gradient
    below = np.asarray(entropies(sharp.logits))[:-1] < 0.85 * np.log(NUM_ACTIONS)
    assert np.any(below)
    assert np.all(np.any(gradient(sharp)[below] != 0, axis=-1))


def test_outer_hyperparameters_are_table_2():
    np.testing.assert_allclose(
        outer_hyperparameters(LossConfig()), [0.995, 1.0, 1.0, 1.0, 0.01, 0.25], rtol=1e-6
    )


def test_total_is_the_sum_over_tasks_and_the_mean_over_the_batch():
    """And `reduction_scale` turns it into the sum over batch and time."""
    batch = [sequence_data(seed, seed > 1) for seed in range(3)]
    hypers = [HYPER, oracle.Hyper(0.9, 0.5, 1.0, 0.1, 0.02, 0.7)]
    sequences = jax.tree.map(lambda *x: np.stack(x), *(s for _, s, _ in batch))
    per_task = jax.tree.map(lambda *x: np.stack(x), *(p for p, _, _ in batch))
    predictions = jax.tree.map(lambda x: np.stack([x, 0.5 * x]), per_task)
    hyper = Hyperparameters(*(np.array(x) for x in zip(*hypers)))
    compute = jax.jit(functools.partial(total_loss, config=CONFIG))
    total, terms = compute(predictions, predictions, hyper, sequences)
    expected = []
    for task, scale in enumerate((1.0, 0.5)):
        p = [jax.tree.map(lambda x, s=scale: s * x, p) for p, _, _ in batch]
        losses = [loss_of(p[b], p[b], batch[b][1], CONFIG, hypers[task]).total for b in range(3)]
        expected.append(np.mean(losses))
    np.testing.assert_allclose(terms.total, expected, rtol=1e-12)
    np.testing.assert_allclose(total, np.sum(expected), rtol=1e-12)
    assert reduction_scale(CONFIG, sequences, None) == 1
    summed = dataclasses.replace(CONFIG, reduction="sum")
    assert reduction_scale(summed, sequences, None) == 3 * NUM_STEPS
