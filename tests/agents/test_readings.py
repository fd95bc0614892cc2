"""The sizes of meta-gradients under each reading are those of the agent that has the reading."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax
import pytest

from bmg.agents import readings
from bmg.agents.agent import Spec
from bmg.agents.config import AgentConfig, MetaConfig, NetworkConfig, OptimizerConfig
from bmg.agents.factory import make_agent
from bmg.agents.readings import READINGS, Reading
from tests.learner import fakes

CONFIG = AgentConfig(
    network=NetworkConfig(torso="mlp", features=8, head_hidden=()),
    optimizer=OptimizerConfig(decay_frames=0),
    meta=MetaConfig(auxiliary_tasks=1),
)
SPEC = Spec(fakes.OBSERVATION_SHAPE, fakes.NUM_ACTIONS)


# One of each choice, in two programs instead of four.
AMONG = [Reading("mean", "mean", True), Reading("mean", "sum", True),
         Reading("sum", "mean", False), Reading("sum", "sum", False)]  # fmt: skip


@pytest.fixture(scope="module")
def measured(quick_compilation):
    state = jax.jit(make_agent(CONFIG, SPEC).init)(jax.random.PRNGKey(2))
    params = jax.tree.map(lambda x: 2.0 * np.asarray(x), state.inner.params)
    state = state._replace(inner=state.inner._replace(params=params))
    batches = [fakes.update_batch(seed, num_extra=0) for seed in range(4)]
    return state, batches, readings.measure(CONFIG, SPEC, state, batches, among=AMONG)


@pytest.mark.heavy
@pytest.mark.parametrize(("reading", "objective"), [
    (Reading("mean", "sum", True), "kl_value"), (Reading("mean", "sum", True), "l2_norm"),
    (Reading("sum", "mean", False), "kl_value"), (Reading("sum", "mean", False), "stacx"),
])  # fmt: skip
def test_a_size_is_that_of_an_agent_with_the_reading(measured, reading, objective):
    """Its own options give the factors of sums and roots that are worked out afterwards."""
    state, batches, sizes = measured
    meta = dataclasses.replace(CONFIG.meta, matching_reduction=reading.matching)
    if objective != "stacx":
        meta = dataclasses.replace(meta, matching=objective)
    config = dataclasses.replace(
        CONFIG,
        algorithm="stacx" if objective == "stacx" else "bmg",
        loss=dataclasses.replace(CONFIG.loss, reduction=reading.loss),
        optimizer=dataclasses.replace(CONFIG.optimizer, epsilon_in_root=reading.epsilon_in_root),
        meta=meta,
    )
    agent = make_agent(config, SPEC)
    key = jax.random.PRNGKey(0)
    update = jax.jit(lambda state, batch: agent.update(state, batch, 0.0, key))
    first = state._replace(
        inner=state.inner._replace(
            opt_state=optax.tree.set(
                state.inner.opt_state,
                nu=jax.tree.map(np.zeros_like, optax.tree.get(state.inner.opt_state, "nu")),
            )
        )
    )
    squares = [optax.tree.get(update(first, b)[0].inner.opt_state, "nu") for b in batches]
    nu = jax.tree.map(lambda *x: np.mean(x, axis=0) / 0.01, *squares)
    opt_state = optax.tree.set(state.inner.opt_state, nu=nu)
    start = state._replace(inner=state.inner._replace(opt_state=opt_state))
    gradients = np.stack(
        [np.concatenate(update(start, b)[0].meta.gradient) for b in batches]
    ).astype(np.float64)
    size = sizes[reading, objective]
    norms = np.linalg.norm(gradients, axis=1)
    np.testing.assert_allclose(size.norm, norms.mean(), rtol=2e-3)
    centred = gradients - gradients.mean(0)
    np.testing.assert_allclose(size.variance, np.sum(centred**2) / 3, rtol=5e-3)
    cosines = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
               for a, b in zip(gradients, gradients[1:])]  # fmt: skip
    np.testing.assert_allclose(size.cosine, np.mean(cosines), atol=2e-3)
    root = np.sqrt((gradients**2).mean(0).max())
    np.testing.assert_allclose(size.step_share, root / (root + 1e-4), rtol=2e-3)


@pytest.mark.heavy
def test_every_reading_and_objective_is_there_and_the_state_is_left_alone(measured):
    _, _, sizes = measured
    assert len(set(READINGS)) == 8 and set(AMONG) < set(READINGS)
    assert set(sizes) == {(r, o) for r in AMONG for o in readings.OBJECTIVES}
    for reading in AMONG:
        other = reading._replace(matching="sum" if reading.matching == "mean" else "mean")
        assert sizes[reading, "stacx"] == sizes[other, "stacx"]
        assert sizes[reading, "l2"] == sizes[other, "l2"]
        ratio = sizes[reading._replace(matching="sum"), "kl"].norm
        ratio /= sizes[reading._replace(matching="mean"), "kl"].norm
        assert ratio == pytest.approx(6 * 6), "6 unrolls of 5 steps, and the last states"
