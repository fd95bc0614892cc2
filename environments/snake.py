"""Snake on a 12x12 grid, jumanji's, reset wherever an episode ends.

The snake moves one cell up, right, down or left (actions 0 to 3). The fruit pays 1, lets the snake
grow by a cell and comes back on a random free cell; nothing else pays. An episode ends at the wall,
at the snake's own body, with a full board (return 143), or after 5,000 steps, which count as an end
like the others.

    observation [12, 12, 5]: body, head, tail, fruit (1 or 0), and the body's cells in their order,
    from 1 / length at the tail to 1 at the head

It keeps the protocol of `in_graph`.

Reference: Bonnet et al., "One Step at a Time", 2021, appendix B.2; it became jumanji's Snake-v1,
whose limit is 4,000 steps.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jumanji.environments.routing import snake as jumanji_snake

from bmg.environments.in_graph import GameTransition, begun_anew
from bmg.storage.fields import Count, read

SIZE = 12  # cells along an edge
ACTIONS = ("up", "right", "down", "left")
NUM_ACTIONS = len(ACTIONS)
OBSERVATION_SHAPE = (SIZE, SIZE, 5)
TIME_LIMIT = 5_000  # steps of an episode
MAX_RETURN = SIZE * SIZE - 1

_GAME = jumanji_snake.Snake(SIZE, SIZE, TIME_LIMIT)


class Params(NamedTuple):
    """A variant."""

    time_limit: jax.Array  # int32 [], steps of an episode


def make_params(time_limit: int = TIME_LIMIT) -> Params:
    """The paper's variant, or another.

    Raises:
      ValueError: the limit is no number of steps; one line.
    """
    return Params(np.int32(read(Count, time_limit, "time_limit")))


class State(NamedTuple):
    """Where everything is."""

    game: jumanji_snake.types.State
    observation: jax.Array  # float32 [12, 12, 5]


def reset(params: Params, key: jax.Array) -> State:
    """A snake of one cell and a fruit, both on random cells."""
    del params
    game, timestep = _GAME.reset(key)
    return State(game, timestep.observation.grid)


def draw(params: Params, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A key of each step: uint32 [*shape, 2]."""
    del params
    return jax.random.split(key, shape)


def step(
    params: Params, state: State, action: jax.Array, random: jax.Array
) -> tuple[State, GameTransition]:
    """One move; see `in_graph.Environment`. `random` is a key: for the fruit, or for the next
    episode."""
    fruit_key, reset_key = jax.random.split(random)
    rules = copy.copy(_GAME)
    rules.time_limit = params.time_limit  # which may be traced
    game, timestep = rules.step(state.game.replace(key=fruit_key), action)
    ended = timestep.last()
    after = State(game, timestep.observation.grid)
    anew = reset(params, reset_key)
    after = begun_anew(ended, anew, after)
    # Every fruit is one cell of length.
    episode_return = (game.length - 1).astype(jnp.float32)
    return after, GameTransition(timestep.reward, timestep.discount, episode_return)


def observe(params: Params, state: State) -> jax.Array:
    """The picture, float32 [12, 12, 5], that came with the state."""
    del params
    return state.observation
