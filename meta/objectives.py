"""What the meta-learner minimises: the ordinary meta-objective and the bootstrapped one.

    final_value     f(x(K))                                       BMG Eq. 1, Bonnet et al. Eq. 5
    mean_value      (f(x(1)) + ... + f(x(K))) / K                 BMG App. B.2
    mixed_value     m_1 f(x(1)) + ... + m_K f(x(K))               Bonnet et al. Eq. 10
    bootstrapped    mu(target, x(K)), target = x(K) moved on by   BMG Eq. 2
                    L - 1 learned steps and one step on f itself

The objective also returns the state from which the learner continues: x(K), or x(1) if the other
steps only look ahead (Bonnet et al., figure 1).

References:
  Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022.
  Bonnet et al., "One Step at a Time: Pros and Cons of Multi-Step Meta-Gradient Reinforcement
  Learning", Meta-Learning Workshop at NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax

from bmg.meta.core import Objective, Outcome, Step, Unroll, unroll

PyTree = Any
Key = jax.Array


class BootstrapBatch(NamedTuple):
    """The data of one bootstrapped objective."""

    target: Sequence[PyTree]  # L - 1 batches, one for each learned target step
    final: PyTree = None  # batch of the last target step
    matching: PyTree = None  # inputs on which target and updated learner are compared


def final_value(
    loss: Callable[[PyTree, PyTree, Key], tuple[jax.Array, dict]],
    continue_from: Literal["last", "first"] = "last",
) -> Objective:
    """The ordinary meta-gradient's objective: the loss at x(K) (BMG Eq. 1).

    Args:
      loss: (state, batch, key) -> (scalar, metrics); it may collect its validation data itself.
      continue_from: where the learner continues: "last" is x(K), "first" x(1), so that an n-step
        meta-gradient leaves the learner's own update as it is (Bonnet et al. Eq. 5).

    Returns:
      An objective.
    """

    def objective(meta_params, unrolled, batch, key):
        del meta_params
        value, metrics = loss(unrolled.states[-1], batch, key)
        return value, Outcome(_next_state(unrolled, continue_from), metrics)

    return objective


def _next_state(unrolled: Unroll, continue_from: Literal["last", "first"]) -> PyTree:
    return unrolled.states[1 if continue_from == "first" else -1]


def mixture_weights(num_steps: int, kappa: float | None = None) -> tuple[float, ...]:
    """kappa^(i-1) (1 - kappa) / (1 - kappa^n) for i = 1 ... n (Bonnet et al. Eq. 10).

    Args:
      num_steps: n.
      kappa: in [0, 1]; 0 is the one-step meta-gradient, 1 weighs all steps alike. None for the
        paper's choice of 1 - 1/n.

    Returns:
      n weights that sum to 1.

    Raises:
      ValueError: n < 1 or kappa outside of [0, 1]; one line.
    """
    if num_steps < 1:
        raise ValueError(f"a mixture of {num_steps} steps; give at least 1.")
    kappa = 1 - 1 / num_steps if kappa is None else kappa
    if not 0 <= kappa <= 1:
        raise ValueError(f"kappa is {kappa}; allowed are numbers from 0 to 1.")
    powers = [kappa**i for i in range(num_steps)]  # 0 ** 0 is 1
    return tuple(power / sum(powers) for power in powers)


def mixed_value(
    loss: Callable[[PyTree, PyTree, Key], tuple[jax.Array, dict]],
    weights: Sequence[float],
    continue_from: Literal["last", "first"] = "first",
) -> Objective:
    """A weighted mean of the losses at x(1), ..., x(n), of one unroll (Bonnet et al. Eq. 10).

    Args:
      loss: (state, batch, key) -> (scalar, metrics); called for each step of a weight that is not
        zero, with a key of its own.
      weights: n of them, see `mixture_weights`.
      continue_from: as of `final_value`.

    Returns:
      An objective for unrolls of n steps; its metrics are those of the last step.
    """

    def objective(meta_params, unrolled, batch, key):
        del meta_params
        states = unrolled.states[1:]
        if len(states) != len(weights):
            raise ValueError(f"{len(weights)} weights for {len(states)} steps; give one for each.")
        total = 0.0
        for weight, state, step_key in zip(weights, states, jax.random.split(key, len(states))):
            if weight:
                value, metrics = loss(state, batch, step_key)
                total += weight * value
        return total, Outcome(_next_state(unrolled, continue_from), metrics)

    return objective


def mean_value(loss: Callable[[PyTree, PyTree], tuple[jax.Array, dict]]) -> Objective:
    """The mean loss over x(1), ..., x(K), each with the aux of its own step (BMG App. B.2).

    Args:
      loss: (state, aux of the step that led to it) -> (scalar, metrics).

    Returns:
      An objective that needs no batch; the learner continues from x(K).
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
    final_aux: PyTree  # auxiliary output of the final step


def from_batch(batch: BootstrapBatch, unrolled: Unroll, path: TargetPath) -> PyTree:
    """Matching on the data of the batch."""
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
    weights: Sequence[float] | None = None,
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
      continue_from: where the learner continues: "updated" is x(K) (Atari: the target is
        discarded), "bootstrap" the target before its final step (two colours, where the L - 1 steps
        are real updates), "target" the target itself (variant DB of BMG figure 17).
      match_on: where the matching inputs come from; an online learner collects them on its way to
        the target.
      unroll_target: `core.unroll`, or `core.scan` for many steps without convolutions.
      weights: a mixture of the targets 1 ... L steps ahead, L numbers (see `mixture_weights`), each
        target with a final step of its own; None for the last one alone. Ours.

    Returns:
      An objective over a `BootstrapBatch`; its `target_aux` holds the auxiliary outputs of the
      L - 1 learned steps and of the final one.

    Raises:
      ValueError: for L < 1, other than L weights, or where the batch does not hold L - 1 target
        batches.
    """
    if num_target_steps < 1:
        raise ValueError(f"num_target_steps is {num_target_steps}; BMG needs at least 1.")
    if weights is None:
        weights = (0.0,) * (num_target_steps - 1) + (1.0,)
    if len(weights) != num_target_steps:
        raise ValueError(f"{len(weights)} weights for L = {num_target_steps}; give one for each.")

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

        def match(start, key):
            target, final_aux = final_step(frozen_params, start, batch.final, key)
            inputs = match_on(batch, unrolled, TargetPath(steps, target, final_aux))
            target_prediction = jax.lax.stop_gradient(predict(target, inputs))
            return matching(target_prediction, predict(updated, inputs)), target, final_aux

        last, target, final_aux = match(bootstrap, final_key)
        loss = weights[-1] * last
        for ahead, weight in enumerate(weights[:-1]):
            if weight:
                key = jax.random.fold_in(final_key, ahead)
                loss += weight * match(steps.states[ahead], key)[0]
        states = {"updated": updated, "bootstrap": bootstrap, "target": target}
        return loss, Outcome(states[continue_from], {"matching_loss": loss}, (steps.aux, final_aux))

    return objective
