"""What the meta-learner minimises: the ordinary meta-objective and the bootstrapped one.

    final_value     f(x(K))                                       BMG Eq. 1
    mean_value      (f(x(1)) + ... + f(x(K))) / K                 BMG App. B.2
    bootstrapped    mu(target, x(K)), target = x(K) moved on by   BMG Eq. 2
                    L - 1 learned steps and one step on f itself
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax

from meta.core import Objective, Outcome, Step, Unroll, unroll

PyTree = Any


class BootstrapBatch(NamedTuple):
    """The data of one bootstrapped objective."""

    target: Sequence[PyTree]  # L - 1 batches, one for each learned target step
    final: PyTree = None  # batch of the last target step
    matching: PyTree = None  # inputs on which target and updated learner are compared


def final_value(loss: Callable[[PyTree, PyTree], tuple[jax.Array, dict]]) -> Objective:
    """The ordinary meta-gradient's objective: the loss at x(K) (BMG Eq. 1).

    Args:
      loss: (state, batch) -> (scalar, metrics).

    Returns:
      An objective; the learner goes on from x(K).
    """

    def objective(meta_params, unrolled, batch, key):
        del meta_params, key
        state = unrolled.states[-1]
        value, metrics = loss(state, batch)
        return value, Outcome(state, metrics)

    return objective


def mean_value(loss: Callable[[PyTree, PyTree], tuple[jax.Array, dict]]) -> Objective:
    """The mean loss over x(1), ..., x(K), each on what its own step tells (BMG App. B.2).

    Args:
      loss: (state, aux of the step that led to it) -> (scalar, metrics).

    Returns:
      An objective that needs no batch; the learner goes on from x(K).
    """

    def objective(meta_params, unrolled, batch, key):
        del meta_params, batch, key
        pairs = [loss(state, aux) for state, aux in zip(unrolled.states[1:], unrolled.aux)]
        value, metrics = jax.tree.map(lambda *x: sum(x) / len(x), *pairs)
        return value, Outcome(unrolled.states[-1], metrics)

    return objective


class TargetPath(NamedTuple):
    """How a bootstrapped target was reached."""

    steps: Unroll  # the L - 1 learned steps from x(K)
    target: PyTree  # after the final one
    final_aux: PyTree  # what the final step tells


def from_batch(batch: BootstrapBatch, unrolled: Unroll, path: TargetPath) -> PyTree:
    """Matching on data that were there before."""
    del unrolled, path
    return batch.matching


def bootstrapped(
    target_step: Step,
    final_step: Step,
    predict: Callable[[PyTree, PyTree], PyTree],
    matching: Callable[[PyTree, PyTree], jax.Array],
    num_target_steps: int,
    continue_from: Literal["updated", "bootstrap", "target"] = "updated",
    match_on: Callable[[BootstrapBatch, Unroll, TargetPath], PyTree] = from_batch,
    unroll_target: Callable[..., Unroll] = unroll,
) -> Objective:
    """Bootstrapped meta-gradients: match a target the learner itself will reach (BMG Eq. 2).

    From x(K), L - 1 steps of `target_step` under frozen meta-parameters and one `final_step` on
    the objective itself give the target. No gradient flows through any of them: with respect to
    the meta-parameters the target is a constant, and only x(K) is differentiated.

    Args:
      target_step: one step of the learned update rule, as in the unroll.
      final_step: the last target step, on the true objective (or on the learned one, BMG's "w").
      predict: (state, matching batch) -> what `matching` compares. Where nothing is unrolled
        (K = 0) it sees the meta-parameters only if `start` puts them into the state.
      matching: (target's predictions, updated learner's predictions) -> scalar, minimal at equal.
      num_target_steps: L >= 1, the final one included.
      continue_from: where the learner goes on: "updated" is x(K) (Atari: the target is thrown
        away), "bootstrap" the target before its final step (two colours, where the L - 1 steps
        are real updates), "target" the target itself (variant DB of BMG figure 17).
      match_on: where the matching inputs come from; an online learner meets them on its way to the
        target.
      unroll_target: `core.unroll`, or `core.scan` for many steps without convolutions.

    Returns:
      An objective over a `BootstrapBatch`; its `target_aux` is what the L - 1 learned steps and
      the final one tell.

    Raises:
      ValueError: for L < 1, or where the batch does not hold L - 1 target batches.
    """
    if num_target_steps < 1:
        raise ValueError(f"num_target_steps is {num_target_steps}; BMG needs at least 1.")

    def objective(meta_params, unrolled, batch: BootstrapBatch, key):
        if len(batch.target) != num_target_steps - 1:
            raise ValueError(
                f"{len(batch.target)} target batches for L = {num_target_steps}; "
                f"{num_target_steps - 1} are needed."
            )
        updated = unrolled.states[-1]
        frozen_params, frozen_state = jax.lax.stop_gradient((meta_params, updated))
        target_key, final_key = jax.random.split(key)
        steps = unroll_target(target_step, frozen_params, frozen_state, batch.target, target_key)
        bootstrap = steps.states[-1]
        target, final_aux = final_step(frozen_params, bootstrap, batch.final, final_key)
        inputs = match_on(batch, unrolled, TargetPath(steps, target, final_aux))
        target_prediction = jax.lax.stop_gradient(predict(target, inputs))
        loss = matching(target_prediction, predict(updated, inputs))
        states = {"updated": updated, "bootstrap": bootstrap, "target": target}
        return loss, Outcome(
            states[continue_from], {"matching_loss": loss}, (steps.aux, final_aux)
        )

    return objective
