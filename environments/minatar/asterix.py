"""MinAtar's Asterix: treasures pay 1 each, an enemy ends the episode.

    . . . . . . . . . .     The player moves by a cell (actions 1 to 4: left, up, right, down) in
    - > . . . . . . . .     the eight rows between the first and the last. In each of these rows
    . . . . . . . . . .     there may be one enemy or treasure (one in three), which crosses it. One
    . . . . P . . . $ -     comes at a random side of a random empty row whenever the spawn timer
    . . . . . . . . . .     is up, and all move a cell when the move timer is.

Every 102 steps the spawn interval falls by 1, from 10 to 1, and every second time the move interval
does, from 5 to 1. Planes: player, enemies, the cells behind enemies and treasures, treasures. See
the package's description for source and settings.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmg.environments.in_graph import GameTransition
from bmg.environments.minatar import common
from bmg.environments.minatar.common import SIZE, Params

ACTIONS = ("none", "left", "up", "right", "down")
NUM_ACTIONS = len(ACTIONS)
OBSERVATION_SHAPE = (SIZE, SIZE, 4)

make_params = common.make_params

_ROWS = SIZE - 2  # those between the first and the last
_SPAWN_INTERVAL = 10  # steps, at first
_MOVE_INTERVAL = 5
_RAMP_INTERVAL = 100


class State(NamedTuple):
    """Where everything is; enemies and treasures are indexed by row, from above."""

    row: jax.Array  # int32 [], the player's
    column: jax.Array  # int32 []
    there: jax.Array  # bool [8], whether a row has one
    columns: jax.Array  # int32 [8]
    right: jax.Array  # bool [8], whether it moves to the right
    treasure: jax.Array  # bool [8], or an enemy
    spawn_timer: jax.Array  # int32 []
    spawn_interval: jax.Array  # int32 []
    move_timer: jax.Array  # int32 []
    move_interval: jax.Array  # int32 []
    ramp_timer: jax.Array  # int32 []
    ramps: jax.Array  # int32 [], how often the difficulty rose
    last_action: jax.Array  # int32 []
    episode_return: jax.Array  # float32 [], so far


class Draws(NamedTuple):
    """Uniform in [0, 1): what a step may need."""

    sticky: jax.Array  # float32 [*shape]
    side: jax.Array  # float32 [*shape], of a new one
    treasure: jax.Array  # float32 [*shape]
    row: jax.Array  # float32 [*shape]


def _begin() -> State:
    """The state at the beginning of an episode."""
    zero, none = jnp.int32(0), jnp.zeros(_ROWS, bool)
    return State(
        row=jnp.int32(5),
        column=jnp.int32(5),
        there=none,
        columns=jnp.zeros(_ROWS, jnp.int32),
        right=none,
        treasure=none,
        spawn_timer=jnp.int32(_SPAWN_INTERVAL),
        spawn_interval=jnp.int32(_SPAWN_INTERVAL),
        move_timer=jnp.int32(_MOVE_INTERVAL),
        move_interval=jnp.int32(_MOVE_INTERVAL),
        ramp_timer=jnp.int32(_RAMP_INTERVAL),
        ramps=zero,
        last_action=zero,
        episode_return=jnp.zeros(()),
    )


def reset(params: Params, key: jax.Array) -> State:
    """The first episode's beginning, which is always the same."""
    del params, key
    return _begin()


def draw(params: Params, key: jax.Array, shape: tuple[int, ...]) -> Draws:
    """Random numbers of so many steps."""
    del params
    return Draws(*jax.random.uniform(key, (4, *shape)))


def _spawned(state: State, random: Draws) -> State:
    """With a new one in a random empty row, if the timer is up and there is such a row."""
    up = state.spawn_timer == 0
    empty = ~state.there
    index = common.integer(random.row, jnp.sum(empty, dtype=jnp.int32))
    # How many empty rows are above each.
    above = jnp.arange(_ROWS) < jnp.arange(_ROWS)[:, None]
    place = up & empty & (jnp.sum(above & empty, axis=1, dtype=jnp.int32) == index)
    right = random.side < 0.5
    return state._replace(
        there=state.there | place,
        columns=jnp.where(place, jnp.where(right, 0, SIZE - 1), state.columns),
        right=jnp.where(place, right, state.right),
        treasure=jnp.where(place, random.treasure < 1 / 3, state.treasure),
        spawn_timer=jnp.where(up, state.spawn_interval, state.spawn_timer),
    )


def _ramped(params: Params, state: State) -> State:
    """With a higher difficulty, if it is time."""
    rises = params.ramping & ((state.spawn_interval > 1) | (state.move_interval > 1))
    up = rises & (state.ramp_timer < 0)
    faster = up & (state.ramps % 2 == 1) & (state.move_interval > 1)
    return state._replace(
        spawn_interval=state.spawn_interval - (up & (state.spawn_interval > 1)),
        move_interval=state.move_interval - faster,
        ramp_timer=jnp.where(up, _RAMP_INTERVAL, state.ramp_timer - rises),
        ramps=state.ramps + up,
    )


def step(
    params: Params, state: State, action: jax.Array, random: Draws
) -> tuple[State, GameTransition]:
    """One move; see `in_graph.Environment`. Who meets the player is found before and after the
    others move."""
    action = common.executed(params, state, action, random.sticky)
    state = _spawned(state, random)
    sideways = common.towards(action, 1, 3)
    downwards = common.towards(action, 2, 4)
    column = jnp.clip(state.column + sideways, 0, SIZE - 1)
    row = jnp.clip(state.row + downwards, 1, _ROWS)
    same_row = jnp.arange(1, 1 + _ROWS) == row

    meets = state.there & same_row & (state.columns == column)
    there = state.there & ~(meets & state.treasure)
    up = state.move_timer == 0
    columns = state.columns + jnp.where(up, jnp.where(state.right, 1, -1), 0)
    there &= (columns >= 0) & (columns < SIZE)
    meets_later = up & there & same_row & (columns == column)
    there &= ~(meets_later & state.treasure)

    # No more than one is in a row, so that no more than one is taken.
    reward = jnp.any((meets | meets_later) & state.treasure)
    ended = jnp.any((meets | meets_later) & ~state.treasure)
    move_timer = jnp.where(up, state.move_interval, state.move_timer)
    after = _ramped(
        params,
        state._replace(
            row=row,
            column=column,
            there=there,
            columns=columns,
            spawn_timer=state.spawn_timer - 1,
            move_timer=move_timer - 1,
            last_action=action,
        ),
    )
    return common.transition(after, _begin(), reward, ended)


def observe(params: Params, state: State) -> jax.Array:
    """bool [10, 10, 4]."""
    del params
    at = common.line(state.columns) & state.there[:, None]
    behind = common.line(state.columns + jnp.where(state.right, -1, 1)) & state.there[:, None]
    treasure = state.treasure[:, None]
    return common.picture(
        common.cell(state.row, state.column),
        *(jnp.pad(x, ((1, 1), (0, 0))) for x in (at & ~treasure, behind, at & treasure)),
    )
