"""The inner learner's gradient, cheap to differentiate again.

The backward pass of a meta-gradient needs, for each inner step, the product of a vector v with the
derivatives of that step's gradient g = grad_x loss(x, w). Reverse mode over reverse mode keeps
what both passes met. As <v, g> is the derivative of the loss along v,

    <v, d g / d (x, w)> = d / d (x, w) of  D_v loss

it is enough to differentiate one forward pass with tangents: nothing of the inner backward pass is
kept, and the forward pass can be taken again when the product is due.

Reference: Kemaev et al., "Scalable Meta-Learning via Mixed-Mode Differentiation", ICML 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bmg.meta.trees import add_up

PyTree = Any
Differentiation = Literal["mixed", "plain"]  # mixed-mode, or reverse over reverse
_GRADIENT = "inner_gradient"  # the name of what a recomputed step keeps


def inner_gradient(
    predict: Callable[[PyTree, PyTree], PyTree],
    loss: Callable[[PyTree, PyTree, PyTree, PyTree], tuple[jax.Array, PyTree]],
    differentiation: Differentiation = "mixed",
) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]:
    """The gradient by which an inner learner descends: a semi-gradient, in one forward pass.

    The loss sees the predictions twice: it is differentiated in the first argument, while targets
    and ratios are made of the second. The meta-gradient goes through both.

    Args:
      predict: (params, data) -> predictions.
      loss: (predictions, the same again as constants, meta, data) -> (scalar, aux).
      differentiation: how the gradient is differentiated again; the values are the same.

    Returns:
      (params, meta, data) -> (gradient like params, aux), differentiable once in reverse mode in
      params and meta, and constant in data. With "mixed" neither function may close over what is
      differentiated: that has to come in `meta`.
    """

    def gradient(params, meta, data):
        predictions, pullback = jax.vjp(lambda p: predict(p, data), params)
        cotangent, aux = jax.grad(loss, has_aux=True)(predictions, predictions, meta, data)
        return pullback(cotangent)[0], aux

    if differentiation == "plain":
        return gradient

    def along(tangent, aux_cotangent, params, meta, data):
        """The loss's derivative along `tangent`, and <aux_cotangent, aux>."""
        predictions, direction = jax.jvp(lambda p: predict(p, data), (params,), (tangent,))
        _, slope, aux = jax.jvp(
            lambda p: loss(p, predictions, meta, data), (predictions,), (direction,), has_aux=True
        )
        return slope + _dot(aux_cotangent, aux)

    @jax.custom_vjp
    def mixed(params, meta, data):
        return gradient(params, meta, data)

    def forward(params, meta, data):
        return gradient(params, meta, data), (params, meta, data)

    def backward(inputs, cotangents):
        return *jax.grad(along, argnums=(2, 3))(*cotangents, *inputs), None

    mixed.defvjp(forward, backward)

    def named(params, meta, data):
        value, aux = mixed(params, meta, data)
        return jax.tree.map(lambda x: checkpoint_name(x, _GRADIENT), value), aux

    return named


def accumulative_trace(step: Callable, decay: float) -> Callable:
    """`step` whose derivative in the state is taken for decay times the identity.

    Differentiated through n such steps, the Hessians' products of the exact meta-gradient become
    powers of the decay (Xu et al. 2018; Bonnet et al. section 4.1):

        T sum_i prod_{j<i} (I + H_j) N_i    becomes    T sum_i decay^(i-1) N_i

    Whatever in the state has derivatives (parameters, an optimiser's moments) is treated alike.

    Args:
      step: (meta_params, state, batch, key) -> (state, aux).
      decay: mu in [0, 1]; 0 is the one-step meta-gradient.

    Raises:
      ValueError: a decay outside of [0, 1]; one line.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"the trace's decay is {decay}; allowed are numbers from 0 to 1.")

    def carried(new, old):
        return new + decay * (old - jax.lax.stop_gradient(old)) if _real(old) else new

    def traced(meta_params, state, batch, key):
        new, aux = step(meta_params, jax.lax.stop_gradient(state), batch, key)
        return jax.tree.map(carried, new, state), aux

    return traced


def recomputed(step: Callable) -> Callable:
    """`step`, of which the backward pass keeps inputs and inner gradients and nothing else."""
    kept = jax.checkpoint(step, policy=jax.checkpoint_policies.save_only_these_names(_GRADIENT))

    @jax.custom_vjp
    def recomputing(*arguments):
        return kept(*arguments)

    def backward(pullback, cotangents):
        return _after(cotangents, pullback)(cotangents)

    recomputing.defvjp(lambda *arguments: jax.vjp(kept, *arguments), backward)
    return recomputing


def _after(cotangents: PyTree, pullback: PyTree) -> PyTree:
    """`pullback` with what it keeps made to depend on `cotangents`.

    XLA drops the barriers of `jax.checkpoint` on CPU, finds that the step is computed twice, and
    keeps everything in order to compute it once. It does not see that this adds zero.
    """
    zero = add_up(0.0 * x.ravel()[0] for x in jax.tree.leaves(cotangents) if _real(x))
    return jax.tree.map(lambda x: x + zero.astype(x.dtype) if _real(x) else x, pullback)


def _real(x: jax.Array) -> bool:
    """Whether it has derivatives."""
    return jnp.issubdtype(x.dtype, jnp.inexact) and x.size > 0


def _dot(cotangent: PyTree, value: PyTree) -> jax.Array:
    """<cotangent, value> over the leaves that have derivatives."""
    pairs = zip(jax.tree.leaves(cotangent), jax.tree.leaves(value), strict=True)
    return add_up(jnp.vdot(c, v) for c, v in pairs if _real(v))
