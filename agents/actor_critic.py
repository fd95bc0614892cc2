"""The actor-critic's gradient and update, shared by IMPALA, STACX and BMG."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from bmg.agents.agent import Metrics, Spec
from bmg.agents.config import AgentConfig, LossConfig, OptimizerConfig
from bmg.agents.losses import Hyperparameters, LossTerms, actor_critic_loss
from bmg.agents.networks import Network, Predictions
from bmg.agents.trajectory import Sequences
from bmg.meta.core import Step
from bmg.meta.differentiation import Differentiation, inner_gradient
from bmg.meta.optimizers import clip_by_global_norm, scale_by_rms
from bmg.meta.trees import squared_norm


class ActorCriticState(NamedTuple):
    """The inner learner: (u, h) of BMG appendix C."""

    params: hk.Params  # u, all tasks
    opt_state: optax.OptState  # h


class StepAux(NamedTuple):
    """Auxiliary outputs of one agent update."""

    terms: LossTerms  # [n] each, means over the batch
    gradient_norm: jax.Array  # [] before clipping
    clipped: jax.Array  # [] 1 where the gradient was clipped


def num_devices(axis_name: str | None) -> int:
    """The number of devices on the mapped axis; 1 without one."""
    return 1 if axis_name is None else jax.lax.psum(1, axis_name)


def mean_over_devices(tree, axis_name: str | None):
    """`pmean` inside a mapped function, the identity outside (axis_name None).

    All arrays in one sum: between hosts each sum costs a round trip, and not every backend of XLA
    joins them.
    """
    if num_devices(axis_name) == 1:
        return tree
    packed, unpack = ravel_pytree(tree)
    return unpack(jax.lax.pmean(packed, axis_name))


def total_loss(
    predictions: Predictions,
    bootstrap: Predictions,
    hyper: Hyperparameters,
    sequences: Sequences,
    config: LossConfig,
) -> tuple[jax.Array, LossTerms]:
    """Sum over n tasks of the batch's mean loss.

    Args:
      predictions: logits [n, B, T + 1, A], values [n, B, T + 1]; differentiate these.
      bootstrap: the same again, constants inside the targets.
      hyper: [n] of each.
      sequences: B sequences.
      config: what is fixed in every loss.

    Returns:
      The loss [] and its terms [n].
    """
    over_batch = jax.vmap(actor_critic_loss, in_axes=(0, 0, None, 0, None))
    over_tasks = jax.vmap(over_batch, in_axes=(0, 0, 0, None, None))
    # The observation is large and no loss looks at it: keep it out of the maps.
    lean = sequences._replace(observation=sequences.discount)
    terms = over_tasks(predictions, bootstrap, hyper, lean, config)
    terms = jax.tree.map(lambda x: jnp.mean(x, axis=1), terms)
    return jnp.sum(terms.total), terms


def reduction_scale(config: LossConfig, sequences: Sequences, axis_name: str | None) -> int:
    """What turns a device's mean loss into the configured reduction over the global batch."""
    if config.reduction == "mean":
        return 1
    return sequences.action.size * num_devices(axis_name)


class StepContext(NamedTuple):
    """What all the steps of one update share."""

    network: Network
    loss: LossConfig
    optimizer: optax.GradientTransformation  # clip and RMSProp, without the step size
    max_norm: float  # the optimiser's clip, for the metrics
    step_size: jax.Array  # [] this update's learning rate
    differentiation: Differentiation  # how the meta-gradient passes through the gradient
    axis_name: str | None  # the device axis


def loss_gradient(
    context: StepContext, params: hk.Params, hyper: Hyperparameters, sequences: Sequences
) -> tuple[hk.Params, LossTerms]:
    """The semi-gradient of the first n tasks' loss, n being the length of `hyper`.

    Returns:
      The gradient, averaged over devices, and the terms [n] of this device.
    """
    num_tasks = hyper.discount.shape[0]

    def predict(params, sequences):
        return context.network.apply(params, sequences.observation, num_tasks)

    def loss(predictions, bootstrap, hyper, sequences):
        total, terms = total_loss(predictions, bootstrap, hyper, sequences, context.loss)
        return total * reduction_scale(context.loss, sequences, context.axis_name), terms

    gradient, terms = inner_gradient(predict, loss, context.differentiation)(
        params, hyper, sequences
    )
    return mean_over_devices(gradient, context.axis_name), terms


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip by global norm, then RMSProp, without the step size (BMG Table 2)."""
    return optax.chain(
        clip_by_global_norm(config.max_norm),
        scale_by_rms(config.decay, config.epsilon, config.epsilon_in_root),
    )


def learning_rate(config: OptimizerConfig, frames: jax.Array) -> jax.Array:
    """The step size after so many environment frames: linear to zero (BMG Table 2)."""
    if config.decay_frames == 0:
        return jnp.float32(config.learning_rate)
    left = 1.0 - frames.astype(jnp.float32) / config.decay_frames
    return config.learning_rate * jnp.maximum(left, 0.0)


def descend(context: StepContext, state: ActorCriticState, gradient: hk.Params) -> ActorCriticState:
    """One step of the agent's optimiser against `gradient`."""
    updates, opt_state = context.optimizer.update(gradient, state.opt_state)
    params = jax.tree.map(lambda p, u: p - context.step_size * u, state.params, updates)
    return ActorCriticState(params, opt_state)


def make_step(context: StepContext, hyperparameters: Callable[..., Hyperparameters]) -> Step:
    """The agent's update rule phi.

    Args:
      context: what all steps share.
      hyperparameters: meta-parameters -> hyper-parameters [n] of the first n tasks.

    Returns:
      step(meta_params, state, sequences, key) -> (state, StepAux).
    """

    def step(meta_params, state: ActorCriticState, sequences: Sequences, key):
        del key  # the update is deterministic
        gradient, terms = loss_gradient(
            context, state.params, hyperparameters(meta_params), sequences
        )
        square = jax.lax.stop_gradient(squared_norm(gradient))  # a metric, cuts nothing else
        aux = StepAux(terms, jnp.sqrt(square), (square > context.max_norm**2).astype(jnp.float32))
        return descend(context, state, gradient), aux

    return step


def make_context(
    config: AgentConfig,
    spec: Spec,
    network: Network,
    optimizer: optax.GradientTransformation,
    frames: jax.Array,
) -> StepContext:
    """What all steps of one update share; the update comes after so many environment frames."""
    return StepContext(
        network, config.loss, optimizer, config.optimizer.max_norm,
        learning_rate(config.optimizer, frames), config.meta.differentiation, spec.axis_name,
    )  # fmt: skip


def task_name(index: int) -> str:
    """Name of a task in metrics."""
    return "main" if index == 0 else f"auxiliary_{index}"


def step_metrics(context: StepContext, aux: StepAux) -> Metrics:
    """Losses and diagnostics of every task."""
    metrics = {
        "learner/learning_rate": context.step_size,
        "learner/gradient_norm": aux.gradient_norm,
        "learner/gradient_clipped": aux.clipped,
    }
    for task in range(aux.terms.total.shape[0]):
        for name, value in aux.terms._asdict().items():
            metrics[f"loss_{task_name(task)}/{name}"] = value[task]
    return metrics
