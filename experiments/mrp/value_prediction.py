"""Value prediction on the Markov reward process, its per-state discounts meta-learned.

    g(s_i) = sum_{j >= i} gamma_j^(j - i + 1) r_j        what the agent learns from
    g'(s_i) = sum_{j >= i} r_j                           what the meta-learner judges it by

An odd state's reward is noise: the best discounts are 0 for odd states and 1 for even ones. Each
update of the meta-parameters follows the mean of many independent meta-gradients, so that their
variance is out of the way; what is kept of the updates looked ahead is the first one.

Reference: Bonnet et al., "One Step at a Time", 2021, section 3.3, appendix C.1 and Table 2.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from bmg.environments import markov_reward
from bmg.experiments.lifetime import Lifetime, MetaState, State
from bmg.experiments.mrp.config import MrpConfig
from bmg.experiments.multistep.objectives import (
    descend,
    make_compute,
    objective_batch,
    unrolled_batches,
)
from bmg.experiments.networks import Mlp, mlp
from bmg.meta import diagnosis, matching
from bmg.meta.differentiation import inner_gradient

NUM_STATES = markov_reward.NUM_STATES
COLUMNS = (
    "value_error", "meta_gradient_norm", "meta_gradient_deviation",
    *(f"discount_{i}" for i in range(NUM_STATES)),
)  # fmt: skip


class Agent(NamedTuple):
    """The inner learner."""

    params: hk.Params  # theta
    opt_state: optax.OptState


def make_network(config: MrpConfig) -> Mlp:
    """MLP(1, 10, 10, 1): a state's number, scaled to [0, 1], to its value."""
    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh}[config.activation]
    return mlp(1, config.hidden, 1, activation)


def values(network: Mlp, params: hk.Params) -> jax.Array:
    """v(s_0) ... v(s_9): [10]."""
    observe = functools.partial(markov_reward.observe, markov_reward.make_params())
    return network.apply(params, jax.vmap(observe)(jnp.arange(NUM_STATES)))[:, 0]


def targets(rewards: jax.Array, discount: jax.Array, form: str) -> jax.Array:
    """The agent's targets.

    Args:
      rewards: [10], of an episode or the mean of several.
      discount: [10], gamma_0 ... gamma_9, each in (0, 1).
      form: "power" is the paper's sum over j >= i of gamma_j^(j - i + 1) r_j (appendix C.1),
        "product" has gamma_i ... gamma_j before r_j, as the state-dependent discounts of Xu et al.

    Returns:
      [10].
    """
    index = jnp.arange(NUM_STATES)
    ahead = index[None, :] - index[:, None]  # [i, j]: j - i
    if form == "power":
        weights = discount[None, :] ** (jnp.maximum(ahead, 0) + 1)
    else:
        log_sums = jnp.cumsum(jnp.log(discount))
        weights = jnp.exp(log_sums[None, :] - log_sums[:, None] + jnp.log(discount)[:, None])
    return jnp.where(ahead >= 0, weights, 0.0) @ rewards


def undiscounted(rewards: jax.Array) -> jax.Array:
    """Sums of rewards [10] to the end: [10]."""
    return jnp.cumsum(rewards[::-1])[::-1]


def draw_rewards(key: jax.Array, config: MrpConfig) -> jax.Array:
    """The mean rewards of a batch of episodes: [10]. Targets are linear in rewards, and an episode
    visits every state: the gradient of the squared error is that against the mean target."""
    variant = markov_reward.make_params()
    return jnp.mean(markov_reward.episodes(variant, key, config.batch_size), axis=0)


def squared_error(value: jax.Array, target: jax.Array) -> jax.Array:
    """Half the mean of (g - v)^2 over states; v and g [10]."""
    return 0.5 * jnp.mean(jnp.square(target - value))


def make_optimizer(config: MrpConfig) -> optax.GradientTransformation:
    """The agent's Adam. The root in it has an infinite slope at zero, and the meta-gradient goes
    through: hence `eps_root`."""
    return optax.adam(
        config.learning_rate, b1=config.adam_momentum, eps_root=config.adam_epsilon_root
    )


def make_step(network: Mlp, optimizer: optax.GradientTransformation, config: MrpConfig):
    """The agent's update on fresh episodes; meta-parameters are the discounts' logits [10]."""

    def predict(params, rewards):
        del rewards
        return values(network, params)

    def loss(value, constants, discount, rewards):
        del constants
        return squared_error(value, targets(rewards, discount, config.target)), ()

    gradient_of = inner_gradient(predict, loss)

    def step(meta_params, agent: Agent, batch, key):
        del batch
        rewards = draw_rewards(key, config)
        gradient, _ = gradient_of(agent.params, jax.nn.sigmoid(meta_params), rewards)
        return descend(optimizer, agent, gradient), ()

    return step


def make_outer_loss(network: Mlp, config: MrpConfig):
    """(agent, batch, key) -> the squared error against undiscounted returns of fresh episodes."""

    def loss(agent: Agent, batch, key):
        del batch
        rewards = draw_rewards(key, config)
        return squared_error(values(network, agent.params), undiscounted(rewards)), {}

    return loss


def make_meta_gradient(network: Mlp, optimizer: optax.GradientTransformation, config: MrpConfig):
    """The meta-gradient that the configuration asks for: see `core.meta_gradient`."""
    return make_compute(
        config,
        make_outer_loss(network, config),
        make_step(network, optimizer, config),
        optimizer,
        predict=lambda agent, inputs: matching.Outputs(None, values(network, agent.params)),
        matching=matching.value,
    )


def make_lifetime(config: MrpConfig) -> Lifetime:
    """A lifetime of value prediction."""
    network = make_network(config)
    optimizer = make_optimizer(config)
    meta_optimizer = optax.adam(config.meta_learning_rate)
    step = make_step(network, optimizer, config)
    logit = math.log(config.discount / (1 - config.discount))
    true_values = jnp.asarray(markov_reward.true_values(markov_reward.make_params()))

    def init(key: jax.Array) -> State:
        params_key, key = jax.random.split(key)
        params = network.init(params_key)
        meta_params = jnp.full(NUM_STATES, logit, jnp.float32)
        meta = MetaState(meta_params, meta_optimizer.init(meta_params))
        return State(Agent(params, optimizer.init(params)), meta, key)

    estimate = None if config.objective == "fixed" else make_estimate(config)

    def window(state: State, data: None):
        next_key, step_key, estimate_key = jax.random.split(state.key, 3)
        agent, _ = step(state.meta.params, state.agent, None, step_key)
        meta, deviation, norm = state.meta, jnp.float32(0), jnp.float32(0)
        if estimate is not None:
            moments = diagnosis.monte_carlo(
                functools.partial(estimate, state), estimate_key, config.estimates, config.estimates
            )
            updates, opt_state = meta_optimizer.update(moments.mean, meta.opt_state)
            meta = MetaState(optax.apply_updates(meta.params, updates), opt_state)
            norm, deviation = diagnosis.norm(moments.mean), jnp.mean(jnp.sqrt(moments.variance))
        error = values(network, agent.params) - true_values
        discount = jax.nn.sigmoid(meta.params)
        records = {
            "value_error": jnp.sqrt(jnp.mean(jnp.square(error))),
            "meta_gradient_norm": norm,
            "meta_gradient_deviation": deviation,
            **{f"discount_{i}": discount[i] for i in range(NUM_STATES)},
        }
        return State(agent, meta, next_key), {name: x[None] for name, x in records.items()}

    return Lifetime(init, window, 1, config.batch_size * NUM_STATES, COLUMNS)


def make_estimate(config: MrpConfig):
    """(state, key) -> the meta-gradient that the configuration asks for, on data of its own."""
    network = make_network(config)
    compute = make_meta_gradient(network, make_optimizer(config), config)
    batches, batch = unrolled_batches(config), objective_batch(config)

    def estimate(state: State, key: jax.Array) -> jax.Array:
        return compute(state.meta.params, state.agent, batches, batch, key).gradient

    return estimate
