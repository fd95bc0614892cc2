"""The Markov reward process of ten states, whose odd states have rewards of noise only.

    s_0 -> s_1 -> ... -> s_9 -> end        r_i = 0.1 for even i, a draw of N(0, 1) for odd i

There are no actions to choose: an episode is its ten rewards, and then the next one begins. It
keeps the protocol of `in_graph`; of a shorter process the last states are never reached.

References:
  Xu et al., "Meta-Gradient Reinforcement Learning", NeurIPS 2018.
  Bonnet et al., "One Step at a Time", 2021, appendix B.1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmg.environments.in_graph import Transition

NUM_STATES = 10  # of the longest process
NUM_ACTIONS = 1  # which changes nothing
OBSERVATION_SHAPE = (1,)
EVEN_REWARD = 0.1


class Params(NamedTuple):
    """A variant."""

    length: jax.Array  # int32 [], states of an episode, 2 ... 10
    even_reward: jax.Array  # float32 []
    noise: jax.Array  # float32 [], standard deviation of the odd states' rewards


def make_params(
    length: int = NUM_STATES, even_reward: float = EVEN_REWARD, noise: float = 1.0
) -> Params:
    """The papers' variant, or another."""
    return Params(jnp.int32(length), jnp.asarray(even_reward, float), jnp.asarray(noise, float))


def reset(params: Params, key: jax.Array) -> jax.Array:
    """The first state: int32 []."""
    del params, key
    return jnp.int32(0)


def draw(params: Params, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Noise of each step's reward, of a standard deviation of 1: float32 [*shape]."""
    del params
    return jax.random.normal(key, shape)


def _reward(params: Params, state: jax.Array, random: jax.Array) -> jax.Array:
    return jnp.where(state % 2 == 0, params.even_reward, params.noise * random)


def step(
    params: Params, state: jax.Array, action: jax.Array, random: jax.Array
) -> tuple[jax.Array, Transition]:
    """To the next state; see `in_graph.Environment`."""
    del action
    reward = _reward(params, state, random)
    ended = state == params.length - 1
    after = jnp.where(ended, 0, state + 1)
    return after, Transition(reward, 1.0 - ended.astype(reward.dtype))


def observe(params: Params, state: jax.Array) -> jax.Array:
    """The state's number, scaled to [0, 1]: float32 [1]."""
    return (state / (params.length - 1))[..., None]


def episodes(params: Params, key: jax.Array, number: int) -> jax.Array:
    """The rewards of so many episodes, all steps at once: float32 [number, 10]; 0 after an
    episode's end."""
    states = jnp.arange(NUM_STATES)
    rewards = _reward(params, states, draw(params, key, (number, NUM_STATES)))
    return jnp.where(states < params.length, rewards, 0.0)


def true_values(params: Params) -> np.ndarray:
    """Expected undiscounted sum of rewards from each state on: float32 [10]."""
    states = np.arange(NUM_STATES)
    expected = np.where((states % 2 == 0) & (states < params.length), params.even_reward, 0.0)
    return np.cumsum(expected[::-1])[::-1].astype(np.float32)
