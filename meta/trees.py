"""Sums over the leaves of a tree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def add_up(scalars: Iterable[jax.Array]) -> jax.Array:
    """Sum of scalars; [] float.

    XLA repeats a chain of additions inside each of its consumers. For the norm of a gradient,
    which every parameter's update needs, that would be most of the compilation. It makes a chain
    of every sum, unless it does not see where the terms come from.
    """
    terms = jnp.stack([jnp.asarray(scalar, float) for scalar in scalars] or [jnp.zeros(())])
    return jnp.sum(jax.lax.optimization_barrier(terms))


def squared_norm(tree: PyTree) -> jax.Array:
    """Sum of squares over all leaves; [] float."""
    return add_up(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree))
