"""BMG on Atari: STACX's agent, meta-learned by matching a bootstrapped target.

    (u1, h1)  = RMSProp(u, h, grad sum_i f(u_i; w_i))            the agent's update, on tau
    (u~, h~)  = (u1, h1), then L - 1 steps on fresh replay under frozen w, all tasks,
                then one step on tau on the main task's outer loss f(.; p)
    g_w       = grad_w mu(u~_0, u1_0(w)),  u~ constant
    the agent continues from (u1, h1); the target and its optimiser state are discarded

Reference: Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, section 5.2, appendix C.
"""

from __future__ import annotations

import jax

from bmg.agents.actor_critic import (
    ActorCriticState,
    StepContext,
    loss_gradient,
    make_context,
    make_optimizer,
    make_step,
    num_devices,
)
from bmg.agents.agent import Agent, Spec
from bmg.agents.config import AgentConfig, MetaConfig
from bmg.agents.impala import fixed_hyperparameters
from bmg.agents.networks import Network, acting_policy, acting_value, main_task_params
from bmg.agents.stacx import (
    StacxState,
    acting_params,
    learned_step,
    make_stacx_network,
    stacx_init,
    stacx_update,
)
from bmg.agents.trajectory import Sequences, UpdateBatch, concatenate, prepare_batch
from bmg.meta import matching
from bmg.meta.core import Objective, Step
from bmg.meta.objectives import BootstrapBatch, bootstrapped


def make(config: AgentConfig, spec: Spec) -> Agent:
    """BMG with the settings of `config.meta`."""
    meta = config.meta
    network = make_stacx_network(config, spec)
    first_target = meta.inner_steps - 1
    first_objective = first_target + meta.target_steps - 1

    def update(state: StacxState, batch: UpdateBatch, frames, key):
        context = make_context(config, spec, network, make_optimizer(config.optimizer), frames)
        main, extra = prepare_batch(batch, config.loss.max_abs_reward)
        data = concatenate(main, *extra[first_objective:])
        replayed = jax.tree.map(lambda x: x[batch.online.action.shape[0] :], data)
        objective_batch = BootstrapBatch(
            target=extra[first_target:first_objective],
            final=replayed if meta.final_data == "replay" else data,
            matching=data,
        )
        objective = bmg_objective(context, meta, learned_step(config, context))
        inner_batches = (*extra[:first_target], main)
        return stacx_update(config, context, state, inner_batches, objective, objective_batch, key)

    return Agent(
        init=stacx_init(config, network),
        update=update,
        act=acting_policy(network),
        value=acting_value(network),
        acting_params=acting_params,
        num_extra_batches=first_objective + meta.extra_replay_batches,
        needs_replay=meta.final_data == "replay",
    )


def matching_function(config: MetaConfig, num_devices: int) -> matching.Matching:
    """The configured matching function (BMG appendix C), for each of so many devices."""
    if config.matching in ("l2", "l2_norm"):
        return matching.squared_l2 if config.matching == "l2" else matching.l2
    mean = {
        **matching.DIVERGENCES,
        "value": matching.value,
        "kl_value": matching.kl_and_value(config.value_weight),
    }[config.matching]
    return mean if config.matching_reduction == "mean" else matching.summed(mean, num_devices)


def predict_main_task(network: Network):
    """(state, sequences) -> the main task's policies and values of all states, and u_0.

    In float32 whatever the activations' precision elsewhere: target and updated agent differ by
    less than bfloat16's rounding, which would make a quarter of the meta-gradient.
    """

    def predict(state: ActorCriticState, sequences: Sequences) -> matching.Outputs:
        main = network.exact(state.params, sequences.observation, 1).task(0)
        return matching.Outputs(main.logits, main.value, main_task_params(state.params))

    return predict


def sgd_step(context: StepContext, rate: float) -> Step:
    """A plain gradient step on the outer loss (appendix C.1: rate 1/2 and l2 give STACX)."""
    hyper = fixed_hyperparameters(context.loss)(None)

    def step(meta_params, state: ActorCriticState, sequences: Sequences, key):
        del meta_params, key
        gradient, terms = loss_gradient(context, state.params, hyper, sequences)
        params = jax.tree.map(lambda p, g: p - rate * g, state.params, gradient)
        return state._replace(params=params), terms

    return step


def bmg_objective(context: StepContext, meta: MetaConfig, learned_step: Step) -> Objective:
    """BMG's meta-objective over a `BootstrapBatch` of `Sequences`.

    Args:
      context: what the agent's and the target's steps share.
      meta: L, matching function and ablations.
      learned_step: the agent's update rule, for the first L - 1 target steps.
    """
    if meta.final_objective == "learned":
        final_step = learned_step
    elif meta.target_optimizer == "sgd":
        final_step = sgd_step(context, meta.sgd_target_rate)
    else:
        final_step = make_step(context, fixed_hyperparameters(context.loss))
    return bootstrapped(
        target_step=learned_step,
        final_step=final_step,
        predict=predict_main_task(context.network),
        matching=matching_function(meta, num_devices(context.axis_name)),
        num_target_steps=meta.target_steps,
        continue_from="target" if meta.continuation == "target" else "updated",
    )
