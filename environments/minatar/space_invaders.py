"""MinAtar's Space Invaders: each alien that is shot pays 1.

    . . < < < < < < . .     The cannon moves by actions 1 (left) and 2 (right); action 3 shoots, at
    . . < < < < < < . .     most every fifth step. Bullets move a cell a step. Aliens move sideways,
    . . < < < < < < . .     and down and back when one is at a wall: every 12th step, or more often
    . . < < < < < < . .     when fewer than 12 are left. The alien nearest to the cannon's column,
    . . . . ! . . . . .     the lowest in its column, shoots in every tenth step. Bullets and aliens
    . . . . . . . . . .     that touch the cannon, and aliens that would move below the last row,
    . . . . . ^ . . . .     end the episode.

When all are shot, the next ones come, and aliens move every 11th step, and so on to every sixth.
Planes: cannon, aliens, aliens if they move to the left, or to the right, the player's bullets,
the aliens'. See the package's description for source and settings.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmg.environments.in_graph import GameTransition
from bmg.environments.minatar import common
from bmg.environments.minatar.common import SIZE, Params

ACTIONS = ("none", "left", "right", "fire")
NUM_ACTIONS = len(ACTIONS)
OBSERVATION_SHAPE = (SIZE, SIZE, 6)

make_params = common.make_params

_LAST = SIZE - 1  # row and column
_RELOAD = 5  # steps from a shot to the next
_SHOT_INTERVAL = 10  # of the aliens
_MOVE_INTERVAL, _SHORTEST_MOVE_INTERVAL = 12, 6
_WAVE = np.zeros((SIZE, SIZE), bool)
_WAVE[0:4, 2:8] = True


class State(NamedTuple):
    """Where everything is."""

    cannon: jax.Array  # int32 [], its column
    aliens: jax.Array  # bool [10, 10]
    right: jax.Array  # bool [], whether they move to the right
    shots: jax.Array  # bool [10, 10], the player's
    alien_shots: jax.Array  # bool [10, 10]
    reload: jax.Array  # int32 [], steps until the player can shoot
    shot_timer: jax.Array  # int32 [], of the aliens
    move_timer: jax.Array  # int32 []
    move_interval: jax.Array  # int32 []
    last_action: jax.Array  # int32 []
    episode_return: jax.Array  # float32 [], so far


class Draws(NamedTuple):
    """Uniform in [0, 1): what a step may need."""

    sticky: jax.Array  # float32 [*shape]


def _begin() -> State:
    """The state at the beginning of an episode."""
    zero, none = jnp.int32(0), jnp.zeros((SIZE, SIZE), bool)
    return State(
        cannon=jnp.int32(5),
        aliens=jnp.asarray(_WAVE),
        right=jnp.asarray(False),
        shots=none,
        alien_shots=none,
        reload=zero,
        shot_timer=jnp.int32(_SHOT_INTERVAL),
        move_timer=jnp.int32(_MOVE_INTERVAL),
        move_interval=jnp.int32(_MOVE_INTERVAL),
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
    return Draws(jax.random.uniform(key, shape))


def _shifted(plane: jax.Array, down: int = 0, right: int = 0) -> jax.Array:
    """[10, 10] moved by up to a cell; what leaves is gone."""
    padded = jnp.pad(plane, 1)
    return padded[1 - down : 1 - down + SIZE, 1 - right : 1 - right + SIZE]


def _shooter(aliens: jax.Array, cannon: jax.Array) -> jax.Array:
    """The alien that shoots, as a plane [10, 10]: the lowest of the nearest column, of two columns
    equally near that on the left."""
    columns = jnp.arange(SIZE)
    distances = 2 * jnp.abs(columns - cannon) + (columns > cannon)
    distances = jnp.where(jnp.any(aliens, axis=0), distances, 2 * SIZE)
    row = jnp.max(jnp.where(aliens, columns[:, None], -1), axis=0)
    nearest = distances == jnp.min(distances)
    return aliens & nearest & (columns[:, None] == row)


def step(
    params: Params, state: State, action: jax.Array, random: Draws
) -> tuple[State, GameTransition]:
    """First the cannon, then bullets, then aliens; see `in_graph.Environment`."""
    action = common.executed(params, state, action, random.sticky)
    fires = (action == 3) & (state.reload == 0)
    sideways = common.towards(action, 1, 2)
    cannon = jnp.clip(state.cannon + sideways, 0, _LAST)
    here = common.line(cannon)  # in the last row
    # A new bullet has moved by a cell already.
    shots = _shifted(state.shots, down=-1) | (fires & common.cell(jnp.int32(_LAST - 1), cannon))
    alien_shots = _shifted(state.alien_shots, down=1)

    moves = state.move_timer == 0
    at_wall = jnp.any(state.aliens[:, jnp.array([0, _LAST])], axis=0)
    turns = jnp.where(state.right, at_wall[1], at_wall[0])
    sideways = jnp.where(
        state.right, _shifted(state.aliens, right=1), _shifted(state.aliens, right=-1)
    )
    moved = jnp.where(turns, _shifted(state.aliens, down=1), sideways)
    aliens = jnp.where(moves, moved, state.aliens)
    landed = moves & turns & jnp.any(state.aliens[_LAST])
    ended = landed | jnp.any(here & (alien_shots[_LAST] | state.aliens[_LAST] | aliens[_LAST]))

    shoot = state.shot_timer == 0
    alien_shots |= shoot & _shooter(aliens, cannon)
    hit = aliens & shots
    count = jnp.sum(state.aliens, dtype=jnp.int32)
    move_timer = jnp.where(moves, jnp.minimum(count, state.move_interval), state.move_timer)

    aliens &= ~hit
    cleared = ~jnp.any(aliens)
    faster = cleared & params.ramping & (state.move_interval > _SHORTEST_MOVE_INTERVAL)
    after = State(
        cannon=cannon,
        aliens=aliens | (cleared & _WAVE),
        right=state.right ^ (moves & turns),
        shots=shots & ~hit,
        alien_shots=alien_shots,
        reload=jnp.maximum(jnp.where(fires, _RELOAD, state.reload) - 1, 0),
        shot_timer=jnp.where(shoot, _SHOT_INTERVAL, state.shot_timer) - 1,
        move_timer=move_timer - 1,
        move_interval=state.move_interval - faster,
        last_action=action,
        episode_return=state.episode_return,
    )
    return common.transition(after, _begin(), jnp.sum(hit), ended)


def observe(params: Params, state: State) -> jax.Array:
    """bool [10, 10, 6]."""
    del params
    return common.picture(
        common.cell(jnp.int32(_LAST), state.cannon),
        state.aliens,
        state.aliens & ~state.right,
        state.aliens & state.right,
        state.shots,
        state.alien_shots,
    )
