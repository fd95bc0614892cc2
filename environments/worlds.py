"""The worlds that update rules are discovered in, by name; and all of them as one environment.

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020, appendix A. The
worlds that are held out are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmg.environments import chain, grid
from bmg.environments.grid import Kind
from bmg.environments.in_graph import GameTransition


class GridWorld(NamedTuple):
    """A family of grids; one is drawn for each lifetime."""

    rows: tuple[str, ...]  # "#" for a wall
    kinds: tuple[Kind, ...]
    time_limit: int
    tabular: bool  # whether all episodes of a lifetime have the same places
    both_action_sets: bool = True  # either is drawn; or else objects are stepped on


class ChainWorld(NamedTuple):
    """A family of chains; one is drawn for each lifetime."""

    longest: int  # the shortest one has 5 steps
    noisy: bool
    tabular: bool = True  # whether the agent sees the state's number, or else its 22 bits


def _empty(height: int, width: int) -> tuple[str, ...]:
    return ("." * width,) * height


_DENSE = (Kind(2, 1, 0, 0.05), Kind(1, -1, 0.5, 0.1), Kind(1, -1, 0, 0.5))
_LONG = (Kind(2, 1, 0, 0.01), Kind(2, -1, 0.5, 1))

PAPER = {
    "dense": GridWorld(_empty(11, 11), _DENSE, 500, True),
    "sparse": GridWorld(_empty(13, 13), (Kind(1, 1, 1, 0), Kind(1, -1, 1, 0)), 50, True),
    "long": GridWorld(_empty(11, 11), _LONG, 1000, True),
    "longer": GridWorld(
        _empty(7, 9), (Kind(2, 1, 0.1, 0.01), Kind(5, -1, 0.8, 1)), 2000, True
    ),
    "long-dense": GridWorld(_empty(11, 11), (Kind(4, 1, 0, 0.005),), 2000, True),
    "random-dense": GridWorld(_empty(11, 11), _DENSE, 500, False),
    "random-long": GridWorld(_empty(11, 11), _LONG, 1000, False),
    "random-small": GridWorld(
        _empty(5, 7), (Kind(2, 1, 0, 0.05), Kind(2, -1, 0.5, 0.1)), 500, False
    ),
    "random-sparse": GridWorld(_empty(5, 7), (Kind(1, 1, 1, 1), Kind(2, -1, 1, 1)), 50, False),
    "random-very-dense": GridWorld(_empty(11, 11), (Kind(1, 1, 0, 1),), 2000, False),
    "chain-short": ChainWorld(30, False),
    "chain-short-noisy": ChainWorld(30, True),
    "chain-long": ChainWorld(50, False),
    "chain-long-noisy": ChainWorld(50, True),
    "chain-distractor": ChainWorld(30, False, tabular=False),
}  # fmt: skip

HELD_OUT = {
    "rooms": GridWorld(
        (
            "....#....",
            ".........",
            "....#....",
            "#.###.###",
            "....#....",
            ".........",
            "....#....",
        ),
        (Kind(1, 1, 0.5, 0.1), Kind(1, 1, 0, 0.02), Kind(2, -1, 0.2, 0.2)),
        200,
        True,
    ),
    "cliff": GridWorld(
        (".......", ".......", ".......", ".#####."),
        (Kind(1, 1, 1, 0), Kind(3, -1, 1, 0)),
        100,
        True,
    ),
}  # fmt: skip

WORLDS = {**PAPER, **HELD_OUT}


_SHORTEST_CHAIN = 5  # steps
_IDLE_GRID = GridWorld((".",), (), 1, True, False)
_IDLE_CHAIN = ChainWorld(_SHORTEST_CHAIN, False)
NUM_ACTIONS = grid.NUM_ACTIONS  # the most that a world has


class Params(NamedTuple):
    """A world: a grid or a chain, beside one of the other that idles."""

    grid: grid.Params
    chain: chain.Params
    is_chain: jax.Array  # bool []


class State(NamedTuple):
    """Of both."""

    grid: grid.State
    chain: chain.State


def stack_families(names: Sequence[str]) -> Params:
    """Families of worlds: stacked [names, ...], for `draw_world` to take one of."""
    found = []
    for name in names:
        family = WORLDS[name]
        is_chain = isinstance(family, ChainWorld)
        found.append(
            Params(
                grid_family(_IDLE_GRID if is_chain else family),
                chain_family(family if is_chain else _IDLE_CHAIN),
                jnp.asarray(is_chain),
            )
        )
    return jax.tree.map(lambda *x: jnp.stack(x), *found)


def grid_family(family: GridWorld) -> grid.Params:
    """A grid without places yet; `collects` says whether there are both action sets."""
    return grid.make_params(family.rows, family.kinds, family.time_limit, family.both_action_sets)


def chain_family(family: ChainWorld) -> chain.Params:
    """The longest chain."""
    return chain.make_params(family.longest, family.noisy)


def draw_grid(family: grid.Params, key: jax.Array) -> grid.Params:
    """A grid of the family, with one of the action sets."""
    return family._replace(collects=family.collects & jax.random.bernoulli(key))


def draw_chain(family: chain.Params, key: jax.Array) -> chain.Params:
    """A chain of the family, with a length."""
    return family._replace(length=jax.random.randint(key, (), _SHORTEST_CHAIN, family.length + 1))


def draw_world(family: Params, key: jax.Array) -> Params:
    """The world of one lifetime; a grid's places are the same in all episodes."""
    set_key, place_key, chain_key = jax.random.split(key, 3)
    return Params(
        grid.fix_places(draw_grid(family.grid, set_key), place_key),
        draw_chain(family.chain, chain_key),
        family.is_chain,
    )


def draw_random_world(family: Params, key: jax.Array) -> Params:
    """The same, with places that are drawn in each episode."""
    set_key, chain_key = jax.random.split(key)
    return Params(
        draw_grid(family.grid, set_key), draw_chain(family.chain, chain_key), family.is_chain
    )


def reset(params: Params, key: jax.Array) -> State:
    """The first episode's beginning."""
    grid_key, chain_key = jax.random.split(key)
    return State(grid.reset(params.grid, grid_key), chain.reset(params.chain, chain_key))


def draw(params: Params, key: jax.Array, shape: tuple[int, ...]) -> tuple:
    """What so many steps of both draw."""
    grid_key, chain_key = jax.random.split(key)
    return grid.draw(params.grid, grid_key, shape), chain.draw(params.chain, chain_key, shape)


def step(
    params: Params, state: State, action: jax.Array, random: tuple
) -> tuple[State, GameTransition]:
    """One step of both; what the world's own one brings. See `in_graph.Environment`."""
    in_grid, grid_step = grid.step(params.grid, state.grid, action, random[0])
    in_chain, chain_step = chain.step(params.chain, state.chain, action, random[1])
    found = jax.tree.map(lambda a, b: jnp.where(params.is_chain, a, b), chain_step, grid_step)
    return State(in_grid, in_chain), found


def index(params: Params, state: State) -> jax.Array:
    """A tabular world's state's number: int32 []."""
    in_grid = grid.index(params.grid, state.grid)
    return jnp.where(params.is_chain, chain.index(params.chain, state.chain), in_grid)


def most_states(names: Sequence[str]) -> int:
    """How many rows a table needs for any of these worlds."""
    families = stack_families(names)
    numbers = jax.vmap(
        lambda p: jnp.where(p.is_chain, chain.num_states(p.chain), grid.num_states(p.grid))
    )(families)
    return int(jnp.max(numbers))


def num_actions(params: Params) -> jax.Array:
    """Of this world: the first so many of `NUM_ACTIONS`."""
    return jnp.where(params.is_chain, chain.NUM_ACTIONS, grid.num_actions(params.grid))
