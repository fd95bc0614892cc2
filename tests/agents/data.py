"""Random data, small networks and conversions that the tests of `agents` share."""

from __future__ import annotations

import contextlib
import math

import jax
import numpy as np

from bmg.agents.config import NetworkConfig
from bmg.agents.trajectory import Trajectory
from tests.agents import oracle

NUM_STEPS, NUM_ACTIONS, SIZE, NUM_STACK = 4, 3, 4, 2
OBSERVATION_SHAPE = (SIZE, SIZE, NUM_STACK)
TINY = NetworkConfig(torso="mlp", features=6, head_hidden=(5,))
LINEAR = NetworkConfig(torso="mlp", features=6, head_hidden=())  # compiles sooner


@contextlib.contextmanager
def float64():
    """Doubles inside JAX, as finite differences need."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def cast(tree, dtype):
    """Every floating leaf in `dtype`."""
    return jax.tree.map(
        lambda x: np.asarray(x, dtype) if np.issubdtype(x.dtype, np.floating) else np.asarray(x),
        tree,
    )


def random_trajectories(seed: int, batch: int, num_steps: int = NUM_STEPS) -> Trajectory:
    """`batch` unrolls, off-policy, with episode ends, reset steps and rewards beyond the clip."""
    rng = np.random.default_rng(seed)
    shape = (batch, num_steps)
    return Trajectory(
        # Black and white: exact in single precision after their division by 255.
        frames=(255 * rng.integers(0, 2, (batch, NUM_STACK + num_steps, SIZE, SIZE, 1))).astype(
            np.uint8
        ),
        age=rng.integers(0, NUM_STACK, (batch, num_steps + 1)).astype(np.int32),
        action=rng.integers(0, NUM_ACTIONS, shape).astype(np.int32),
        reward=rng.normal(0.0, 1.0, shape).astype(np.float32),
        discount=(rng.random(shape) > 0.15).astype(np.float32),
        reset=np.random.default_rng(seed + 1).random(shape) < 0.15,
        behaviour_logits=rng.normal(0.0, 1.2, (*shape, NUM_ACTIONS)).astype(np.float32),
        episode_return=np.full(shape, np.nan, np.float32),
        parameter_version=np.zeros([batch], np.int32),
    )


def random_params(like, seed: int):
    """Parameters with which policies are far from uniform, and values far from zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0.0, 0.5, x.shape).astype(x.dtype), like)


def params_of(state):
    """The agent's parameters in a learner's state, whichever agent it is."""
    return getattr(state.agent, "inner", state.agent).params


def with_params(state, params):
    """The learner's state with other parameters of the agent."""
    if hasattr(state.agent, "inner"):
        inner = state.agent.inner._replace(params=params)
        return state._replace(agent=state.agent._replace(inner=inner))
    return state._replace(agent=state.agent._replace(params=params))


def as_data(trajectories: Trajectory, is_replay: bool, max_abs_reward: float = 1.0) -> oracle.Data:
    """What the oracle sees of a batch of unrolls; stacks are made by loops."""
    batch, length = trajectories.age.shape
    num_stack = trajectories.frames.shape[1] - length + 1
    s = np.zeros((batch, length, *trajectories.frames.shape[2:4], num_stack))
    for b in range(batch):
        for t in range(length):
            for j in range(num_stack):  # j frames back
                if trajectories.age[b, t] >= j:
                    frame = trajectories.frames[b, num_stack - 1 + t - j, :, :, 0]
                    s[b, t, :, :, num_stack - 1 - j] = frame.astype(np.float32) / np.float32(255)
    return oracle.Data(
        s=s.reshape(batch, length, math.prod(s.shape[2:])),
        a=trajectories.action,
        r=np.clip(trajectories.reward.astype(np.float64), -max_abs_reward, max_abs_reward),
        discount=trajectories.discount.astype(np.float64),
        reset=trajectories.reset,
        nu=trajectories.behaviour_logits.astype(np.float64),
        is_replay=np.full([batch], is_replay),
    )
