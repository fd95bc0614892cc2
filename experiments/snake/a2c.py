"""A2C on Snake, its discount, trace decay, critic weight and entropy weight meta-learned.

    l(theta)  = -(g - v) log pi(a) + c_crit (g - v)^2 / 2 - c_entr H(pi)     g: lambda-returns
    l'(theta) = -(g' - v) log pi(a)                                          g': with fixed ones

Every state carries the rollout that its next update will use. It was collected with the state's own
parameters, which the update has not seen yet: it is also the validation data of the outer loss at
that state, so that looking one step ahead costs no environment step. Of n steps, n - 1 rollouts are
thrown away with their parameters.

Reference: Bonnet et al., "One Step at a Time", 2021, sections 2.2 and 2.3, appendices C.2 and C.3.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from bmg.agents.losses import entropy, leaky_vtrace, policy_gradient_loss
from bmg.agents.pooling import max_pool_2x2
from bmg.environments import snake
from bmg.experiments.lifetime import Lifetime, MetaState, State, fixed_window, meta_window
from bmg.experiments.multistep.objectives import (
    descend,
    make_compute,
    objective_batch,
    unrolled_batches,
)
from bmg.experiments.snake.config import SnakeConfig
from bmg.meta import diagnosis, matching
from bmg.meta.differentiation import inner_gradient
from bmg.meta.matching import Outputs
from bmg.meta.optimizers import clip_by_global_norm


class Hyperparameters(NamedTuple):
    """Of the agent's loss; the meta-parameters are their logits."""

    discount: jax.Array  # gamma
    trace_decay: jax.Array  # lambda
    critic_weight: jax.Array  # c_crit
    entropy_weight: jax.Array  # c_entr


_CHUNK_STEPS = 64_000  # environment steps between two looks at a run
COLUMNS = (
    "episodes", "returns", "entropy", *Hyperparameters._fields, "meta_gradient_norm",
)  # fmt: skip


class Rollout(NamedTuple):
    """T steps of B games with one policy."""

    observation: jax.Array  # float32 [T + 1, B, 12, 12, 5]
    action: jax.Array  # int32 [T, B]
    reward: jax.Array  # float32 [T, B]
    discount: jax.Array  # float32 [T, B], 0 where an episode ended
    episode_return: jax.Array  # float32 [T, B], so far


class Agent(NamedTuple):
    """The inner learner, and the games it plays."""

    params: hk.Params  # theta
    opt_state: optax.OptState
    games: snake.State  # B games, after the rollout
    rollout: Rollout  # collected under theta, for the next update


class Network(NamedTuple):
    """Pure functions of policy and critic."""

    init: Callable[[jax.Array], hk.Params]  # key -> params
    apply: Callable[[hk.Params, jax.Array], Outputs]  # params, [..., 12, 12, 5] -> [..., 4], [...]


def make_network(config: SnakeConfig) -> Network:
    """Convolutions with max-pooling, a linear layer, and a head each for policy and critic."""

    def network(observation):
        leading = observation.shape[:-3]
        x = observation.reshape(-1, *observation.shape[-3:])
        for channels in config.channels:
            x = max_pool_2x2(jax.nn.relu(hk.Conv2D(channels, kernel_shape=3)(x)))
        x = jax.nn.relu(hk.Linear(config.features)(hk.Flatten()(x)))
        logits = hk.nets.MLP([*config.head_hidden, snake.NUM_ACTIONS], name="policy")(x)
        value = hk.nets.MLP([*config.head_hidden, 1], name="critic")(x)
        return Outputs(logits.reshape(*leading, -1), value.reshape(leading))

    forward = hk.without_apply_rng(hk.transform(network))
    return Network(lambda key: forward.init(key, jnp.zeros(snake.OBSERVATION_SHAPE)), forward.apply)


def make_optimizer(config: SnakeConfig) -> optax.GradientTransformation:
    """The agent's: clipping and Adam, its step size falling to 0 over all updates."""
    updates = math.ceil(config.steps / config.steps_per_update)
    return optax.chain(
        clip_by_global_norm(config.max_gradient_norm),
        optax.adam(
            optax.linear_schedule(config.learning_rate, 0.0, updates),
            b1=config.adam_momentum,
            eps_root=config.adam_epsilon_root,
        ),
    )


def collect(
    network: Network, params: hk.Params, games: snake.State, key: jax.Array, length: int
) -> tuple[snake.State, Rollout]:
    """A rollout under one policy; nothing in it is differentiated."""
    batch = jax.tree.leaves(games)[0].shape[0]
    action_key, game_key = jax.random.split(key)
    noise = jax.random.gumbel(action_key, (length, batch, snake.NUM_ACTIONS))
    variant = snake.make_params()
    keys = snake.draw(variant, game_key, (length, batch))
    observe = jax.vmap(functools.partial(snake.observe, variant))
    step = jax.vmap(functools.partial(snake.step, variant))
    params = jax.lax.stop_gradient(params)  # actions are samples: there is nothing to cut

    def act(games, random):
        noise, keys = random
        observation = observe(games)
        logits = network.apply(params, observation).logits
        action = jnp.argmax(logits + noise, axis=-1)  # a categorical sample
        games, transition = step(games, action, keys)
        return games, (observation, action, *transition)

    games, (observation, *rest) = jax.lax.scan(act, games, (noise, keys))
    observation = jnp.concatenate([observation, observe(games)[None]])
    return games, Rollout(observation, *rest)


def return_errors(
    value: jax.Array, rollout: Rollout, discount: jax.Array, trace_decay: jax.Array
) -> jax.Array:
    """g - v of lambda-returns g: on-policy, V-trace's ratios are 1 and its targets are these.

    Args:
      value: [T + 1, B].
      rollout: of T steps.
      discount: gamma.
      trace_decay: lambda.

    Returns:
      [T, B].
    """

    def of_one(value, reward, continues):
        ones = jnp.ones_like(reward)
        return leaky_vtrace(
            v_tm1=value[:-1],
            v_t=value[1:],
            r_t=reward,
            discount_t=discount * continues,
            ratio_tm1=ones,
            accept_tm1=ones,
            lambda_=trace_decay,
            alpha=jnp.float32(1),
            rho_clip=1.0,
            c_clip=1.0,
        ).error_tm1

    return jax.vmap(of_one, in_axes=1, out_axes=1)(value, rollout.reward, rollout.discount)


def _policy_loss(outputs: Outputs, rollout: Rollout, advantage: jax.Array) -> jax.Array:
    log_pi = jax.nn.log_softmax(outputs.logits[:-1])
    return policy_gradient_loss(log_pi, rollout.action, advantage)


def a2c_loss(
    outputs: Outputs, constants: Outputs, hyper: Hyperparameters, rollout: Rollout
) -> tuple[jax.Array, jax.Array]:
    """The agent's loss (Eq. 3), a mean over all steps.

    Args:
      outputs: of the parameters that are updated, [T + 1, B] leading.
      constants: the same again, inside the targets.
      hyper: its hyper-parameters.
      rollout: what was done.

    Returns:
      The loss [] and the policy's mean entropy [], nats.
    """
    advantage = return_errors(constants.value, rollout, hyper.discount, hyper.trace_decay)
    target = constants.value[:-1] + advantage
    critic_loss = 0.5 * jnp.mean(jnp.square(target - outputs.value[:-1]))
    mean_entropy = jnp.mean(entropy(outputs.logits[:-1]))
    loss = (
        _policy_loss(outputs, rollout, advantage)
        + hyper.critic_weight * critic_loss
        - hyper.entropy_weight * mean_entropy
    )
    return loss, mean_entropy


def make_outer_loss(network: Network, config: SnakeConfig):
    """(agent, batch, key) -> the policy-gradient loss on the agent's rollout (Eq. 4)."""

    def loss(agent: Agent, batch, key):
        del batch, key
        rollout = agent.rollout
        outputs = network.apply(agent.params, rollout.observation)
        advantage = return_errors(
            outputs.value, rollout, config.outer_discount, config.outer_trace_decay
        )
        return _policy_loss(outputs, rollout, jax.lax.stop_gradient(advantage)), {}

    return loss


def advance(network: Network, agent: Agent, key: jax.Array, config: SnakeConfig) -> Agent:
    """The agent with its next rollout."""
    games, rollout = collect(network, agent.params, agent.games, key, config.rollout_length)
    return agent._replace(games=games, rollout=rollout)


def make_step(network: Network, optimizer: optax.GradientTransformation, config: SnakeConfig):
    """The agent's update: learn from the rollout at hand, then collect the next one."""

    def predict(params, rollout):
        return network.apply(params, rollout.observation)

    gradient_of = inner_gradient(predict, a2c_loss)

    def step(meta_params, agent: Agent, batch, key):
        del batch
        hyper = jax.tree.map(jax.nn.sigmoid, meta_params)
        gradient, mean_entropy = gradient_of(agent.params, hyper, agent.rollout)
        return advance(network, descend(optimizer, agent, gradient), key, config), mean_entropy

    return step


def make_meta_gradient(
    network: Network, optimizer: optax.GradientTransformation, config: SnakeConfig
):
    """The meta-gradient that the configuration asks for: see `core.meta_gradient`."""
    return make_compute(
        config,
        make_outer_loss(network, config),
        make_step(network, optimizer, config),
        optimizer,
        predict=lambda agent, observation: network.apply(agent.params, observation),
        matching=matching.kl,
        match_on=lambda batch, unrolled, path: unrolled.states[-1].rollout.observation[:-1],
    )


def make_estimate(config: SnakeConfig):
    """(state, key) -> the meta-gradient that the configuration asks for, on data of its own: also
    the first rollout is collected anew."""
    network = make_network(config)
    compute = make_meta_gradient(network, make_optimizer(config), config)
    batches, batch = unrolled_batches(config), objective_batch(config)

    def estimate(state: State, key: jax.Array) -> Hyperparameters:
        rollout_key, key = jax.random.split(key)
        agent = advance(network, state.agent, rollout_key, config)
        return compute(state.meta.params, agent, batches, batch, key).gradient

    return estimate


def initial_logits(config: SnakeConfig) -> Hyperparameters:
    """The meta-parameters at first."""
    values = (getattr(config, name) for name in Hyperparameters._fields)
    return Hyperparameters(*(jnp.float32(math.log(value / (1 - value))) for value in values))


def make_lifetime(config: SnakeConfig) -> Lifetime:
    """A lifetime on Snake."""
    network = make_network(config)
    optimizer = make_optimizer(config)
    meta_optimizer = optax.chain(
        clip_by_global_norm(config.max_meta_gradient_norm), optax.adam(config.meta_learning_rate)
    )
    step = make_step(network, optimizer, config)

    def init(key: jax.Array) -> State:
        params_key, games_key, rollout_key, key = jax.random.split(key, 4)
        params = network.init(params_key)
        reset = functools.partial(snake.reset, snake.make_params())
        games = jax.vmap(reset)(jax.random.split(games_key, config.environments))
        games, rollout = collect(network, params, games, rollout_key, config.rollout_length)
        meta_params = initial_logits(config)
        meta = MetaState(meta_params, meta_optimizer.init(meta_params))
        return State(Agent(params, optimizer.init(params), games, rollout), meta, key)

    def unlearned(state: State, data: None):
        after, mean_entropy = fixed_window(step, state)
        return after, records(state, mean_entropy, jnp.float32(0))

    lifetime = functools.partial(
        Lifetime, init, updates_per_window=1, steps_per_update=config.steps_per_update,
        columns=COLUMNS, convolves=True, chunk_steps=_CHUNK_STEPS,
    )  # fmt: skip
    if config.objective == "fixed":
        return lifetime(unlearned)

    compute = make_meta_gradient(network, optimizer, config)
    unrolled, batch = len(unrolled_batches(config)), objective_batch(config)

    def window(state: State, data: None):
        after, result = meta_window(compute, meta_optimizer, unrolled, batch, state)
        return after, records(state, result.aux[0], diagnosis.norm(result.gradient))

    return lifetime(window)


def records(before: State, mean_entropy: jax.Array, meta_gradient_norm: jax.Array) -> dict:
    """Of one update: episodes that its rollout ended, the sum of their returns, and the rest."""
    rollout = before.agent.rollout
    ended = 1.0 - rollout.discount
    hyper = jax.tree.map(jax.nn.sigmoid, before.meta.params)
    values = {
        "episodes": jnp.sum(ended),
        "returns": jnp.sum(ended * rollout.episode_return),
        "entropy": mean_entropy,
        **hyper._asdict(),
        "meta_gradient_norm": meta_gradient_norm,
    }
    return {name: x[None] for name, x in values.items()}
