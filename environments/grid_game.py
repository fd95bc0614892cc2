"""A grid world as a game of its own: one of `worlds`, with the nine moves.

Objects are collected by stepping on them. Where the world's places are fixed, the seed draws them,
once for all environments; elsewhere each episode draws its own. It keeps the protocol of
`in_graph`.
"""

from __future__ import annotations

from typing import Literal

import jax

from bmg.environments import grid, worlds
from bmg.environments.grid import OBSERVATION_SHAPE, draw, observe, reset, step
from bmg.storage.fields import Seed, read

__all__ = ["NUM_ACTIONS", "OBSERVATION_SHAPE", "draw", "make_params", "observe", "reset", "step"]

NUM_ACTIONS = grid.NUM_MOVES
_GRIDS = {name: x for name, x in worlds.WORLDS.items() if isinstance(x, worlds.GridWorld)}


def make_params(world: str = "random-dense", seed: int = 0) -> grid.Params:
    """The paper's worlds, or the ones that are held out.

    Raises:
      ValueError: no grid has that name, or the seed is none; one line.
    """
    found = _GRIDS[read(Literal[tuple(_GRIDS)], world, "world")]
    seed = read(Seed, seed, "seed")
    key = jax.random.PRNGKey(seed) if found.tabular else None
    return grid.make_params(found.rows, found.kinds, found.time_limit, key=key)
