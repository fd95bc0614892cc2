"""STACX: an actor-critic that tunes all its losses' hyper-parameters by meta-gradients.

    (u1, h1)  =  RMSProp(u, h, grad sum_i f(u_i; w_i))       the agent's update, on tau
    w        <-  Adam(w, grad_w f(u1_0(w); p))               the outer (IMPALA) loss, on tau

Main task 0 and auxiliary tasks i share a torso and differ in their heads and in six
meta-parameters each; the agent descends the sum of all tasks' losses, and the meta-parameters
descend the outer loss of the main task at the updated parameters (BMG appendix C).

References:
  Zahavy et al., "A Self-Tuning Actor-Critic Algorithm", NeurIPS 2020.
  Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, appendix C and Table 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmg.agents.actor_critic import (
    ActorCriticState,
    StepContext,
    make_context,
    make_optimizer,
    make_step,
    mean_over_devices,
    reduction_scale,
    step_metrics,
    task_name,
    total_loss,
)
from bmg.agents.agent import Agent, Metrics, PyTree, Spec
from bmg.agents.config import AgentConfig, LossConfig
from bmg.agents.impala import fixed_hyperparameters
from bmg.agents.losses import Hyperparameters, outer_hyperparameters
from bmg.agents.meta_learner import MetaState, init_meta, meta_step
from bmg.agents.networks import Network, acting_policy, acting_value, main_task_params, make_network
from bmg.agents.trajectory import Sequences, UpdateBatch, concatenate, prepare_batch
from bmg.meta import core
from bmg.meta.matching import kl_divergence
from bmg.meta.objectives import final_value

MetaParameters = Hyperparameters  # the same six names, before their sigmoids: logits [n]


class StacxState(NamedTuple):
    """STACX's state, and BMG's."""

    inner: ActorCriticState  # (u, h)
    meta: MetaState  # w and its optimiser


def make(config: AgentConfig, spec: Spec) -> Agent:
    """STACX with the settings of `config.meta`."""
    if config.meta.continuation == "target":
        raise ValueError("continuation 'target' needs a target; give --agent.algorithm bmg.")
    network = make_stacx_network(config, spec)
    num_inner = config.meta.inner_steps - 1

    def update(state: StacxState, batch: UpdateBatch, frames, key):
        context = make_context(config, spec, network, make_optimizer(config.optimizer), frames)
        main, extra = prepare_batch(batch, config.loss.max_abs_reward)
        objective = stacx_objective(context, config.meta.stacx_kl_weight, state.inner)
        data = concatenate(main, *extra[num_inner:])
        return stacx_update(
            config, context, state, (*extra[:num_inner], main), objective, data, key
        )

    return Agent(
        init=stacx_init(config, network),
        update=update,
        act=acting_policy(network),
        value=acting_value(network),
        acting_params=acting_params,
        num_extra_batches=num_inner + config.meta.extra_replay_batches,
    )


def make_stacx_network(config: AgentConfig, spec: Spec) -> Network:
    """Main task and auxiliary tasks."""
    num_tasks = 1 + config.meta.auxiliary_tasks
    return make_network(config.network, spec.observation_shape, spec.num_actions, num_tasks)


def stacx_init(config: AgentConfig, network: Network) -> Callable[[jax.Array], StacxState]:
    """key -> state."""

    def init(key) -> StacxState:
        params = network.init(key)
        inner = ActorCriticState(params, make_optimizer(config.optimizer).init(params))
        num_tasks, logit = 1 + config.meta.auxiliary_tasks, config.meta.initial_logit
        return StacxState(inner, init_meta(config.meta, initial_meta_parameters(num_tasks, logit)))

    return init


def acting_params(state: StacxState) -> PyTree:
    """Torso and main task."""
    return main_task_params(state.inner.params)


def stacx_update(
    config: AgentConfig,
    context: StepContext,
    state: StacxState,
    inner_batches: Sequence[Sequences],
    objective: core.Objective,
    objective_batch: PyTree,
    key: jax.Array,
) -> tuple[StacxState, Metrics]:
    """One update of STACX or BMG, which differ only in their objectives: K agent steps, the
    meta-gradient, Adam on the meta-parameters.

    Args:
      config: of the agent.
      context: what the steps share.
      state: before.
      inner_batches: K batches, the first K - 1 of replay alone, the main one last (BMG App. C.3).
      objective: of the meta-parameters.
      objective_batch: what it takes.
      key: random key.
    """
    meta = config.meta
    step = learned_step(config, context)
    compute = core.meta_gradient(core.online_start, step, objective, meta.differentiation)
    result = compute(state.meta.params, state.inner, inner_batches, objective_batch, key)
    gradient = mean_over_devices(result.gradient, context.axis_name)
    new_meta, metrics = meta_step(meta, state.meta, gradient)

    inner = result.next_state
    if meta.continuation == "recomputed":
        inner = core.unroll(step, new_meta.params, state.inner, inner_batches, key).states[-1]
    told = {f"meta/{name}": value for name, value in result.metrics.items()}
    aux, told = mean_over_devices((result.aux[-1], told), context.axis_name)
    metrics |= step_metrics(context, aux) | told
    metrics |= task_metrics(hyperparameters(new_meta.params, config.loss))
    metrics |= task_metrics(new_meta.params, "_logit")
    return StacxState(inner, new_meta), metrics


def learned_step(config: AgentConfig, context: StepContext) -> core.Step:
    """The agent's update rule under the meta-parameters, phi."""
    return make_step(context, lambda w: hyperparameters(w, config.loss))


def initial_meta_parameters(num_tasks: int, logit: float) -> MetaParameters:
    """All meta-parameters at one logit; 4.6 gives 0.990 (STACX)."""
    names = MetaParameters._fields
    return MetaParameters(*(jnp.full([num_tasks], logit, jnp.float32) for _ in names))


def hyperparameters(meta_params: MetaParameters, config: LossConfig) -> Hyperparameters:
    """Sigmoid of each logit; costs are scaled by the outer loss's, so they stay within (0, p).

    Args:
      meta_params: logits [n] of each.
      config: the outer loss.

    Returns:
      Hyper-parameters [n] of each.
    """
    share = jax.tree.map(jax.nn.sigmoid, meta_params)
    outer = outer_hyperparameters(config)
    return share._replace(
        policy_cost=share.policy_cost * outer.policy_cost,
        entropy_cost=share.entropy_cost * outer.entropy_cost,
        value_cost=share.value_cost * outer.value_cost,
    )


def outer_loss(context: StepContext) -> Callable:
    """f(u; p): the IMPALA loss of the main task, as a function of the parameters.

    Returns:
      (state, sequences) -> (loss [], its terms [1]). Its gradient in the parameters is the
      semi-gradient of `loss_gradient`.
    """
    fixed = fixed_hyperparameters(context.loss)(None)

    def loss(state: ActorCriticState, sequences: Sequences):
        predictions = context.network.apply(state.params, sequences.observation, 1)
        # Targets and ratios are constants of the outer loss, as in any actor-critic loss. This
        # cuts the meta-gradient through the targets alone: it is grad_u f(u; p) du/dw.
        bootstrap = jax.lax.stop_gradient(predictions)
        value, terms = total_loss(predictions, bootstrap, fixed, sequences, context.loss)
        return value * reduction_scale(context.loss, sequences, context.axis_name), terms

    return loss


def stacx_objective(
    context: StepContext, kl_weight: float, previous: ActorCriticState
) -> core.Objective:
    """STACX's meta-objective: the outer loss at the updated parameters.

    Args:
      context: what the agent's steps share.
      kl_weight: weight of KL(updated || previous policy); 1 in the original STACX, 0 in BMG's.
      previous: the agent before its update, which that term refers to.

    Returns:
      An objective over `Sequences`; the agent continues from its updated parameters.
    """
    loss = outer_loss(context)

    def objective_loss(state: ActorCriticState, sequences: Sequences, key):
        del key
        value, terms = loss(state, sequences)
        if kl_weight:
            observation = sequences.observation
            updated = context.network.exact(state.params, observation, 1).logits
            divergence = kl_divergence(
                updated, context.network.exact(previous.params, observation, 1).logits
            )
            value += (
                kl_weight * divergence * reduction_scale(context.loss, sequences, context.axis_name)
            )
        return value, {"outer_loss": value, "outer_entropy": terms.policy_entropy[0]}

    return final_value(objective_loss)


def task_metrics(values: Hyperparameters | MetaParameters, ending: str = "") -> Metrics:
    """A metric for each task and each of its meta-learned hyper-parameters, or their logits."""
    return {
        f"meta_{task_name(task)}/{name.rstrip('_')}{ending}": value[task]
        for name, value in values._asdict().items()
        for task in range(values.discount.shape[0])
    }
