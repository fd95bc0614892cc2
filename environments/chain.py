"""Delayed chains: the first of many choices decides what the last step pays.

    right   o - o - o - ... - o   +1      Which of the two actions is right is drawn for each
           /                              episode, and the first state tells. Whatever is done after
    start                                 the first step changes nothing. All steps have the same
           \\                             number of states; with noise, all but the first and the
    wrong   o - o - o - ... - o   -1      last pay +1 or -1 by chance.

A state has a number, and 22 bits: whether action 0 is right, whether the right one was chosen (0 at
first), and 20 that are drawn anew in each state and mean nothing. It keeps the protocol of
`in_graph`.

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020, appendix A.3,
after the umbrella chain of bsuite.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmg.environments.in_graph import GameTransition, begun_anew

NUM_ACTIONS = 2
NUM_NOISE_BITS = 20
OBSERVATION_SHAPE = (2 + NUM_NOISE_BITS,)


class Params(NamedTuple):
    """A chain."""

    length: jax.Array  # int32 [], steps of an episode, from 2
    noisy: jax.Array  # bool [], whether the steps between pay by chance


class State(NamedTuple):
    """Where the agent is."""

    steps: jax.Array  # int32 [], of the episode
    right: jax.Array  # int32 [], the action that is right
    chosen: jax.Array  # int32 [], the first action; 0 before it
    noise: jax.Array  # uint32 [], random bits
    episode_return: jax.Array  # float32 [], so far


def make_params(length: int | jax.Array, noisy: bool | jax.Array = False) -> Params:
    """A chain of so many steps."""
    return Params(jnp.asarray(length, jnp.int32), jnp.asarray(noisy))


def reset(params: Params, key: jax.Array) -> State:
    """The first episode's beginning."""
    return _begin(draw(params, key, ()))


def _begin(random: jax.Array) -> State:
    right = (random >> NUM_NOISE_BITS) & 1
    return State(jnp.int32(0), right.astype(jnp.int32), jnp.int32(0), random, jnp.zeros(()))


def draw(params: Params, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random bits of each step: uint32 [*shape]."""
    del params
    return jax.random.bits(key, shape, jnp.uint32)


def step(
    params: Params, state: State, action: jax.Array, random: jax.Array
) -> tuple[State, GameTransition]:
    """One choice; see `in_graph.Environment`. `random` is a word of random bits."""
    steps = state.steps + 1
    chosen = jnp.where(state.steps == 0, action.astype(jnp.int32), state.chosen)
    ended = steps >= params.length
    between = (state.steps > 0) & ~ended
    by_chance = jnp.where((random >> (NUM_NOISE_BITS + 1)) & 1, 1.0, -1.0)
    reward = jnp.where(between & params.noisy, by_chance, 0.0)
    reward = jnp.where(ended, jnp.where(chosen == state.right, 1.0, -1.0), reward)
    reward = reward.astype(jnp.result_type(float))  # Python's numbers have a weaker type in JAX
    episode_return = state.episode_return + reward
    after = State(steps, state.right, chosen, random, episode_return)
    anew = _begin(random)
    after = begun_anew(ended, anew, after)
    return after, GameTransition(reward, 1.0 - ended.astype(reward.dtype), episode_return)


def index(params: Params, state: State) -> jax.Array:
    """The state's number: int32 [], below 2 + 4 (length - 1)."""
    del params
    later = 2 + 4 * (state.steps - 1) + 2 * state.right + state.chosen
    return jnp.where(state.steps == 0, state.right, later)


def num_states(params: Params) -> jax.Array:
    """How many numbers there are: int32 []."""
    return 2 + 4 * (params.length - 1)


def observe(params: Params, state: State) -> jax.Array:
    """Its bits: float32 [22]."""
    del params
    is_right = (state.steps > 0) & (state.chosen == state.right)
    noise = (state.noise >> jnp.arange(NUM_NOISE_BITS, dtype=jnp.uint32)) & 1
    first = jnp.stack([state.right == 0, is_right])
    return jnp.concatenate([first, noise.astype(bool)]).astype(jnp.float32)
