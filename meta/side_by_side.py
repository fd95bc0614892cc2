"""Many seeds of one program: mapped on each device, and spread over devices.

seeds  0 1 2 3        seeds: each device has as many; they are mapped there
       └┬┘ └┬┘        shards: a seed may be spread over several devices, which average
device  0   1         what they learn along that axis
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

PyTree = Any
SEEDS = "seeds"
SHARDS = "shards"  # the axis of the devices that one seed is spread over


def make_mesh(devices: Sequence[jax.Device], seeds: int, shards: int) -> Mesh:
    """The first seeds * shards devices.

    Args:
      devices: that there are.
      seeds: how many run at once, beside those that are mapped.
      shards: devices of each.
    """
    return Mesh(np.array(devices[: seeds * shards]).reshape(seeds, shards), (SEEDS, SHARDS))


def side_by_side(
    function: Callable,
    mesh: Mesh,
    given: tuple[PyTree, ...],
    results: PyTree,
    alone: bool,
    donate: tuple[int, ...] = (),
) -> Callable:
    """`function` of one seed -> of all seeds, compiled.

    Args:
      function: what it is given and gives has no axis of seeds.
      mesh: as of `make_mesh`.
      given: how each argument lies on the devices: trees of `PartitionSpec`, or one for all of an
        argument's arrays. One whose first axis is `SEEDS` has that axis in front; others are the
        same for all seeds.
      results: how the results lie, all with the axis in front.
      alone: whether each device has one seed at a time. XLA's CPU compiler is several times slower
        with a batch of one than without a batch.
      donate: which arguments' arrays may be written over.
    """
    axes = tuple(0 if _of_each_seed(spec) else None for spec in given)

    def one(*arguments):
        own = [
            x if axis is None else jax.tree.map(lambda leaf: leaf[0], x)
            for x, axis in zip(arguments, axes)
        ]
        return jax.tree.map(lambda leaf: leaf[None], function(*own))

    # What crosses devices is alike on all of them afterwards; the check of that refuses some of
    # JAX's own loops.
    mapped = jax.shard_map(
        one if alone else jax.vmap(function, in_axes=axes),
        mesh=mesh, in_specs=given, out_specs=results, check_vma=False,
    )  # fmt: skip
    return jax.jit(mapped, donate_argnums=donate)


def _of_each_seed(spec: PyTree) -> bool:
    specs = jax.tree.leaves(spec, is_leaf=lambda x: isinstance(x, PartitionSpec))
    return bool(len(specs[0])) and specs[0][0] == SEEDS
