"""MinAtar's Freeway: a chicken has to cross eight lanes of cars; each crossing pays 1.

    . . . . . . . . . .     The chicken stays in one column. Actions 1 (up) and 2 (down) move it by
    . > . . . . . . . .     a cell, if it did not move in the two steps before. Cars wrap around;
    . . . . . < . . . .     one of speed n moves a cell every n + 1 steps. A car that touches the
    . . . . . . . . . .     chicken sends it back to the bottom row, and so does a crossing, which
    . . . . @ . . . . .     draws all speeds (1 to 5) and directions anew. An episode has 2,501
    . . . . . . . . . .     steps.

Planes: chicken, cars, and for each speed the cells behind its cars. See the package's description
for source and settings.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmg.environments.in_graph import GameTransition
from bmg.environments.minatar import common
from bmg.environments.minatar.common import SIZE, Params

ACTIONS = ("none", "up", "down")
NUM_ACTIONS = len(ACTIONS)
OBSERVATION_SHAPE = (SIZE, SIZE, 7)

make_params = common.make_params

EPISODE_LENGTH = 2_501  # steps
_LANES = SIZE - 2  # the rows but the first and the last
_SPEEDS = 5
_COLUMN = 4  # the chicken's
_REST = 3  # steps from a move to the next


class State(NamedTuple):
    """Where everything is; cars are indexed by lane, from above."""

    row: jax.Array  # int32 [], the chicken's
    rest: jax.Array  # int32 [], steps until it can move
    cars: jax.Array  # int32 [8], their columns
    velocities: jax.Array  # int32 [8], n > 0 to the right, -n to the left
    waits: jax.Array  # int32 [8], steps until a car moves
    steps: jax.Array  # int32 [], of the episode
    last_action: jax.Array  # int32 []
    episode_return: jax.Array  # float32 [], so far


class Draws(NamedTuple):
    """Uniform in [0, 1): what a step may need."""

    sticky: jax.Array  # float32 [*shape]
    # float32 [*shape, 8], the cars' speeds and directions: after a crossing, or in the next episode
    velocities: jax.Array


def _velocities(draws: jax.Array) -> jax.Array:
    """-5 to -1 and 1 to 5, alike: int32 [8]."""
    number = common.integer(draws, 2 * _SPEEDS) - _SPEEDS
    return number + (number >= 0)


def _begin(draws: jax.Array) -> State:
    """The state at the beginning of an episode."""
    velocities, zero = _velocities(draws), jnp.int32(0)
    return State(
        row=jnp.int32(SIZE - 1),
        rest=jnp.int32(_REST),
        cars=jnp.zeros(_LANES, jnp.int32),
        velocities=velocities,
        waits=jnp.abs(velocities),
        steps=zero,
        last_action=zero,
        episode_return=jnp.zeros(()),
    )


def reset(params: Params, key: jax.Array) -> State:
    """The first episode's beginning."""
    del params
    return _begin(jax.random.uniform(key, (_LANES,)))


def draw(params: Params, key: jax.Array, shape: tuple[int, ...]) -> Draws:
    """Random numbers of so many steps."""
    del params
    numbers = jax.random.uniform(key, (*shape, 1 + _LANES))
    return Draws(numbers[..., 0], numbers[..., 1:])


def step(
    params: Params, state: State, action: jax.Array, random: Draws
) -> tuple[State, GameTransition]:
    """First the chicken moves, then the cars; see `in_graph.Environment`."""
    action = common.executed(params, state, action, random.sticky)
    moves = (action > 0) & (state.rest == 0)
    row = jnp.where(moves, jnp.where(action == 1, state.row - 1, state.row + 1), state.row)
    row = jnp.minimum(row, SIZE - 1)
    rest = jnp.where(moves, _REST, state.rest)

    crossed = row == 0
    anew = _velocities(random.velocities)
    velocities = jnp.where(crossed, anew, state.velocities)
    waits = jnp.where(crossed, jnp.abs(anew), state.waits)
    row = jnp.where(crossed, SIZE - 1, row)

    leaves = waits == 0
    cars = (state.cars + jnp.where(leaves, jnp.sign(velocities), 0)) % SIZE
    lane = jnp.arange(1, 1 + _LANES) == row
    run_over = jnp.any(lane & ((state.cars == _COLUMN) | (cars == _COLUMN)))
    steps = state.steps + 1
    after = State(
        row=jnp.where(run_over, SIZE - 1, row),
        rest=jnp.maximum(rest - 1, 0),
        cars=cars,
        velocities=velocities,
        waits=jnp.where(leaves, jnp.abs(velocities), waits - 1),
        steps=steps,
        last_action=action,
        episode_return=state.episode_return,
    )
    ended = steps >= EPISODE_LENGTH
    return common.transition(after, _begin(random.velocities), crossed, ended)


def observe(params: Params, state: State) -> jax.Array:
    """bool [10, 10, 7]."""
    del params
    behind = common.line((state.cars - jnp.sign(state.velocities)) % SIZE)
    speeds = jnp.abs(state.velocities)[:, None]
    lanes = [common.line(state.cars), *(behind & (speeds == n) for n in range(1, 1 + _SPEEDS))]
    return common.picture(
        common.cell(state.row, jnp.int32(_COLUMN)),
        *(jnp.pad(x, ((1, 1), (0, 0))) for x in lanes),
    )
