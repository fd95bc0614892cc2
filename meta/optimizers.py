"""Optimisers that can be differentiated through, also where a gradient is exactly zero."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bmg.meta.trees import squared_norm


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales an update down to `max_norm`, as `optax.clip_by_global_norm` does.

    optax's own divides by the norm and takes its root at zero, so that the meta-gradient through
    an all-zero gradient is NaN. Here the root is taken of clipped norms only.
    """

    def update(updates, state, params=None):
        del params
        square = squared_norm(updates)
        clipped = square > max_norm**2
        scale = jnp.where(clipped, max_norm * jax.lax.rsqrt(jnp.where(clipped, square, 1.0)), 1.0)
        return jax.tree.map(lambda u: u * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class RunningNormState(NamedTuple):
    """Of the global norms so far, each as it was left by the clip."""

    total: jax.Array  # float32 [], weighted
    weight: jax.Array  # float32 []


def clip_by_running_norm(factor: float, decay: float = 0.99) -> optax.GradientTransformation:
    """Scales an update down to `factor` times the mean norm of those before; the first one stays.

    For gradients whose usual norm is not known beforehand and a few of which are enormous.
    Norms of 0 do not count, nor do those beyond what a float32 holds, whose updates become 0. Not
    to be differentiated through.

    Args:
      factor: over 1, or else norms can only fall.
      decay: of the weights in the mean, for each later update.
    """

    def init(params):
        del params
        return RunningNormState(jnp.zeros(()), jnp.zeros(()))

    def update(updates, state, params=None):
        del params
        norm = jnp.sqrt(squared_norm(updates))
        counts = jnp.isfinite(norm) & (norm > 0)
        mean = state.total / jnp.maximum(state.weight, 1.0)
        most = jnp.where(state.weight > 0, factor * mean, jnp.inf)
        left = jnp.minimum(norm, most)
        scale = jnp.where(norm > most, left / norm, 1.0)
        scale = jnp.where(jnp.isinf(norm), 0.0, scale)
        after = RunningNormState(decay * state.total + left, decay * state.weight + 1.0)
        after = jax.tree.map(lambda new, old: jnp.where(counts, new, old), after, state)
        return jax.tree.map(lambda u: u * scale, updates), after

    return optax.GradientTransformation(init, update)


def scale_by_rms(
    decay: float, epsilon: float, epsilon_in_root: bool
) -> optax.GradientTransformation:
    """RMSProp's scaling, equal to `optax.scale_by_rms`, with a finite slope at zero.

    With epsilon outside the root, the root of a zero second moment has an infinite slope and the
    meta-gradient is NaN wherever a gradient is exactly zero (a dead unit, an unused action); a
    tiny constant inside the root, far below epsilon, keeps it finite.

    Args:
      decay: of the second moment.
      epsilon: added to the second moment (inside the root) or to its root.
      epsilon_in_root: which of the two.
    """
    if epsilon_in_root:
        return optax.scale_by_rms(decay=decay, eps=epsilon, eps_in_sqrt=True)
    tiny = (1e-4 * epsilon) ** 2

    def init(params):
        return optax.ScaleByRmsState(nu=jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        nu = optax.tree.update_moment(updates, state.nu, decay, 2)
        scaled = jax.tree.map(lambda n, u: u / (jnp.sqrt(n + tiny) + epsilon), nu, updates)
        return scaled, optax.ScaleByRmsState(nu=nu)

    return optax.GradientTransformation(init, update)
