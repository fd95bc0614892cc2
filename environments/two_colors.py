"""Two colours: a 5x5 grid with a good and a bad square that change places every 100,000 steps.

    . . B . .     The agent A moves up, down, left or right (actions 0 to 3); a move into a wall
    . . . . .     leaves it where it is. Reaching the blue square B or the red one R gives +1 or -1,
    . A . . .     and that square alone jumps to a uniformly random free cell. Any other step gives
    . . . R .     -0.04. Which square is the good one flips every 100,000 steps. There are no
    . . . . .     episodes: discounts are never 0.

What happens in time, with the flip after step 100,000 (blue is good first):

    step           99,999   100,000   100,001        the world counts its own steps: a flip comes
    blue pays          +1        +1        -1        after so many of them, whatever the agent's
    red pays           -1        -1        +1        rollouts are

It keeps the protocol of `in_graph`. A smaller grid is the upper left part of the largest one.

Reference: Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, appendix B.1. The wall, the
start (three distinct random cells) and the order of the objects are not stated there; wall and
start follow a public re-implementation.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from bmg.environments.in_graph import Transition

SIZE = 5  # cells along an edge of the largest grid
NUM_ACTIONS = 4  # up, down, left, right
OBSERVATION_SIZE = 3 * 2 * SIZE  # agent, blue, red: one-hot row and one-hot column of each
OBSERVATION_SHAPE = (OBSERVATION_SIZE,)
FLIP_EVERY = 100_000  # steps
STEP_REWARD = -0.04

# After a square was collected: it alone jumps (BMG), or agent and both squares are placed anew
# (Luketina et al. 2022, "Meta-Gradients in Non-Stationary Environments").
Respawn = Literal["collected", "all"]

_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))


class Params(NamedTuple):
    """A variant."""

    size: jax.Array  # int32 [], cells along an edge, 2 ... 5
    flip_every: jax.Array  # int32 [], steps between flips of the rewards
    respawn_all: jax.Array  # bool [], whether everything is placed anew after a collection


def make_params(
    flip_every: int = FLIP_EVERY, respawn: Respawn = "collected", size: int = SIZE
) -> Params:
    """The paper's variant, or another."""
    return Params(jnp.int32(size), jnp.int32(flip_every), jnp.bool_(respawn == "all"))


class State(NamedTuple):
    """Where everything is; cells are numbered row by row."""

    agent: jax.Array  # int32 [], 0 ... size * size - 1
    blue: jax.Array  # int32 []
    red: jax.Array  # int32 []
    steps: jax.Array  # int32 [], steps taken so far


def _free_cell(params: Params, draw: jax.Array, *occupied: jax.Array) -> jax.Array:
    """The cell that `draw` in [0, 1) picks uniformly from those not occupied (at most two)."""
    if len(occupied) == 2:
        occupied = (jnp.minimum(*occupied), jnp.maximum(*occupied))
    free = params.size * params.size - len(occupied)
    cell = jnp.floor(draw * free).astype(jnp.int32)
    # Rounding may reach the end of the range for draws next to 1.
    cell = jnp.minimum(cell, free - 1)
    for taken in occupied:
        cell += cell >= taken
    return cell


def _place(params: Params, draw: jax.Array, steps: jax.Array) -> State:
    """Three distinct uniformly random cells, from draws [3]."""
    agent = _free_cell(params, draw[0])
    blue = _free_cell(params, draw[1], agent)
    return State(agent, blue, _free_cell(params, draw[2], agent, blue), steps)


def reset(params: Params, key: jax.Array) -> State:
    """A new world: three distinct random cells, no steps taken."""
    return _place(params, jax.random.uniform(key, (3,)), jnp.int32(0))


def draw(params: Params, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Where squares come back: float32 [*shape, 3], uniform in [0, 1)."""
    del params
    return jax.random.uniform(key, (*shape, 3))


def step(
    params: Params, state: State, action: jax.Array, random: jax.Array
) -> tuple[State, Transition]:
    """Moves the agent; see `in_graph.Environment`. `random` is float32 [3] in [0, 1)."""
    size = params.size
    move = jnp.array(_MOVES, jnp.int32)[action]
    position = jnp.stack([state.agent // size, state.agent % size]) + move
    position = jnp.clip(position, 0, size - 1)
    agent = position[0] * size + position[1]
    on_blue, on_red = agent == state.blue, agent == state.red

    blue_reward = jnp.where(state.steps // params.flip_every % 2 == 0, 1.0, -1.0)
    reward = jnp.where(on_blue, blue_reward, jnp.where(on_red, -blue_reward, STEP_REWARD))
    reward = reward.astype(jnp.result_type(float))  # Python's numbers have a weaker type in JAX

    steps = state.steps + 1
    # Where one square is collected, the other one and the agent are what is not free.
    free = _free_cell(params, random[0], agent, jnp.where(on_blue, state.red, state.blue))
    blue = jnp.where(on_blue, free, state.blue)
    red = jnp.where(on_red, free, state.red)
    placed = _place(params, random, steps)
    anew = params.respawn_all & (on_blue | on_red)
    after = jax.tree.map(lambda a, b: jnp.where(anew, a, b), placed, State(agent, blue, red, steps))
    return after, Transition(reward, jnp.ones_like(reward))


def observe(params: Params, state: State) -> jax.Array:
    """One-hot row and column of agent, blue and red; float32 [30], six of them 1."""
    cells = jnp.stack([state.agent, state.blue, state.red])
    coordinates = jnp.stack([cells // params.size, cells % params.size], axis=-1)  # [3, 2]
    return jax.nn.one_hot(coordinates, SIZE).reshape(OBSERVATION_SHAPE)
