"""MinAtar's Seaquest: shoot fish and submarines, save divers, come up for air.

    . . . . . . . . . .     The player's submarine moves by a cell (actions 1 to 4: left, up, right,
    . . . . . . . . . .     down) and shoots ahead with action 5, at most every fifth step. Fish and
    - f . . . . . . . .     enemy submarines (one in three) come at random sides of random rows, but
    . . . P p * . . s -     not against the others of their row. Either pays 1 when it is shot.
    . . . . . . . . . .     Submarines shoot in every eleventh step. The episode ends when the
    . . . d - . . . . .     player meets one of them or a bullet, without oxygen (200 steps), or in
    . . . . . . . . . .     the first row without a diver. Divers are taken by moving onto them.

Coming up to the first row takes one diver and fills the oxygen; with six divers it takes all and
pays up to 10, a point for each tenth of the oxygen left. Each time the spawn interval falls by 1,
from 20 to 1, and every second time the interval of the enemies' moves does, from 5 to 2.

As in MinAtar, coming up with six divers leaves minus one: the next six are seven to be found, and
coming up without any does not end the episode then.

Planes: the player's front and back, its bullets, the cells behind fish, submarines and divers,
enemy bullets, fish, submarines, oxygen and divers as bars in the last row, divers. See the
package's description for source and settings.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmg.environments.in_graph import GameTransition
from bmg.environments.minatar import common
from bmg.environments.minatar.common import SIZE, Params

ACTIONS = ("none", "left", "up", "right", "down", "fire")
NUM_ACTIONS = len(ACTIONS)
OBSERVATION_SHAPE = (SIZE, SIZE, 10)

make_params = common.make_params

_ROWS = SIZE - 2  # those between the first and the last, where others come
_RELOAD = 5  # steps from a shot to the next
_OXYGEN = 200
_MOST_DIVERS = 6  # on board
_SHOT_INTERVAL = 10
_SPAWN_INTERVAL = 20  # steps, at first
_MOVE_INTERVAL, _SHORTEST_MOVE_INTERVAL = 5, 2
_DIVER_SPAWN_INTERVAL = 30
_DIVER_MOVE_INTERVAL = 5
# As many as there can be. A row takes ten moves, each of the interval and a step: 30 steps when a
# new enemy may come in each. A diver takes 60, one comes every 30; a bullet ten, with one every 5.
_ENEMIES = 30
_ROW = (1 << SIZE) - 1  # the bits of a row
_DIVERS = 2
_BULLETS = 2


class Swimmers(NamedTuple):
    """Enemies or divers, the newest first."""

    there: jax.Array  # bool [n]
    row: jax.Array  # int32 [n]
    column: jax.Array  # int32 [n]
    right: jax.Array  # bool [n], whether it moves to the right
    wait: jax.Array  # int32 [n], steps until it moves


class Bullets(NamedTuple):
    """The player's, the newest first; no two are in the same cell."""

    there: jax.Array  # bool [2]
    row: jax.Array  # int32 [2]
    column: jax.Array  # int32 [2]
    right: jax.Array  # bool [2]


class State(NamedTuple):
    """Where everything is."""

    row: jax.Array  # int32 [], the player's
    column: jax.Array  # int32 [], of its front
    right: jax.Array  # bool [], whether it shoots to the right
    reload: jax.Array  # int32 [], steps until it can shoot
    oxygen: jax.Array  # int32 [], steps
    on_board: jax.Array  # int32 [], divers, -1 or more
    surfaced: jax.Array  # bool [], whether it has been in the first row since it came there
    bullets: Bullets
    enemies: Swimmers
    submarine: jax.Array  # bool [30], or a fish
    shot_timer: jax.Array  # int32 [30], steps until a submarine shoots
    divers: Swimmers
    # int32 [10] each, of which bit c in element r is the cell of row r and column c
    bullets_left: jax.Array
    bullets_right: jax.Array
    spawn_timer: jax.Array  # int32 []
    spawn_interval: jax.Array  # int32 []
    diver_timer: jax.Array  # int32 [], steps until the next diver comes
    move_interval: jax.Array  # int32 [], of enemies
    ramps: jax.Array  # int32 [], how often the difficulty rose
    last_action: jax.Array  # int32 []
    episode_return: jax.Array  # float32 [], so far


class Draws(NamedTuple):
    """Uniform in [0, 1): what a step may need."""

    sticky: jax.Array  # float32 [*shape]
    side: jax.Array  # float32 [*shape], of a new enemy
    submarine: jax.Array  # float32 [*shape]
    row: jax.Array  # float32 [*shape]
    diver_side: jax.Array  # float32 [*shape]
    diver_row: jax.Array  # float32 [*shape]


def _begin() -> State:
    """The state at the beginning of an episode."""
    zero, false = jnp.int32(0), jnp.asarray(False)

    def none(n: int) -> Swimmers:
        numbers, flags = jnp.zeros(n, jnp.int32), jnp.zeros(n, bool)
        return Swimmers(flags, numbers, numbers, flags, numbers)

    return State(
        row=zero,
        column=jnp.int32(5),
        right=false,
        reload=zero,
        oxygen=jnp.int32(_OXYGEN),
        on_board=zero,
        surfaced=jnp.asarray(True),
        bullets=Bullets(*none(_BULLETS)[:4]),
        enemies=none(_ENEMIES),
        submarine=jnp.zeros(_ENEMIES, bool),
        shot_timer=jnp.zeros(_ENEMIES, jnp.int32),
        divers=none(_DIVERS),
        bullets_left=jnp.zeros(SIZE, jnp.int32),
        bullets_right=jnp.zeros(SIZE, jnp.int32),
        spawn_timer=jnp.int32(_SPAWN_INTERVAL),
        spawn_interval=jnp.int32(_SPAWN_INTERVAL),
        diver_timer=jnp.int32(_DIVER_SPAWN_INTERVAL),
        move_interval=jnp.int32(_MOVE_INTERVAL),
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
    return Draws(*jax.random.uniform(key, (6, *shape)))


def _pushed(condition: jax.Array, new, old):
    """Arrays [n, ...] with a new first element and without the last one, if the condition holds."""

    def push(new, old):
        new = jnp.asarray(new, old.dtype)[None]
        return jnp.where(condition, jnp.concatenate([new, old[:-1]]), old)

    return jax.tree.map(push, new, old)


def _newcomer(side: jax.Array, row: jax.Array, wait: jax.Array | int) -> Swimmers:
    """One at the left or right end of a row, from uniform draws."""
    right = side < 0.5
    column = jnp.where(right, 0, SIZE - 1)
    return Swimmers(jnp.asarray(True), 1 + common.integer(row, _ROWS), column, right, wait)


def _spawned(state: State, random: Draws) -> State:
    """With a new enemy and a new diver, where their timers are up."""
    up = state.spawn_timer == 0
    new, old = _newcomer(random.side, random.row, state.move_interval), state.enemies
    against = jnp.any(old.there & (old.row == new.row) & (old.right != new.right))
    comes = up & ~against
    diver_up = state.diver_timer == 0
    diver = _newcomer(random.diver_side, random.diver_row, _DIVER_MOVE_INTERVAL)
    return state._replace(
        enemies=_pushed(comes, new, old),
        submarine=_pushed(comes, random.submarine < 1 / 3, state.submarine),
        shot_timer=_pushed(comes, _SHOT_INTERVAL, state.shot_timer),
        spawn_timer=jnp.where(up, state.spawn_interval, state.spawn_timer),
        divers=_pushed(diver_up, diver, state.divers),
        diver_timer=jnp.where(diver_up, _DIVER_SPAWN_INTERVAL, state.diver_timer),
    )


def _acted(state: State, action: jax.Array) -> State:
    """With the player moved, or its bullet shot; and all its bullets moved."""
    fires = (action == 5) & (state.reload == 0)
    new = Bullets(jnp.asarray(True), state.row, state.column, state.right)
    bullets = _pushed(fires, new, state.bullets)
    column = bullets.column + jnp.where(bullets.right, 1, -1)
    sideways = common.towards(action, 1, 3)
    downwards = common.towards(action, 2, 4)
    return state._replace(
        row=jnp.clip(state.row + downwards, 0, _ROWS),
        column=jnp.clip(state.column + sideways, 0, SIZE - 1),
        right=jnp.where(sideways == 0, state.right, sideways > 0),
        reload=jnp.where(fires, _RELOAD, state.reload),
        bullets=bullets._replace(column=column, there=bullets.there & _inside(column)),
        last_action=action,
    )


def _bit(column: jax.Array, which: jax.Array) -> jax.Array:
    """The bit of a column, or 0 for those that are outside or not meant: int32 [n]."""
    return jnp.where(which & _inside(column), 1 << column, 0)


def _behind(swimmers: Swimmers) -> jax.Array:
    """The columns behind: int32 [n]."""
    return swimmers.column - jnp.where(swimmers.right, 1, -1)


def _rows(row: jax.Array, bits: jax.Array) -> jax.Array:
    """The bits of each row, from rows and bits [n]: int32 [10]."""
    table = jnp.where(row[:, None] == jnp.arange(SIZE), bits[:, None], 0)
    return jax.lax.reduce(table, jnp.int32(0), jax.lax.bitwise_or, (0,))


def _inside(column: jax.Array) -> jax.Array:
    return (column >= 0) & (column < SIZE)


def _meets(state: State, swimmers: Swimmers) -> jax.Array:
    """Who is in the cell of the player's front: bool [n]."""
    here = (swimmers.row == state.row) & (swimmers.column == state.column)
    return swimmers.there & here


def _moved(swimmers: Swimmers, moves: jax.Array, interval: jax.Array | int) -> Swimmers:
    """A step later: those that move and leave the row are gone."""
    ahead = jnp.where(swimmers.right, 1, -1)
    column = jnp.where(moves, swimmers.column + ahead, swimmers.column)
    return swimmers._replace(
        there=swimmers.there & _inside(column),
        column=column,
        wait=jnp.where(moves, interval, swimmers.wait - 1),
    )


def _rescued(state: State) -> State:
    """A step of the divers, of which the player takes those that it meets while there is room."""
    moves = state.divers.wait == 0
    later = _moved(state.divers, moves, _DIVER_MOVE_INTERVAL)
    meets = _meets(state, state.divers) | (moves & _meets(state, later))
    on_board, taken = state.on_board, []
    for i in range(_DIVERS):
        taken.append(meets[i] & (on_board < _MOST_DIVERS))
        on_board += taken[-1]
    there = later.there & ~jnp.stack(taken)
    return state._replace(divers=later._replace(there=there), on_board=on_board)


def _shot(
    bullets: Bullets, targets: Swimmers, can_be: jax.Array, order: jax.Array
) -> tuple[Bullets, jax.Array]:
    """Each bullet hits at most one in its cell: of those that can be hit the first in an order.

    Args:
      bullets: the player's.
      targets: enemies.
      can_be: bool [30], whether they can be hit.
      order: int32 [30], distinct.

    Returns:
      The bullets that are left; who was hit, bool [30].
    """
    row = bullets.row[:, None] == targets.row
    column = bullets.column[:, None] == targets.column
    hits = bullets.there[:, None] & row & column & can_be & targets.there
    first = jnp.min(jnp.where(hits, order, 4 * _ENEMIES), axis=1, keepdims=True)
    hits &= order == first
    there = bullets.there & ~jnp.any(hits, axis=1)
    return bullets._replace(there=there), jnp.any(hits, axis=0)


def _fought(state: State) -> tuple[State, jax.Array, jax.Array]:
    """A step of the enemies, whom the player's bullets hit before they move and after.

    Returns:
      The state; how many were hit, int32 []; whether one met the player, bool [].
    """
    # Bullets that moved hit fish first, then submarines, of each the oldest.
    index = jnp.arange(_ENEMIES)
    order = jnp.where(state.submarine, 2, 1) * _ENEMIES - index
    bullets, hit = _shot(state.bullets, state.enemies, jnp.asarray(True), order)
    enemies = state.enemies._replace(there=state.enemies.there & ~hit)
    reward = jnp.sum(hit, dtype=jnp.int32)

    # Submarines move before fish, the newest first, into what is left of the bullets.
    moves = enemies.wait == 0
    met = _meets(state, enemies)
    later = _moved(enemies, moves, state.move_interval)
    met_later = moves & _meets(state, later)
    order = jnp.where(state.submarine, 0, 1) * _ENEMIES + index
    bullets, hit = _shot(bullets, later, moves & ~met_later, order)
    reward += jnp.sum(hit, dtype=jnp.int32)

    # Also a submarine that was just hit shoots.
    shoots = enemies.there & state.submarine & (state.shot_timer == 0)
    new = _rows(later.row, _bit(later.column, shoots) << jnp.where(later.right, SIZE, 0))
    left, right = state.bullets_left | new & _ROW, state.bullets_right | new >> SIZE
    left_later, right_later = left >> 1, (right << 1) & _ROW
    swept = (left | left_later | right | right_later)[state.row]
    shot_down = swept >> state.column & 1 == 1
    after = state._replace(
        bullets=bullets,
        enemies=later._replace(there=later.there & ~hit),
        shot_timer=jnp.where(state.shot_timer == 0, _SHOT_INTERVAL, state.shot_timer - 1),
        bullets_left=left_later,
        bullets_right=right_later,
    )
    return after, reward, jnp.any(met | met_later) | shot_down


def _breathed(params: Params, state: State) -> tuple[State, jax.Array, jax.Array]:
    """A step of the oxygen, or the arrival in the first row.

    Returns:
      The state; its reward, int32 []; whether the episode ends, bool [].
    """
    under = state.row > 0
    arrives = ~under & ~state.surfaced
    refused = arrives & (state.on_board == 0)
    arrives &= ~refused
    full = state.on_board == _MOST_DIVERS
    reward = jnp.where(arrives & full, state.oxygen * 10 // _OXYGEN, 0)
    ended = refused | (state.oxygen <= 0)

    most = (state.spawn_interval <= 1) & (state.move_interval <= _SHORTEST_MOVE_INTERVAL)
    up = arrives & params.ramping & ~most
    faster = up & (state.ramps % 2 == 1) & (state.move_interval > _SHORTEST_MOVE_INTERVAL)
    after = state._replace(
        oxygen=jnp.where(arrives, _OXYGEN, state.oxygen - under),
        on_board=jnp.where(arrives & full, 0, state.on_board) - arrives,
        surfaced=~under & (state.surfaced | arrives),
        spawn_interval=state.spawn_interval - (up & (state.spawn_interval > 1)),
        move_interval=state.move_interval - faster,
        ramps=state.ramps + up,
    )
    return after, reward, ended


def step(
    params: Params, state: State, action: jax.Array, random: Draws
) -> tuple[State, GameTransition]:
    """One move; see `in_graph.Environment`."""
    action = common.executed(params, state, action, random.sticky)
    after, hits, met = _fought(_rescued(_acted(_spawned(state, random), action)))
    after = after._replace(
        spawn_timer=jnp.maximum(after.spawn_timer - 1, 0),
        diver_timer=jnp.maximum(after.diver_timer - 1, 0),
        reload=jnp.maximum(after.reload - 1, 0),
    )
    after, bonus, ended = _breathed(params, after)
    return common.transition(after, _begin(), hits + bonus, met | ended)


def observe(params: Params, state: State) -> jax.Array:
    """bool [10, 10, 10]."""
    del params
    enemies, divers = state.enemies, state.divers
    # Three planes of one reduction.
    fish = _bit(enemies.column, enemies.there) << jnp.where(state.submarine, SIZE, 0)
    rows = _rows(enemies.row, fish | _bit(_behind(enemies), enemies.there) << 2 * SIZE)
    back = state.column + jnp.where(state.right, -1, 1)
    first, last = (jnp.arange(SIZE) == row for row in (state.row, SIZE - 1))
    oxygen = jnp.maximum(state.oxygen, 0) * 10 // _OXYGEN
    on_board = jnp.maximum(state.on_board, 0)
    planes = (
        jnp.where(first, 1 << state.column, 0),
        jnp.where(first, 1 << back, 0),
        _rows(state.bullets.row, _bit(state.bullets.column, state.bullets.there)),
        rows >> 2 * SIZE | _rows(divers.row, _bit(_behind(divers), divers.there)),
        state.bullets_left | state.bullets_right,
        rows & _ROW,
        rows >> SIZE & _ROW,
        jnp.where(last, (1 << oxygen) - 1, 0),
        jnp.where(last, ((1 << on_board) - 1) << SIZE - 1 - on_board, 0),
        _rows(divers.row, _bit(divers.column, divers.there)),
    )
    bits = jnp.stack(planes, axis=-1)[:, None, :] >> jnp.arange(SIZE)[:, None] & 1
    return bits.astype(jnp.float32)
