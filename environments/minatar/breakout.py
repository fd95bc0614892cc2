"""MinAtar's Breakout: three rows of ten bricks, each of which pays 1.

    . . . . . . . . . .     The ball moves along diagonals, a cell a step. Walls reflect it; a brick
    # # # # # # # # # #     sends it back in its column and is gone, but the ball passes through
    # # # # # # # # # #     bricks in the step after it hit one. The paddle, moved by actions 1
    # # # # # # # # # #     (left) and 2 (right), reflects the ball if it is below the ball before
    . . . . . . . . . .     it falls, and sends it back where it came from if the ball falls upon
    . . . o . . . . . .     it. Else the episode ends. Without a brick left, all come back when the
    . . . . . . . . . .     ball reaches the paddle's row.
    . . . . = . . . . .

The ball begins below the bricks at one of the walls. Planes: paddle, ball, where the ball was,
bricks. See the package's description for source and settings.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmg.environments.in_graph import GameTransition
from bmg.environments.minatar import common
from bmg.environments.minatar.common import SIZE, Params

ACTIONS = ("none", "left", "right")
NUM_ACTIONS = len(ACTIONS)
OBSERVATION_SHAPE = (SIZE, SIZE, 4)

make_params = common.make_params

_TOP, _BOTTOM = 1, 4  # rows of bricks
_FLOOR = SIZE - 1


class State(NamedTuple):
    """Where everything is."""

    row: jax.Array  # int32 [], the ball's
    column: jax.Array  # int32 []
    last_row: jax.Array  # int32 [], one step ago
    last_column: jax.Array  # int32 []
    down: jax.Array  # int32 [], 1 if the ball moves down, else -1
    right: jax.Array  # int32 [], 1 or -1
    paddle: jax.Array  # int32 [], its column
    bricks: jax.Array  # bool [3, 10]
    passing: jax.Array  # bool [], the ball passes through bricks
    last_action: jax.Array  # int32 []
    episode_return: jax.Array  # float32 [], so far


class Draws(NamedTuple):
    """Uniform in [0, 1): what a step may need."""

    sticky: jax.Array  # float32 [*shape]
    begin: jax.Array  # float32 [*shape], the side where the next episode's ball begins


def _begin(draw: jax.Array) -> State:
    """The state at the beginning of an episode."""
    row, zero = jnp.int32(3), jnp.int32(0)
    side = draw < 0.5
    column = jnp.where(side, 0, SIZE - 1)
    return State(
        row,
        column,
        last_row=row,
        last_column=column,
        down=jnp.int32(1),
        right=jnp.where(side, 1, -1),
        paddle=jnp.int32(4),
        bricks=jnp.ones((_BOTTOM - _TOP, SIZE), bool),
        passing=jnp.asarray(False),
        last_action=zero,
        episode_return=jnp.zeros(()),
    )


def reset(params: Params, key: jax.Array) -> State:
    """The first episode's beginning."""
    del params
    return _begin(jax.random.uniform(key))


def draw(params: Params, key: jax.Array, shape: tuple[int, ...]) -> Draws:
    """Random numbers of so many steps."""
    del params
    return Draws(*jax.random.uniform(key, (2, *shape)))


def step(
    params: Params, state: State, action: jax.Array, random: Draws
) -> tuple[State, GameTransition]:
    """One move of paddle and ball; see `in_graph.Environment`."""
    action = common.executed(params, state, action, random.sticky)
    move = common.towards(action, 1, 2)
    paddle = jnp.clip(state.paddle + move, 0, SIZE - 1)

    row, column = state.row + state.down, state.column + state.right
    at_wall = (column < 0) | (column >= SIZE)
    right = jnp.where(at_wall, -state.right, state.right)
    column = jnp.clip(column, 0, SIZE - 1)
    at_ceiling = row < 0
    row = jnp.maximum(row, 0)

    touched = common.cell(row, column)[_TOP:_BOTTOM] & state.bricks
    in_brick = jnp.any(touched)
    hit = in_brick & ~state.passing
    bricks = state.bricks & ~(touched & hit)
    at_floor = row == _FLOOR
    bricks |= at_floor & ~jnp.any(bricks)

    under = at_floor & (state.column == paddle)
    upon = at_floor & ~under & (column == paddle)
    missed = at_floor & ~under & ~upon
    after = State(
        row=jnp.where(hit | under | upon, state.row, row),
        column=column,
        last_row=state.row,
        last_column=state.column,
        down=jnp.where(at_ceiling | hit | under | upon, -state.down, state.down),
        right=jnp.where(upon, -right, right),
        paddle=paddle,
        bricks=bricks,
        passing=in_brick,
        last_action=action,
        episode_return=state.episode_return,
    )
    return common.transition(after, _begin(random.begin), hit, missed)


def observe(params: Params, state: State) -> jax.Array:
    """bool [10, 10, 4]."""
    del params
    return common.picture(
        common.cell(jnp.int32(_FLOOR), state.paddle),
        common.cell(state.row, state.column),
        common.cell(state.last_row, state.last_column),
        jnp.pad(state.bricks, ((_TOP, SIZE - _BOTTOM), (0, 0))),
    )
