"""An agent of your own in one file: REINFORCE. Run in this folder, it solves Catch in a minute:

bmg train --game catch --frames 300000 --runtime local-threads --learner.replay-batch 0 \
    --agent.algorithm reinforce:make --agent.optimizer.learning-rate 2e-3
"""

import jax
import jax.numpy as jnp
import optax

from bmg.agents.actor_critic import mean_over_devices
from bmg.agents.agent import Agent
from bmg.agents.networks import acting_policy, make_network
from bmg.agents.trajectory import prepare_batch


def make(config, spec):
    network = make_network(config.network, spec.observation_shape, spec.num_actions, num_tasks=1)
    optimizer = optax.adam(config.optimizer.learning_rate)

    def loss(params, batch):  # observations [B, T + 1, ...], actions, rewards, discounts [B, T]
        log_pi = jax.nn.log_softmax(network.apply(params, batch.observation, 1).logits[0, :, :-1])
        log_pi = jnp.take_along_axis(log_pi, batch.action[..., None], axis=-1)[..., 0]
        discount_t = config.loss.discount * batch.discount
        returns = [jnp.zeros_like(batch.reward[:, 0])]  # G_T, then G_{T-1}, ..., G_0
        for t in reversed(range(batch.reward.shape[1])):
            returns.append(batch.reward[:, t] + discount_t[:, t] * returns[-1])
        returns = jnp.stack(returns[:0:-1], axis=1)  # [B, T]
        return -jnp.mean(log_pi * (returns - jnp.mean(returns)))

    def init(key):
        params = network.init(key)
        return params, optimizer.init(params)

    def update(state, batch, frames, key):
        params, opt_state = state
        main, _ = prepare_batch(batch, config.loss.max_abs_reward)
        outcome = jax.value_and_grad(loss)(params, main)
        value, gradient = mean_over_devices(outcome, spec.axis_name)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), {"loss/policy": value}

    return Agent(init, update, acting_policy(network), acting_params=lambda state: state[0])
