"""IMPALA: an off-policy actor-critic; one task, fixed hyper-parameters, nothing is meta-learned.

    u  <-  RMSProp(u, grad f(u; p)),   f the actor-critic loss under V-trace targets

Reference: Espeholt et al., "IMPALA", ICML 2018 (https://arxiv.org/abs/1802.01561).
"""

from __future__ import annotations

import jax

from bmg.agents.actor_critic import (
    ActorCriticState,
    make_context,
    make_optimizer,
    make_step,
    mean_over_devices,
    step_metrics,
)
from bmg.agents.agent import Agent, Spec
from bmg.agents.config import AgentConfig, LossConfig
from bmg.agents.losses import Hyperparameters, outer_hyperparameters
from bmg.agents.networks import acting_policy, acting_value, main_task_params, make_network
from bmg.agents.trajectory import UpdateBatch, prepare_batch


def make(config: AgentConfig, spec: Spec) -> Agent:
    """IMPALA on `config.network`, with the losses and the optimiser of the other agents."""
    network = make_network(config.network, spec.observation_shape, spec.num_actions, num_tasks=1)
    optimizer = make_optimizer(config.optimizer)

    def init(key) -> ActorCriticState:
        params = network.init(key)
        return ActorCriticState(params, optimizer.init(params))

    def update(state: ActorCriticState, batch: UpdateBatch, frames, key):
        context = make_context(config, spec, network, optimizer, frames)
        sequences, _ = prepare_batch(batch, config.loss.max_abs_reward)
        step = make_step(context, fixed_hyperparameters(config.loss))
        state, aux = step(None, state, sequences, key)
        return state, step_metrics(context, mean_over_devices(aux, spec.axis_name))

    def acting_params(state: ActorCriticState):
        return main_task_params(state.params)

    return Agent(init, update, acting_policy(network), acting_params, value=acting_value(network))


def fixed_hyperparameters(config: LossConfig):
    """The hyper-parameters p for every meta-parameter: [1] of each, the main task's."""
    outer: Hyperparameters = jax.tree.map(lambda x: x[None], outer_hyperparameters(config))
    return lambda meta_params: outer
