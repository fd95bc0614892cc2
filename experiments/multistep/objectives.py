"""The meta-objectives that the multi-step experiments compare, on any of their agents."""

from __future__ import annotations

from collections.abc import Callable

from experiments.multistep.config import ObjectiveConfig
from meta.core import Objective, Step
from meta.objectives import BootstrapBatch, bootstrapped, final_value, mixed_value


def make_objective(
    config: ObjectiveConfig,
    outer_loss: Callable,
    step: Step,
    outer_step: Step,
    predict: Callable,
    matching: Callable,
) -> Objective:
    """What the meta-learner minimises. The learner goes on from x(1) under all of them.

    Args:
      config: which one, and how far ahead.
      outer_loss: (state, batch, key) -> (scalar, metrics), on validation data of its own.
      step: the agent's update, for bootstrapped targets.
      outer_step: the last step to such a target, on the outer loss itself.
      predict, matching: what of the target is matched, and how; see `meta.objectives.bootstrapped`.
    """
    if config.objective == "n-step":
        return final_value(outer_loss, continue_from="first")
    if config.objective == "mixed":
        return mixed_value(outer_loss, config.weights, continue_from="first")
    return bootstrapped(
        step,
        outer_step,
        predict,
        matching,
        num_target_steps=config.inner_steps,
        weights=config.weights if config.objective == "mixed-bmg" else None,
    )


def unrolled_batches(config: ObjectiveConfig) -> tuple[None, ...]:
    """Of the steps that are differentiated: the agents meet their data on the way."""
    return (None,) * (config.inner_steps if config.objective in ("n-step", "mixed") else 1)


def objective_batch(config: ObjectiveConfig) -> BootstrapBatch | None:
    """Of the objective."""
    if config.objective in ("n-step", "mixed"):
        return None
    return BootstrapBatch(target=(None,) * (config.inner_steps - 1))
