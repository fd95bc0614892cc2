"""The meta-gradient of any inner learner: start, step, unroll, objective, meta_gradient.

    x(0)  = start(w, origin)                      where the inner learner begins
    x(k)  = step(w, x(k-1), batch_k)              one update, differentiable in w
    loss  = objective(w, [x(0) ... x(K)], batch)  what the meta-learner minimises
    meta_gradient = d loss / d w

Everything the papers compare is a choice of these three functions: `objectives.final_value` is
the ordinary meta-gradient (BMG Eq. 1), `objectives.bootstrapped` is BMG (Eq. 2).

References:
  Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022 (https://arxiv.org/abs/2109.04504).
  Xu et al., "Meta-Gradient Reinforcement Learning", NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from bmg.meta.differentiation import Differentiation, recomputed

PyTree = Any
Key = jax.Array


class Start(Protocol):
    """Where the inner learner begins: identity online, the initialisation itself in MAML."""

    def __call__(self, meta_params: PyTree, origin: PyTree, key: Key) -> PyTree: ...


class Step(Protocol):
    """One update of the inner learner, phi in the papers; differentiable in `meta_params`."""

    def __call__(
        self, meta_params: PyTree, state: PyTree, batch: PyTree, key: Key
    ) -> tuple[PyTree, PyTree]: ...


class Unroll(NamedTuple):
    """The inner learner's trajectory x(0), ..., x(K), all differentiable in the meta-parameters."""

    states: tuple[PyTree, ...]  # K + 1 states; of a scan, the first and the last alone
    aux: PyTree  # auxiliary outputs of `step`: a tuple of K; of a scan, stacked [K, ...]


class Outcome(NamedTuple):
    """What an objective returns besides its loss."""

    next_state: PyTree  # where the inner learner continues
    metrics: dict[str, jax.Array]
    target_aux: PyTree = ()  # auxiliary outputs of the steps to a bootstrapped target


class Objective(Protocol):
    """The meta-learner's loss."""

    def __call__(
        self, meta_params: PyTree, unrolled: Unroll, batch: PyTree, key: Key
    ) -> tuple[jax.Array, Outcome]: ...


class MetaGradient(NamedTuple):
    """What one evaluation of the meta-gradient gives."""

    gradient: PyTree  # like the meta-parameters
    loss: jax.Array  # []
    next_state: PyTree  # like the inner learner's state
    aux: tuple[PyTree, ...]  # K auxiliary outputs of `step`
    target_aux: PyTree  # of the objective's own steps
    metrics: dict[str, jax.Array]  # of the objective


def online_start(meta_params: PyTree, origin: PyTree, key: Key) -> PyTree:
    """Online meta-learning: the inner learner continues from its present state."""
    del meta_params, key
    return origin


def unroll(
    step: Step,
    meta_params: PyTree,
    state: PyTree,
    batches: Sequence[PyTree],
    key: Key,
    differentiation: Differentiation = "plain",
) -> Unroll:
    """Takes K = len(batches) steps from `state`.

    The loop is unrolled in Python: K is small, and on CPU a convolution inside `lax.scan` is an
    order of magnitude slower than outside of it.

    Args:
      step: the inner learner's update.
      meta_params: w.
      state: x(0).
      batches: K batches, one for each step.
      key: random key, split over the steps.
      differentiation: "mixed" keeps the states, and the backward pass computes each step again, so
        that memory hardly grows with K; the last step, which it needs first, is kept. "plain" keeps
        everything that the steps computed.

    Returns:
      The K + 1 states and the K auxiliary outputs.
    """
    states, auxs = [state], []
    keys = jax.random.split(key, max(len(batches), 1))
    earlier = recomputed(step) if differentiation == "mixed" else step
    steps = [earlier] * (len(batches) - 1) + [step]
    for take, batch, step_key in zip(steps, batches, keys):
        state, aux = take(meta_params, state, batch, step_key)
        states.append(state)
        auxs.append(aux)
    return Unroll(tuple(states), tuple(auxs))


def scan(
    step: Step, meta_params: PyTree, state: PyTree, batches: Sequence[PyTree], key: Key
) -> Unroll:
    """`unroll` as one loop of the compiled program: for many steps, where nothing convolves.

    Returns:
      The first and the last state, and the auxiliary outputs stacked along a new leading axis.
    """
    if not batches:
        return Unroll((state,), ())

    def body(state, inputs):
        return step(meta_params, state, *inputs)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    last, aux = jax.lax.scan(body, state, (stacked, jax.random.split(key, len(batches))))
    return Unroll((state, last), aux)


def meta_gradient(
    start: Start, step: Step, objective: Objective, differentiation: Differentiation = "mixed"
) -> Callable[..., MetaGradient]:
    """Composes start, step and objective, and differentiates in the meta-parameters.

    Args:
      start: where the inner learner begins.
      step: the inner learner's update.
      objective: the meta-learner's loss.
      differentiation: how the unroll is differentiated, see `unroll`.

    Returns:
      A function (meta_params, origin, batches, objective_batch, key) -> MetaGradient, in which
      `batches` is a sequence of K batches. Means over tasks or devices and the meta-optimiser
      are the caller's.
    """

    def loss_fn(meta_params, origin, batches, objective_batch, key):
        start_key, unroll_key, objective_key = jax.random.split(key, 3)
        state = start(meta_params, origin, start_key)
        unrolled = unroll(step, meta_params, state, batches, unroll_key, differentiation)
        loss, outcome = objective(meta_params, unrolled, objective_batch, objective_key)
        return loss, (unrolled.aux, outcome)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def compute(meta_params, origin, batches, objective_batch, key) -> MetaGradient:
        (loss, (aux, outcome)), gradient = grad_fn(
            meta_params, origin, batches, objective_batch, key
        )
        return MetaGradient(
            gradient, loss, outcome.next_state, aux, outcome.target_aux, outcome.metrics
        )

    return compute
