"""The meta-objectives that the multi-step experiments compare, on any of their agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import optax

from bmg.experiments.multistep.config import ObjectiveConfig
from bmg.meta import core
from bmg.meta.core import Objective, Step
from bmg.meta.differentiation import accumulative_trace
from bmg.meta.objectives import BootstrapBatch, bootstrapped, final_value, from_batch, mixed_value


def descend(optimizer: optax.GradientTransformation, agent: Any, gradient: hk.Params) -> Any:
    """The agent (a NamedTuple with params and opt_state) after one step of its optimiser."""
    updates, opt_state = optimizer.update(gradient, agent.opt_state)
    return agent._replace(params=optax.apply_updates(agent.params, updates), opt_state=opt_state)


def make_compute(
    config: ObjectiveConfig,
    outer_loss: Callable,
    step: Step,
    optimizer: optax.GradientTransformation,
    predict: Callable,
    matching: Callable,
    match_on: Callable = from_batch,
) -> Callable[..., core.MetaGradient]:
    """The meta-gradient that the configuration asks for: see `core.meta_gradient`.

    The learner goes on from x(1) under all objectives.

    Args:
      config: which objective, and how far ahead.
      outer_loss: (state, batch, key) -> (scalar, metrics), on validation data of its own.
      step: the agent's update.
      optimizer: the agent's, for the last step to a bootstrapped target, on the outer loss itself.
      predict, matching, match_on: what of such a target is matched, how and on which inputs; see
        `meta.objectives.bootstrapped`.
    """

    def outer_step(meta_params, agent, batch, key):
        del meta_params

        def loss(params):
            return outer_loss(agent._replace(params=params), batch, key)[0]

        return descend(optimizer, agent, jax.grad(loss)(agent.params)), ()

    objective = _objective(config, outer_loss, step, outer_step, predict, matching, match_on)
    if config.accumulative_trace is not None:
        step = accumulative_trace(step, config.accumulative_trace)
    return core.meta_gradient(core.online_start, step, objective)


def _objective(
    config: ObjectiveConfig, outer_loss, step, outer_step, predict, matching, match_on
) -> Objective:
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
        match_on=match_on,
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
