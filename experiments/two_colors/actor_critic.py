"""The actor-critic on two colours: its entropy weight fixed, or meta-learned by MG or BMG.

    x' = x - a grad_x (l_PG(x) + eps_w(t) l_EN(x))     on the rollout collected with x, l_EN = -H
    z' = z - a grad_z l_TD(z)                          G_t: n-step returns to the rollout's end
    MG    w follows  1/K sum_k l_PG^k(x(k)(w)) + eps_meta l_EN^k(x(k)(w)), each on the rollout that
          produced x(k)
    BMG   w follows  KL(pi_target || pi_x(K)(w)); the target is L - 1 updates ahead and one more
          step under eps_meta. Those L - 1 updates are real: the agent goes on from them.

Every state carries the rollout that its next update will use, so that the last target step has data
from the parameters it starts from, which the agent's next update then uses as well.

Reference: Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, appendix B.2 and Table 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from bmg.agents.losses import policy_gradient_loss
from bmg.environments import two_colors
from bmg.experiments.lifetime import Lifetime, MetaState, State, fixed_window, meta_window
from bmg.experiments.networks import Mlp, mlp
from bmg.experiments.two_colors.config import ActorCriticConfig, TwoColorsConfig
from bmg.experiments.two_colors.networks import sigmoid_network
from bmg.meta import core, matching
from bmg.meta.differentiation import inner_gradient
from bmg.meta.objectives import BootstrapBatch, bootstrapped, mean_value
from bmg.meta.optimizers import clip_by_global_norm


class Rollout(NamedTuple):
    """N steps with one policy."""

    observation: jax.Array  # float32 [N + 1, 30], s_0 ... s_N
    action: jax.Array  # int32 [N]
    reward: jax.Array  # float32 [N], r_1 ... r_N


class Agent(NamedTuple):
    """The inner learner, and the world it lives in."""

    policy: hk.Params  # x
    critic: hk.Params  # z
    world: two_colors.State
    context: jax.Array  # float32 [10], t: mean rewards of rollouts, `rollout`'s last; 0 before
    rollout: Rollout  # collected under x, for the next update
    used: Rollout  # what the last update used


class StepAux(NamedTuple):
    """What one update tells: the data it used and what it had to do with them."""

    rollout: Rollout
    advantage: jax.Array  # float32 [N]
    reward: jax.Array  # [] mean per environment step
    entropy: jax.Array  # [] mean over the rollout of the policy before the update, nats
    entropy_weight: jax.Array  # []


class Networks(NamedTuple):
    """The three networks."""

    policy: Mlp
    critic: Mlp
    meta: Mlp


def make_networks(config: ActorCriticConfig) -> Networks:
    """Policy, critic and entropy weight (BMG Table 1)."""
    inputs = two_colors.OBSERVATION_SIZE
    return Networks(
        mlp(inputs, config.hidden, two_colors.NUM_ACTIONS),
        mlp(inputs, config.hidden, 1),
        sigmoid_network(config.meta_inputs, config.meta_hidden, config.initial_entropy_weight),
    )


def n_step_returns(reward: jax.Array, bootstrap_value: jax.Array, discount: float) -> jax.Array:
    """G_t = r_{t+1} + ... + gamma^{n-1} r_{t+n} + gamma^n v(s_N), n = N - t (BMG Eq. 4).

    One matrix product: a loop of N tiny operations costs more than the rest of the loss.

    Args:
      reward: [N].
      bootstrap_value: [], v(s_N).
      discount: gamma.

    Returns:
      [N].
    """
    length = reward.shape[0]
    ahead = jnp.arange(length)[None, :] - jnp.arange(length)[:, None]  # i - t
    powers = jnp.where(ahead >= 0, discount ** jnp.maximum(ahead, 0), 0.0)
    return powers @ reward + discount ** jnp.arange(length, 0, -1) * bootstrap_value


def policy_loss(
    logits: jax.Array, action: jax.Array, advantage: jax.Array, entropy_weight: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """l_PG + entropy_weight * l_EN, means over a rollout (BMG Eq. 4 with rho = 1).

    Args:
      logits: [N, A].
      action: int32 [N].
      advantage: [N], a constant.
      entropy_weight: epsilon.

    Returns:
      The loss [] and the mean entropy [], nats.
    """
    log_pi = jax.nn.log_softmax(logits)
    loss = policy_gradient_loss(log_pi, action, advantage)
    entropy = -jnp.mean(jnp.sum(jnp.exp(log_pi) * log_pi, axis=-1))
    return loss - entropy_weight * entropy, entropy


def collect(
    policy: Mlp, params: hk.Params, world: two_colors.State, key: jax.Array, config: TwoColorsConfig
) -> tuple[two_colors.State, Rollout]:
    """A rollout under one policy; nothing in it is differentiated."""
    length = config.actor_critic.rollout_length
    action_key, world_key = jax.random.split(key)
    noise = jax.random.gumbel(action_key, (length, two_colors.NUM_ACTIONS))
    variant = two_colors.make_params(config.flip_every, config.respawn)
    draws = two_colors.draw(variant, world_key, (length,))
    params = jax.lax.stop_gradient(params)  # actions are samples: there is nothing to cut

    def act(world, random):
        noise, draw = random
        observation = two_colors.observe(variant, world)
        action = jnp.argmax(policy.apply(params, observation) + noise)  # a categorical sample
        world, transition = two_colors.step(variant, world, action, draw)
        return world, (observation, action, transition.reward)

    world, (observation, action, reward) = jax.lax.scan(act, world, (noise, draws))
    observation = jnp.concatenate([observation, two_colors.observe(variant, world)[None]])
    return world, Rollout(observation, action, reward)


def advance(agent: Agent, networks: Networks, key: jax.Array, config: TwoColorsConfig) -> Agent:
    """Collects the next rollout with the agent's policy; the present one becomes the used one."""
    world, rollout = collect(networks.policy, agent.policy, agent.world, key, config)
    context = jnp.append(agent.context[1:], jnp.mean(rollout.reward))
    return agent._replace(world=world, context=context, rollout=rollout, used=agent.rollout)


def descend(params: hk.Params, gradient: hk.Params, config: ActorCriticConfig) -> hk.Params:
    """SGD on a gradient of bounded norm."""
    if config.max_gradient_norm:
        gradient, _ = clip_by_global_norm(config.max_gradient_norm).update(gradient, None)
    return jax.tree.map(lambda p, g: p - config.learning_rate * g, params, gradient)


def policy_step(
    networks: Networks,
    params: hk.Params,
    rollout: Rollout,
    advantage: jax.Array,
    entropy_weight: jax.Array | float,
    config: ActorCriticConfig,
) -> tuple[hk.Params, jax.Array]:
    """One SGD step on the policy's loss; the new parameters and the old ones' entropy."""

    def predict(params, data):
        rollout, _ = data
        return networks.policy.apply(params, rollout.observation[:-1])

    def loss(logits, constants, entropy_weight, data):
        del constants
        rollout, advantage = data
        return policy_loss(logits, rollout.action, advantage, entropy_weight)

    gradient_of = inner_gradient(predict, loss)
    gradient, entropy = gradient_of(params, entropy_weight, (rollout, advantage))
    return descend(params, gradient, config), entropy


def make_entropy_weight(
    networks: Networks, config: TwoColorsConfig
) -> Callable[[hk.Params, Agent], jax.Array]:
    """(w, agent) -> eps_w(t), or the fixed weight."""
    if config.method == "fixed":
        return lambda meta_params, agent: jnp.float32(config.actor_critic.entropy_weight)
    return lambda meta_params, agent: networks.meta.apply(meta_params, agent.context)


def make_step(networks: Networks, config: TwoColorsConfig) -> core.Step:
    """The agent's update phi: learn from the pending rollout, then collect the next one."""
    own = config.actor_critic
    entropy_weight_of = make_entropy_weight(networks, config)

    def step(meta_params, agent: Agent, batch, key):
        del batch
        entropy_weight = entropy_weight_of(meta_params, agent)
        rollout = agent.rollout
        value, pullback = jax.vjp(
            lambda z: networks.critic.apply(z, rollout.observation)[..., 0], agent.critic
        )
        returns = n_step_returns(rollout.reward, value[-1], own.discount)
        advantage = returns - value[:-1]
        # Gradient of the mean of (G - v)^2 / 2, G a constant; s_N has no return.
        (critic_gradient,) = pullback(jnp.append(-advantage / own.rollout_length, 0.0))
        policy, entropy = policy_step(
            networks, agent.policy, rollout, advantage, entropy_weight, own
        )
        critic = descend(agent.critic, critic_gradient, own)
        updated = agent._replace(policy=policy, critic=critic)
        reward = jnp.mean(rollout.reward)
        aux = StepAux(rollout, advantage, reward, entropy, entropy_weight)
        return advance(updated, networks, key, config), aux

    return step


def make_final_step(networks: Networks, config: TwoColorsConfig) -> core.Step:
    """The last step to the target, of the policy alone: it is all that the matching sees.

    It tells the rollout it used, whose states are those of the matching.
    """
    own = config.actor_critic
    entropy_weight_of = make_entropy_weight(networks, config)

    def step(meta_params, agent: Agent, batch, key):
        del batch, key
        rollout = agent.rollout if own.last_rollout == "next" else agent.used
        value = networks.critic.apply(agent.critic, rollout.observation)[..., 0]
        advantage = n_step_returns(rollout.reward, value[-1], own.discount) - value[:-1]
        weight = own.meta_regularization
        if own.final_objective == "learned":
            weight = entropy_weight_of(meta_params, agent)
        policy, _ = policy_step(networks, agent.policy, rollout, advantage, weight, own)
        return agent._replace(policy=policy), rollout

    return step


def make_objective(networks: Networks, config: TwoColorsConfig) -> core.Objective:
    """MG's or BMG's meta-objective."""
    own = config.actor_critic

    if config.method == "mg":

        def loss(agent: Agent, aux: StepAux):
            logits = networks.policy.apply(agent.policy, aux.rollout.observation[:-1])
            value, _ = policy_loss(
                logits, aux.rollout.action, aux.advantage, own.meta_regularization
            )
            return value, {}

        return mean_value(loss)

    def predict(agent: Agent, observation: jax.Array) -> matching.Outputs:
        return matching.Outputs(networks.policy.apply(agent.policy, observation))

    divergence = matching.DIVERGENCES[config.matching_name]
    if own.matching_reduction == "sum":
        divergence = matching.summed(divergence)
    return bootstrapped(
        target_step=make_step(networks, config),
        final_step=make_final_step(networks, config),
        predict=predict,
        matching=divergence,
        num_target_steps=config.target_steps,
        continue_from="bootstrap",
        match_on=lambda batch, unrolled, path: path.final_aux.observation[:-1],
        unroll_target=core.scan,
    )


def make_lifetime(config: TwoColorsConfig) -> Lifetime:
    """The actor-critic's lifetime."""
    own = config.actor_critic
    networks = make_networks(own)
    step = make_step(networks, config)
    optimizer = optax.adam(config.meta_learning_rate, eps=1e-4)  # Table 1

    def init(key: jax.Array) -> State:
        policy_key, critic_key, meta_key, world_key, rollout_key, key = jax.random.split(key, 6)
        policy = networks.policy.init(policy_key)
        variant = two_colors.make_params(config.flip_every, config.respawn)
        world = two_colors.reset(variant, world_key)
        world, rollout = collect(networks.policy, policy, world, rollout_key, config)
        context = jnp.zeros(own.meta_inputs).at[-1].set(jnp.mean(rollout.reward))
        agent = Agent(
            policy, networks.critic.init(critic_key), world, context, rollout, used=rollout
        )
        meta = None
        if config.method != "fixed":
            meta_params = networks.meta.init(meta_key)
            meta = MetaState(meta_params, optimizer.init(meta_params))
        return State(agent, meta, key)

    def unlearned(state: State, data: None):
        state, aux = fixed_window(step, state)
        return state, records(aux)

    if config.method == "fixed":
        return Lifetime(init, unlearned, 1, own.rollout_length, COLUMNS)

    target_steps = config.target_steps if config.method == "bmg" else 1
    compute = core.meta_gradient(core.online_start, step, make_objective(networks, config))

    def window(state: State, data: None):
        batch = BootstrapBatch(target=(None,) * (target_steps - 1))
        state, result = meta_window(compute, optimizer, config.inner_steps, batch, state)
        parts = [records(aux) for aux in result.aux]
        if target_steps > 1:
            parts.append(records(result.target_aux[0]))
        return state, {name: jnp.concatenate([part[name] for part in parts]) for name in COLUMNS}

    updates = config.inner_steps + target_steps - 1
    return Lifetime(init, window, updates, own.rollout_length, COLUMNS)


COLUMNS = ("reward", "entropy", "entropy_weight")


def records(aux: StepAux) -> dict[str, jax.Array]:
    """What is recorded of one update or of several stacked ones: [updates] of each column."""
    return {name: jnp.atleast_1d(getattr(aux, name)) for name in COLUMNS}
