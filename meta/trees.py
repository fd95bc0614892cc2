"""Sums over the leaves of a tree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def add_up(scalars: Iterable[jax.Array]) -> jax.Array:
    """Sum of scalars, taken as their product with ones; [] float.

    XLA repeats a chain of additions inside each of its consumers. For the norm of a gradient,
    which every parameter's update needs, that would be most of the compilation.
    """
    terms = jnp.stack([jnp.asarray(scalar, float) for scalar in scalars] or [jnp.zeros(())])
    return jnp.dot(terms, jnp.ones_like(terms), precision=jax.lax.Precision.HIGHEST)


def squared_norm(tree: PyTree) -> jax.Array:
    """Sum of squares over all leaves; [] float."""
    return add_up(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree))
