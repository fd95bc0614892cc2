"""Replay inside a compiled program: the newest unrolls in arrays, the oldest written over.

append                    sample
unrolls [B, ...] ──► ring [capacity, ...] ──► uniformly, with replacement
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any


class Ring(NamedTuple):
    """What is stored."""

    unrolls: PyTree  # [capacity, ...] of each leaf
    appended: jax.Array  # int32 [], so far; once it is full, less a multiple of the capacity


def init(unroll: PyTree, capacity: int) -> Ring:
    """An empty one.

    Args:
      unroll: shapes and dtypes of one unroll.
      capacity: unrolls that stay.
    """
    zeros = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), unroll)
    return Ring(zeros, jnp.int32(0))


def append(ring: Ring, unrolls: PyTree) -> Ring:
    """With B more unrolls, [B, ...] of each leaf; B divides the capacity."""
    count, capacity = (jax.tree.leaves(x)[0].shape[0] for x in (unrolls, ring.unrolls))
    if capacity % count:
        raise ValueError(f"a ring of {capacity} unrolls cannot be filled {count} at a time")
    start = ring.appended % capacity

    def put(stored: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(stored, new, start, axis=0)

    appended = ring.appended + count
    appended = jnp.where(appended >= 2 * capacity, appended - capacity, appended)
    return Ring(jax.tree.map(put, ring.unrolls, unrolls), appended)


def sample(ring: Ring, key: jax.Array, count: int) -> PyTree:
    """`count` unrolls of a ring that is not empty: [count, ...] of each leaf."""
    capacity = jax.tree.leaves(ring.unrolls)[0].shape[0]
    stored = jnp.minimum(ring.appended, capacity)
    index = jax.random.randint(key, (count,), 0, stored)
    return jax.tree.map(lambda x: x[index], ring.unrolls)
