"""Meta-gradients of STACX and BMG against finite differences of an oracle that shares no code.

What is differentiated in the oracle is the whole meta-loss: K agent steps with hand-written
semi-gradients, clip and RMSProp, then the outer loss or the matching function, the target held
fixed at the unperturbed meta-parameters.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from bmg.agents.agent import Spec
from bmg.agents.config import AgentConfig, LossConfig, MetaConfig, OptimizerConfig
from bmg.agents.factory import make_agent
from bmg.agents.losses import Hyperparameters
from bmg.agents.trajectory import UpdateBatch
from bmg.learner.guard import guarded
from tests.agents import oracle
from tests.agents.data import (
    LINEAR,
    NUM_ACTIONS,
    OBSERVATION_SHAPE,
    TINY,
    as_data,
    cast,
    float64,
    random_params,
    random_trajectories,
)

# Numbers that single precision holds exactly, wherever the agent may round its constants.
P = oracle.Hyper(gamma=255 / 256, lambda_=1.0, alpha=1.0, e_pg=1.0, e_en=1 / 64, e_td=0.25)
THRESHOLD = 0.4  # low, so that some replayed states are rejected
LOSS = LossConfig(discount=255 / 256, entropy_cost=1 / 64, laser_threshold=THRESHOLD)
OPTIMIZER = OptimizerConfig(learning_rate=1 / 64, decay_frames=0, max_norm=0.3)
NUM_ONLINE, NUM_REPLAY = 2, 4


def agent_config(
    algorithm: str, loss=LOSS, optimizer=OPTIMIZER, network=LINEAR, **meta
) -> AgentConfig:
    return AgentConfig(
        algorithm=algorithm, network=network, loss=loss, optimizer=optimizer,
        meta=MetaConfig(**meta),
    )  # fmt: skip


def fixed_of(config: AgentConfig) -> tuple[oracle.Fixed, oracle.Rms]:
    """The oracle's constants."""
    loss, opt = config.loss, config.optimizer
    fixed = oracle.Fixed(
        threshold=loss.laser_threshold, advantage=loss.advantage, reduction=loss.reduction
    )
    rate = opt.learning_rate
    return fixed, oracle.Rms(rate, opt.decay, opt.epsilon, opt.max_norm, opt.epsilon_in_root)


def initial_w() -> np.ndarray:
    """[n, 6], a different logit for each meta-parameter."""
    return np.random.default_rng(5).normal(0.7, 0.7, (3, 6))


def trajectories(index: int):
    """The online batch (0), its replay batch (1) and the extra replay batches (2, 3, ...)."""
    return random_trajectories(100 + index, NUM_ONLINE if index == 0 else NUM_REPLAY)


def agent_of(config: AgentConfig):
    return make_agent(config, Spec(OBSERVATION_SHAPE, NUM_ACTIONS))


@functools.lru_cache(None)
def initial_state(config: AgentConfig):
    """A state in the middle of learning, in doubles: sharp policies, second moments not zero."""
    like = jax.eval_shape(guarded(agent_of(config), 8).init, np.zeros(2, np.uint32)).agent
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    rng = np.random.default_rng(2)
    opt_state = jax.tree.map(lambda x: rng.uniform(0.0, 2e-4, x.shape), state.inner.opt_state)
    inner = state.inner._replace(params=random_params(like.inner.params, 16), opt_state=opt_state)
    w = Hyperparameters(*initial_w().T)
    return cast(state._replace(inner=inner, meta=state.meta._replace(params=w)), np.float64)


@functools.lru_cache(None)
def compiled(config: AgentConfig):
    update = agent_of(config).update
    return jax.jit(lambda state, batch: update(state, batch, 0.0, jax.random.PRNGKey(0)))


@functools.lru_cache(None)
def run(config: AgentConfig, perturbed: int | None = None):
    """One update in doubles, as numpy; `perturbed` names a batch whose rewards are changed."""
    batches = [trajectories(i) for i in range(2 + agent_of(config).num_extra_batches)]
    if perturbed is not None:
        batches[perturbed] = batches[perturbed]._replace(reward=0.5 - batches[perturbed].reward)
    batches = [cast(b, np.float64) for b in batches]
    with float64():
        state, metrics = compiled(config)(
            initial_state(config), UpdateBatch(batches[0], batches[1], tuple(batches[2:]))
        )
        return jax.tree.map(np.asarray, (state, metrics))


class Expected(NamedTuple):
    """The oracle's update."""

    loss: float
    meta_gradient: np.ndarray  # [n, 6]
    agent: tuple  # (u, h) that the agent goes on from
    target: tuple | None  # the target's (u, h)


def second_moment(state):
    """RMSProp's accumulator out of the optimiser's state."""
    (nu,) = (part.nu for part in state.inner.opt_state if hasattr(part, "nu"))
    return nu


def expected_update(config: AgentConfig) -> Expected:
    """Composes the update step by step, each extra batch named for the one step that uses it."""
    meta, state = config.meta, initial_state(config)
    u, h = state.inner.params, second_moment(state)
    online, replay = as_data(trajectories(0), False), as_data(trajectories(1), True)
    extra = [as_data(trajectories(2 + i), True) for i in range(agent_of(config).num_extra_batches)]
    tau = oracle.join(online, replay)
    inner = [extra.pop(0) for _ in range(meta.inner_steps - 1)] + [tau]
    is_bmg = config.algorithm == "bmg"
    for_target = [extra.pop(0) for _ in range(meta.target_steps - 1)] if is_bmg else []
    assert len(extra) == meta.extra_replay_batches
    tau_objective = oracle.join(tau, *extra)
    w0 = initial_w()
    fixed, rms = fixed_of(config)

    def agent(w):
        return oracle.unroll(u, h, oracle.learned(w, P), inner, fixed, rms)

    target = None
    if is_bmg:
        bootstrap = oracle.unroll(*agent(w0), oracle.learned(w0, P), for_target, fixed, rms)
        tau_final = tau_objective
        if meta.final_data == "replay":
            tau_final = oracle.join(replay, *extra)
        hypers = oracle.learned(w0, P) if meta.final_objective == "learned" else [P]
        g = oracle.gradient(bootstrap[0], hypers, tau_final, fixed)
        if meta.target_optimizer == "sgd" and meta.final_objective == "outer":
            target = oracle.sgd_step(bootstrap[0], g, meta.sgd_target_rate), bootstrap[1]
        else:
            target = oracle.rms_step(*bootstrap, g, rms)

        def meta_loss(w):
            return oracle.match(
                meta.matching, target[0], agent(w)[0], tau_objective,
                reduction=meta.matching_reduction,
            )  # fmt: skip

    else:
        # The gradient in u(w) is the semi-gradient: targets and ratios stay at the unperturbed w.
        constants = agent(w0)[0]

        def meta_loss(w):
            updated = agent(w)[0]
            value = oracle.outer_value(updated, P, tau_objective, constants, fixed)
            if meta.stacx_kl_weight:
                new = oracle.softmax(oracle.predict(updated, tau_objective.s)[0])
                old = oracle.softmax(oracle.predict(u, tau_objective.s)[0])
                value += meta.stacx_kl_weight * np.mean(oracle.kl(new, old))
            return value

    continued = agent(w0)
    if meta.continuation == "target":
        continued = target
    gradient = oracle.finite_differences(meta_loss, w0)
    return Expected(meta_loss(w0), gradient, continued, target)


def assert_trees_close(actual, expected, **tolerance):
    assert actual.keys() == expected.keys()
    for name in expected:
        for k in expected[name]:
            np.testing.assert_allclose(
                actual[name][k], expected[name][k], err_msg=f"{name}/{k}", **tolerance
            )


def meta_gradient(state) -> np.ndarray:
    """[n, 6]."""
    return np.stack(state.meta.gradient, axis=1)


def assert_same_agent(actual, expected):
    """Parameters and optimiser state, to the last digits of a double."""
    for a, b in zip(jax.tree.leaves(actual.inner), jax.tree.leaves(expected.inner)):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


STACX = agent_config("stacx")
BMG = agent_config("bmg")
SUM = dataclasses.replace(LOSS, reduction="sum")
# Each choice is in one case at least, and several are in some: a program compiles for seconds.
CASES = {
    "stacx": STACX,
    "stacx K=2, kl, more data": agent_config(
        "stacx", inner_steps=2, stacx_kl_weight=1.0, extra_replay_batches=1
    ),
    "stacx K=2 plain, sum": agent_config("stacx", SUM, inner_steps=2, differentiation="plain"),
    "bmg kl_value": BMG,
    "bmg, hidden layers": agent_config("bmg", network=TINY),
    "bmg kl, sgd": agent_config("bmg", matching="kl", target_optimizer="sgd"),
    "bmg reverse_kl, one_step": agent_config(
        "bmg", dataclasses.replace(LOSS, advantage="one_step"), matching="reverse_kl"
    ),
    "bmg symmetric_kl summed, more data": agent_config(
        "bmg", matching="symmetric_kl", matching_reduction="sum", extra_replay_batches=1
    ),
    "bmg value, epsilon outside": agent_config(
        "bmg",
        optimizer=dataclasses.replace(OPTIMIZER, epsilon_in_root=False, epsilon=1e-2),
        matching="value",
    ),
    "bmg l2_norm, sum, unclipped": agent_config(
        "bmg", SUM, dataclasses.replace(OPTIMIZER, max_norm=1e4), matching="l2_norm"
    ),
    "bmg K=2 L=2, more data": agent_config(
        "bmg", inner_steps=2, target_steps=2, extra_replay_batches=1
    ),
    "bmg R, summed": agent_config(
        "bmg", final_data="replay", target_steps=2, matching_reduction="sum"
    ),
    "bmg w, L=3": agent_config("bmg", final_objective="learned", target_steps=3),
    "bmg l2 DB": agent_config("bmg", matching="l2", continuation="target", target_steps=2),
}


@pytest.mark.parametrize("name", ["bmg kl_value", "bmg, hidden layers"])
def test_the_data_exercises_every_branch(name):
    """Ratios on both sides of 1, states accepted and rejected, entropies around the limit."""
    u, s = initial_state(CASES[name]).inner.params, as_data(trajectories(1), True)
    for task in range(3):
        logits, _ = oracle.predict(u, s.s[:, :-1], task)
        pi, mu = oracle.softmax(logits), oracle.softmax(s.nu)
        kls = [oracle.relevance(*x) for x in zip(pi.reshape(-1, 3), mu.reshape(-1, 3))]
        assert 0 < np.mean(np.array(kls) < THRESHOLD) < 1
        eta = np.take_along_axis(pi / mu, s.a[..., None], -1)
        assert 0 < np.mean(eta > 1) < 1
        entropy = -np.sum(pi * np.log(pi), -1)
        assert 0 < np.mean(entropy < 0.9 * np.log(NUM_ACTIONS)) < 1
    assert 0 < np.mean(s.discount) < 1


@pytest.mark.heavy
@pytest.mark.parametrize("name", CASES)
def test_meta_gradient_is_the_finite_difference(name):
    """All 18: none is zero, each through the update alone, the target being constant."""
    config = CASES[name]
    state, metrics = run(config)
    expected = expected_update(config)
    actual = meta_gradient(state)
    loss = metrics["meta/matching_loss" if config.algorithm == "bmg" else "meta/outer_loss"]
    # With epsilon outside the root, a tiny constant of the agent's own stands inside.
    rtol = 1e-10 if config.optimizer.epsilon_in_root else 1e-6
    np.testing.assert_allclose(loss, expected.loss, rtol=rtol)
    scale = np.max(np.abs(actual))
    assert np.min(np.abs(actual)) > 1e-7 * scale, actual
    np.testing.assert_allclose(actual, expected.meta_gradient, rtol=1e-6, atol=1e-9 * scale)
    u, h = expected.agent
    assert_trees_close(state.inner.params, u, rtol=rtol, atol=1e-3 * rtol)
    assert_trees_close(second_moment(state), h, rtol=rtol, atol=1e-16)


@pytest.mark.heavy
def test_both_clipped_and_unclipped_updates_are_tested():
    assert run(BMG)[1]["learner/gradient_clipped"] == 1
    assert run(CASES["bmg l2_norm, sum, unclipped"])[1]["learner/gradient_clipped"] == 0


@pytest.mark.heavy
def test_l2_and_half_an_sgd_step_is_stacx():
    """Appendix C.1: |u~ - u(w)|^2 with u~ = u - grad f / 2 has STACX's meta-gradient."""
    bmg, _ = run(agent_config("bmg", matching="l2", target_optimizer="sgd", sgd_target_rate=0.5))
    stacx, _ = run(STACX)
    np.testing.assert_allclose(meta_gradient(bmg), meta_gradient(stacx), rtol=1e-9)
    np.testing.assert_allclose(bmg.meta.params, stacx.meta.params, rtol=1e-12)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["bmg kl_value", "bmg w, L=3", "bmg R, summed"])
def test_the_target_leaves_the_agent_alone(name):
    """Agent and optimiser state after BMG are those after STACX, for every L and target."""
    assert_same_agent(run(CASES[name])[0], run(STACX)[0])


@pytest.mark.heavy
def test_db_continues_from_the_target():
    state = run(CASES["bmg l2 DB"])[0]
    u, h = expected_update(CASES["bmg l2 DB"]).target
    assert_trees_close(state.inner.params, u, rtol=1e-10, atol=1e-13)
    assert_trees_close(second_moment(state), h, rtol=1e-10, atol=1e-16)
    updated = run(BMG)[0].inner.params["torso/projection"]["w"]
    assert np.max(np.abs(state.inner.params["torso/projection"]["w"] - updated)) > 1e-4


@pytest.mark.heavy
def test_ns_updates_the_agent_again_under_the_new_meta_parameters():
    """Meta-steps of 1 make the new meta-parameters tell."""
    config = agent_config("stacx", continuation="recomputed", inner_steps=2, learning_rate=1.0)
    state, start = run(config)[0], initial_state(config)
    w = np.stack(state.meta.params, axis=1)
    assert np.min(np.abs(w - initial_w())) > 1e-6
    first = as_data(trajectories(2), True)
    last = oracle.join(as_data(trajectories(0), False), as_data(trajectories(1), True))

    def updated(w):
        return oracle.unroll(
            start.inner.params, second_moment(start), oracle.learned(w, P), (first, last),
            *fixed_of(config),
        )  # fmt: skip

    u, h = updated(w)
    assert_trees_close(state.inner.params, u, rtol=1e-10, atol=1e-13)
    assert_trees_close(second_moment(state), h, rtol=1e-10, atol=1e-16)
    before, _ = updated(initial_w())
    assert np.max(np.abs(u["torso/projection"]["w"] - before["torso/projection"]["w"])) > 1e-5


@pytest.mark.heavy
def test_each_batch_reaches_the_steps_that_use_it():
    """K = 2, L = 2 and one more objective batch: extra batch 0 is the first agent step's, 1 the
    first target step's, 2 the final target step's and the matching's."""
    config = CASES["bmg K=2 L=2, more data"]
    state, metrics = run(config)
    for batch in (0, 1, 2):  # online, replay, the first agent step's
        changed, _ = run(config, perturbed=batch)
        name = "torso/projection"
        difference = changed.inner.params[name]["w"] - state.inner.params[name]["w"]
        assert np.max(np.abs(difference)) > 1e-5
    for batch in (3, 4):
        changed, changed_metrics = run(config, perturbed=batch)
        assert_same_agent(changed, state)
        assert np.min(np.abs(meta_gradient(changed) / meta_gradient(state) - 1)) > 1e-6
        loss, changed_loss = metrics["meta/matching_loss"], changed_metrics["meta/matching_loss"]
        assert abs(changed_loss / loss - 1) > 1e-4


def test_the_entropy_cost_has_no_meta_gradient_above_the_limit():
    """Near-uniform policies, as of a fresh network: nothing else may be zero."""
    start = initial_state(BMG)
    flat = {
        name: {k: x / 100 if "policy" in name else x for k, x in layer.items()}
        for name, layer in start.inner.params.items()
    }
    gradient = meta_gradient(update_from(start._replace(inner=start.inner._replace(params=flat))))
    entropy_cost = Hyperparameters._fields.index("entropy_cost")
    assert np.all(gradient[:, entropy_cost] == 0)
    assert np.all(np.delete(gradient, entropy_cost, axis=1) != 0)


def test_alpha_has_no_meta_gradient_on_policy():
    """Of the main task, whose policy acted: every ratio is 1, and mixing changes nothing."""
    start, batches = initial_state(BMG), [trajectories(0), trajectories(1)]
    for i, is_replay in enumerate((False, True)):
        s = as_data(batches[i], is_replay).s[:, :-1]
        batches[i] = batches[i]._replace(behaviour_logits=oracle.predict(start.inner.params, s)[0])
    gradient = meta_gradient(update_from(start, batches))
    alpha = Hyperparameters._fields.index("alpha")
    scale = np.max(np.abs(gradient))
    assert abs(gradient[0, alpha]) < 1e-12 * scale
    assert np.all(np.abs(gradient[1:, alpha]) > 1e-7 * scale)


def update_from(state, batches=None):
    """One BMG update in doubles from `state`."""
    batches = batches or [trajectories(0), trajectories(1)]
    online, replay = (cast(b, np.float64) for b in batches)
    with float64():
        new_state, _ = compiled(BMG)(state, UpdateBatch(online, replay, ()))
        return jax.tree.map(np.asarray, new_state)
