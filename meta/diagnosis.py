"""How good a meta-gradient's estimate is: its mean, variance and bias by Monte Carlo.

    Var[g]    of each meta-parameter, over independent draws of all data       Bonnet et al. 2.3
    Bias[g]   || E[g] - E[g_oracle] ||, the oracle looks many steps ahead      Bonnet et al. Eq. 7

Both expectations are means over draws, so the measured bias of an unbiased estimate is about
sqrt(sum (Var / M + Var_oracle / M_oracle)), not 0. This floor is returned with it.

Reference: Bonnet et al., "One Step at a Time: Pros and Cons of Multi-Step Meta-Gradient
Reinforcement Learning", Meta-Learning Workshop at NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmg.meta.trees import add_up, squared_norm

PyTree = Any


class Moments(NamedTuple):
    """Of M independent estimates of a meta-gradient."""

    mean: PyTree  # like the meta-parameters
    variance: PyTree  # like the meta-parameters; of one estimate, unbiased
    count: int  # M


def monte_carlo(
    estimate: Callable[[jax.Array], PyTree], key: jax.Array, count: int, batch_size: int
) -> Moments:
    """Draws independent estimates of a meta-gradient.

    Args:
      estimate: key -> meta-gradient; all randomness (data, environments) comes from the key.
      key: random key.
      count: M >= 2.
      batch_size: estimates that are computed side by side; the more, the more memory.
    """
    return moments(jax.lax.map(estimate, jax.random.split(key, count), batch_size=batch_size))


def moments(gradients: PyTree) -> Moments:
    """Of M estimates, each leaf [M, ...], M >= 2."""
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), gradients)
    variance = jax.tree.map(lambda x: jnp.var(x, axis=0, ddof=1), gradients)
    return Moments(mean, variance, jax.tree.leaves(gradients)[0].shape[0])


class Bias(NamedTuple):
    """Of an estimate against an oracle's."""

    norm: jax.Array  # [], distance of the two means
    floor: jax.Array  # [], what it would be about if both expectations were equal


def bias(estimate: Moments, oracle: Moments) -> Bias:
    """Bonnet et al. Eq. 7, with what the estimator itself contributes."""
    difference = jax.tree.map(jnp.subtract, estimate.mean, oracle.mean)
    noise = jax.tree.map(
        lambda x, y: x / estimate.count + y / oracle.count, estimate.variance, oracle.variance
    )
    return Bias(norm(difference), jnp.sqrt(sum(jnp.sum(x) for x in jax.tree.leaves(noise))))


def norm(gradient: PyTree) -> jax.Array:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(squared_norm(gradient))


def cosine_similarity(first: PyTree, second: PyTree) -> jax.Array:
    """Of two meta-gradients; 0 where one is zero."""
    product = add_up(jnp.sum(x) for x in jax.tree.leaves(jax.tree.map(jnp.multiply, first, second)))
    norms = norm(first) * norm(second)
    return jnp.where(norms > 0, product / jnp.where(norms > 0, norms, 1.0), 0.0)
