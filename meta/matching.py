"""Matching functions mu(target, online): how far the updated learner is from its target.

Each compares two `Outputs` and returns a scalar that is zero where they agree. Means run over
every leading axis, so the scale does not depend on the batch (BMG section 5.2 and appendix C);
`summed` makes sums of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmg.meta.trees import squared_norm

PyTree = Any


class Outputs(NamedTuple):
    """What target and updated learner are compared by; a matching function uses what it needs."""

    logits: jax.Array  # [..., A] of a categorical prediction (a policy, class probabilities)
    value: jax.Array | None = None  # [...] scalar predictions
    params: PyTree = None  # the parameters themselves


Matching = Callable[[Outputs, Outputs], jax.Array]


def _check_same_shape(a: jax.Array, b: jax.Array) -> None:
    """Broadcasting would compare each prediction with many."""
    if a.shape != b.shape:
        raise ValueError(f"predictions of shapes {list(a.shape)} and {list(b.shape)}; give equal.")


def kl_divergence(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
    """Mean of KL(p || q) over the leading axes of logits [..., A]."""
    _check_same_shape(p_logits, q_logits)
    log_p = jax.nn.log_softmax(p_logits)
    log_q = jax.nn.log_softmax(q_logits)
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def kl(target: Outputs, online: Outputs) -> jax.Array:
    """KL(target || online), the paper's policy matching (BMG App. C, mu^pi)."""
    return kl_divergence(target.logits, online.logits)


def reverse_kl(target: Outputs, online: Outputs) -> jax.Array:
    """KL(online || target) (BMG Fig. 9 and 14)."""
    return kl_divergence(online.logits, target.logits)


def symmetric_kl(target: Outputs, online: Outputs) -> jax.Array:
    """KL(target || online) + KL(online || target), "KL-S" (the paper states no weights)."""
    return kl(target, online) + reverse_kl(target, online)


DIVERGENCES = {"kl": kl, "reverse_kl": reverse_kl, "symmetric_kl": symmetric_kl}  # by name


def value(target: Outputs, online: Outputs) -> jax.Array:
    """Mean squared error of the values (BMG App. C, mu^v)."""
    _check_same_shape(target.value, online.value)
    return jnp.mean(jnp.square(target.value - online.value))


def kl_and_value(weight: float) -> Matching:
    """Policy matching plus `weight` times value matching (BMG App. C, mu^(pi+v), weight 0.25)."""

    def matching(target: Outputs, online: Outputs) -> jax.Array:
        return kl(target, online) + weight * value(target, online)

    return matching


def summed(matching: Matching, copies: int = 1) -> Matching:
    """A matching function of predictions as a sum over all their leading axes.

    Args:
      matching: a mean over them.
      copies: of the same size, on other devices, whose results are averaged later.
    """

    def total(target: Outputs, online: Outputs) -> jax.Array:
        states = online.logits[..., 0].size
        return states * copies * matching(target, online)

    return total


def l2(target: Outputs, online: Outputs) -> jax.Array:
    """Euclidean distance of the parameters, as BMG section 5.2 prints it; finite slope at 0."""
    return jnp.sqrt(squared_l2(target, online) + jnp.finfo(jnp.float32).tiny)


def squared_l2(target: Outputs, online: Outputs) -> jax.Array:
    """Squared Euclidean distance of the parameters.

    BMG prints it once as a norm and once squared; appendix C.1's equivalence with the ordinary
    meta-gradient (an SGD target of half the gradient) holds for the squared one.
    """
    return squared_norm(jax.tree.map(jnp.subtract, target.params, online.params))
