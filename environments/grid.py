"""Grid worlds as data: sizes, walls and objects of any kind in one compiled program.

    # # # # #     The agent A moves to one of the eight cells around it or stays: action 3 r + c is
    # A . o #     the row r - 1 and the column c - 1 away. A move into a wall (#) leaves it where it
    # . x . #     is. An object (o, x) pays its reward when it is collected, ends the episode with
    # # # # #     its probability, and is gone; in every later step it comes back with another one.

Objects are collected by stepping on them, or in the other action set by actions 9 to 17 alone,
which reach as far as the moves 0 to 8. With fixed places, where the agent and each object begin and
come back are the same in all episodes of a world, and a number tells its states apart. Otherwise
all places are random, in each episode and whenever an object comes back.

Cells are numbered row by row in a frame of 15x15, whose border is a wall: every world has arrays of
the same shapes, and `jax.vmap` maps over worlds. It keeps the protocol of `in_graph`.

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020, appendices A.1
and A.2. Not stated there: what a step off the grid does, in which order things happen within a
step, and where the agent begins (here: in a fixed cell where objects have fixed places).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmg.environments.in_graph import GameTransition, begun_anew

LARGEST = 13  # cells along an edge
MOST_OBJECTS = 7
MOST_KINDS = 3
NUM_ACTIONS = 18
NUM_MOVES = 9
OBSERVATION_SHAPE = (LARGEST, LARGEST, MOST_KINDS + 1)

FRAME = LARGEST + 2


class Objects(NamedTuple):
    """What there is to collect; each of MOST_OBJECTS, of which some may not exist."""

    reward: jax.Array  # float32 [objects]
    ends: jax.Array  # float32 [objects], probability that collecting it ends the episode
    returns: jax.Array  # float32 [objects], probability of coming back in a step
    kind: jax.Array  # int32 [objects]
    exists: jax.Array  # bool [objects]; those that do are the first ones


class Places(NamedTuple):
    """Cells that are the same in all episodes."""

    agent: jax.Array  # int32 []
    objects: jax.Array  # int32 [objects]


class Params(NamedTuple):
    """A world."""

    cells: jax.Array  # int32 [cells of the frame], the free ones first, in their order
    order: jax.Array  # int32 [cells of the frame], a free cell's place among them; -1 for walls
    free: jax.Array  # int32 [], how many
    objects: Objects
    places: Places | None  # None: random
    collects: jax.Array  # bool [], whether actions 9 to 17 collect, and stepping on does not
    time_limit: jax.Array  # int32 [], steps of an episode


class State(NamedTuple):
    """Where everything is."""

    agent: jax.Array  # int32 [], its cell
    objects: jax.Array  # int32 [objects], their cells
    present: jax.Array  # bool [objects]
    steps: jax.Array  # int32 [], of the episode
    episode_return: jax.Array  # float32 [], so far


class Draws(NamedTuple):
    """Uniform in [0, 1): what a step may need."""

    returns: jax.Array  # float32 [*shape, objects]
    ends: jax.Array  # float32 [*shape]
    cells: jax.Array | None  # float32 [*shape, objects], of those that come back
    begin: jax.Array | None  # float32 [*shape, 1 + objects], of the next episode


class Kind(NamedTuple):
    """Objects of a kind: `count` x [reward, ends, returns] in the paper's tables."""

    count: int
    reward: float
    ends: float
    returns: float


def make_params(
    rows: Sequence[str],
    kinds: Sequence[Kind],
    time_limit: int,
    collects: bool | jax.Array = False,
    key: jax.Array | None = None,
) -> Params:
    """A world.

    Args:
      rows: of the grid, of equal length: "#" for a wall, anything else for a free cell.
      kinds: of objects.
      time_limit: steps of an episode.
      collects: the action set.
      key: draws places that stay fixed; None for random ones.

    Raises:
      ValueError: it does not fit into the arrays, or there is no room for the objects; one line.
    """
    height, width = len(rows), len(rows[0])
    total = sum(kind.count for kind in kinds)
    walls = np.ones((FRAME, FRAME), bool)
    if max(height, width) > LARGEST or total > MOST_OBJECTS or len(kinds) > MOST_KINDS:
        raise ValueError(
            f"a grid of {height}x{width} cells with {total} objects of {len(kinds)} kinds; allowed "
            f"are up to {LARGEST}x{LARGEST}, {MOST_OBJECTS} and {MOST_KINDS}."
        )
    walls[1 : height + 1, 1 : width + 1] = [[cell == "#" for cell in row] for row in rows]
    walls = walls.ravel()
    free = int(np.sum(~walls))
    if free < 1 + total:
        raise ValueError(f"{free} free cells for the agent and {total} objects; give more cells.")
    order = np.where(walls, -1, np.cumsum(~walls) - 1)
    found = [(*kind[1:], index) for index, kind in enumerate(kinds) for _ in range(kind.count)]
    absent = MOST_OBJECTS - total
    reward, ends, returns, kind = zip(*found, *[(0.0, 0.0, 0.0, 0)] * absent)
    params = Params(
        cells=jnp.asarray(np.argsort(walls, kind="stable"), jnp.int32),
        order=jnp.asarray(order, jnp.int32),
        free=jnp.int32(free),
        objects=Objects(
            *(jnp.asarray(x, float) for x in (reward, ends, returns)),
            jnp.asarray(kind, jnp.int32),
            jnp.arange(MOST_OBJECTS) < total,
        ),
        places=None,
        collects=jnp.asarray(collects, bool),
        time_limit=jnp.int32(time_limit),
    )
    return params if key is None else fix_places(params, key)


def fix_places(params: Params, key: jax.Array) -> Params:
    """The same world with random places that stay what they are."""
    return params._replace(places=_place(params, jax.random.uniform(key, (1 + MOST_OBJECTS,))))


def _count(x: jax.Array) -> jax.Array:
    """How many of [n] are true: int32 []."""
    return jnp.sum(x, dtype=jnp.int32)


def _free_cell(params: Params, draw: jax.Array, taken: jax.Array, is_taken: jax.Array) -> jax.Array:
    """The cell that `draw` in [0, 1) picks uniformly from the free ones that are not taken.

    Args:
      params: of the world.
      draw: float32 [].
      taken: int32 [n], distinct cells.
      is_taken: bool [n], whether they count.
    """
    taken = params.order[taken]
    free = params.free - _count(is_taken)
    # Rounding may reach the end of the range for draws next to 1.
    place = jnp.minimum(jnp.floor(draw * free).astype(jnp.int32), free - 1)
    # The i-th of the taken ones in their order, from 0, has so many free ones before it.
    earlier = jnp.sum(is_taken & (taken < taken[:, None]), axis=-1, dtype=jnp.int32)
    return params.cells[place + _count(is_taken & (taken - earlier <= place))]


def _place(params: Params, draws: jax.Array) -> Places:
    """Distinct random cells, from draws [1 + objects]: first the agent's, then the objects'."""
    cells = jnp.zeros(1 + MOST_OBJECTS, jnp.int32)
    placed = jnp.zeros(1 + MOST_OBJECTS, bool)
    exists = jnp.concatenate([jnp.array([True]), params.objects.exists])
    for i in range(1 + MOST_OBJECTS):
        cells = cells.at[i].set(_free_cell(params, draws[i], cells, placed))
        placed = placed.at[i].set(exists[i])
    return Places(cells[0], cells[1:])


def _begin(params: Params, draws: jax.Array | None) -> State:
    """The state at the beginning of an episode."""
    places = params.places or _place(params, draws)
    return State(*places, params.objects.exists, jnp.int32(0), jnp.zeros(()))


def reset(params: Params, key: jax.Array) -> State:
    """The first episode's beginning."""
    return _begin(params, jax.random.uniform(key, (1 + MOST_OBJECTS,)))


def draw(params: Params, key: jax.Array, shape: tuple[int, ...]) -> Draws:
    """Random numbers of so many steps; places alone where they are not fixed."""
    count = 1 + MOST_OBJECTS
    numbers = jax.random.uniform(key, (*shape, count if params.places else 3 * count - 1))
    few = Draws(numbers[..., 1:count], numbers[..., 0], None, None)
    if params.places:
        return few
    return few._replace(cells=numbers[..., count : 2 * count - 1], begin=numbers[..., -count:])


def step(
    params: Params, state: State, action: jax.Array, random: Draws
) -> tuple[State, GameTransition]:
    """One action; see `in_graph.Environment`.

    First the agent moves or reaches, then objects are collected, then those that were gone before
    this step may come back, and at last the episode may end.
    """
    reaches = params.collects & (action >= NUM_MOVES)
    row, column = jnp.divmod(action.astype(jnp.int32) % NUM_MOVES, 3)
    goal = state.agent + (row - 1) * FRAME + column - 1
    moves = ~reaches & (params.order[goal] >= 0)
    agent = jnp.where(moves, goal, state.agent)

    collected = state.present & (state.objects == jnp.where(reaches, goal, agent))
    collected &= reaches | ~params.collects
    reward = jnp.sum(jnp.where(collected, params.objects.reward, 0.0))
    ended = jnp.any(collected & (random.ends < params.objects.ends))

    gone = params.objects.exists & ~state.present
    back = gone & (random.returns < params.objects.returns)
    present, objects = state.present & ~collected, state.objects
    if params.places is None:
        for i in range(MOST_OBJECTS):
            taken, is_taken = jnp.append(objects, agent), jnp.append(present, True)
            cell = _free_cell(params, random.cells[i], taken, is_taken)
            objects = objects.at[i].set(jnp.where(back[i], cell, objects[i]))
            present = present.at[i].set(present[i] | back[i])
    present |= back

    steps, episode_return = state.steps + 1, state.episode_return + reward
    ended |= steps >= params.time_limit
    after = State(agent, objects, present, steps, episode_return)
    anew = _begin(params, random.begin)
    after = begun_anew(ended, anew, after)
    return after, GameTransition(reward, 1.0 - ended.astype(reward.dtype), episode_return)


def num_actions(params: Params) -> jax.Array:
    """Of this world: the first so many of `NUM_ACTIONS`."""
    return jnp.where(params.collects, NUM_ACTIONS, NUM_MOVES)


def index(params: Params, state: State) -> jax.Array:
    """The state's number where places are fixed: int32 [], below free cells x 2^objects."""
    bits = jnp.sum(state.present << jnp.arange(MOST_OBJECTS), dtype=jnp.int32)
    return (params.order[state.agent] << _count(params.objects.exists)) + bits


def num_states(params: Params) -> jax.Array:
    """How many numbers there are: int32 []."""
    return params.free << _count(params.objects.exists)


def observe(params: Params, state: State) -> jax.Array:
    """A plane for each kind of object, then the agent's: float32 [13, 13, 4], 1 where one is; a
    smaller grid is in the upper left."""
    planes = jnp.zeros((FRAME * FRAME, MOST_KINDS + 1))
    planes = planes.at[state.objects, params.objects.kind].add(state.present.astype(planes.dtype))
    planes = planes.at[state.agent, -1].set(1.0)
    return planes.reshape(FRAME, FRAME, -1)[1:-1, 1:-1]
