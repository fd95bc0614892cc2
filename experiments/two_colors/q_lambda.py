"""Peng's Q(lambda) on two colours: its exploration fixed, or meta-learned by BMG.

    behaviour   epsilon-greedy, eps_w(t) of the most recent rewards
    update      every step: delta' = r + gamma max q(s') - q(s, a),  delta = ... - max q(s)
                e <- gamma lambda e,  g = -(delta e + delta' grad q(s, a)),  e <- e + grad q(s, a)
                then a moving average of g, and Adam
    BMG         the target is the agent L updates later, acting greedily. No update depends on w:
                nothing is backpropagated through (K = 0), only the matching sees eps_w.
                policy  KL(greedy on the target || pi_x,w)     value  (u_target - u_x,w)^2

The matching runs over the L states at which the agent acted on its way to the target, with the
action values x of before. Backward view: traces accumulate and are not cut at exploratory actions.

References:
  Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, appendix B.3 and Table 1.
  Peng and Williams, "Incremental multi-step Q-learning", Machine Learning 22, 1996.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import optax

from bmg.environments import two_colors
from bmg.experiments.lifetime import Lifetime, MetaState, State, fixed_window, meta_window
from bmg.experiments.networks import Mlp, mlp
from bmg.experiments.two_colors.config import TwoColorsConfig
from bmg.experiments.two_colors.networks import sigmoid_network
from bmg.meta import core
from bmg.meta.objectives import BootstrapBatch, bootstrapped


class Agent(NamedTuple):
    """The inner learner, and the world it lives in."""

    params: hk.Params  # x
    trace: hk.Params  # e
    opt_state: optax.OptState
    world: two_colors.State  # at s_t
    context: jax.Array  # float32 [50], t: the most recent rewards, 0 before there are any
    observation: jax.Array  # float32 [30], s_{t-1}
    action: jax.Array  # int32 [], a_{t-1}
    reward: jax.Array  # float32 [], r_t
    meta_params: hk.Params | None  # w, put here by the start for the matching to see


class StepAux(NamedTuple):
    """What one step tells: where the agent acted, and how."""

    observation: jax.Array  # float32 [30]
    context: jax.Array  # float32 [50]
    reward: jax.Array  # [] of the action before
    entropy: jax.Array  # [] of the epsilon-greedy policy, nats
    epsilon: jax.Array  # []
    tie: jax.Array  # [] 1 where several actions have the largest value: the first is greedy


class Exploration(NamedTuple):
    """What target and agent are compared by."""

    q: jax.Array  # [n, A] action values
    epsilon: jax.Array  # [n]


def greedy(q: jax.Array) -> jax.Array:
    """[..., A] -> probabilities of the greedy action; the first of equal ones."""
    return jax.nn.one_hot(jnp.argmax(q, axis=-1), q.shape[-1])


def epsilon_greedy(q: jax.Array, epsilon: jax.Array) -> jax.Array:
    """[..., A], [...] -> probabilities (BMG App. B.3)."""
    epsilon = epsilon[..., None]
    return (1.0 - epsilon) * greedy(q) + epsilon / q.shape[-1]


def match_policy(target: Exploration, online: Exploration) -> jax.Array:
    """Mean of KL(greedy on the target || the agent's epsilon-greedy policy)."""
    chex.assert_equal_shape([target.q, online.q])
    pi = epsilon_greedy(online.q, online.epsilon)
    return -jnp.mean(jnp.sum(greedy(target.q) * jnp.log(pi), axis=-1))


def match_value(target: Exploration, online: Exploration) -> jax.Array:
    """Mean of (u_target - u)^2, u the policy's expectation of q; the target acts greedily."""
    chex.assert_equal_shape([target.q, online.q])
    u = jnp.sum(epsilon_greedy(online.q, online.epsilon) * online.q, axis=-1)
    return jnp.mean(jnp.square(jnp.max(target.q, axis=-1) - u))


def make_epsilon(network: Mlp, config: TwoColorsConfig) -> Callable[..., jax.Array]:
    """(w, contexts [..., 50]) -> eps_w(t) [...], or the fixed epsilon."""
    own = config.q_lambda
    if config.method == "fixed":
        return lambda meta_params, context: jnp.full(context.shape[:-1], own.epsilon)
    floor = own.epsilon_floor
    return lambda meta_params, context: floor + (1 - floor) * network.apply(meta_params, context)


def peng_step(
    trace: hk.Params,
    gradient: hk.Params,
    error: jax.Array,
    greedy_error: jax.Array,
    decay: float,
) -> tuple[hk.Params, hk.Params]:
    """Peng's incremental Q(lambda) for one transition.

    Args:
      trace: e, of the transitions before.
      gradient: of q(s, a), the present one's.
      error: delta', r + gamma max q(s') - q(s, a).
      greedy_error: delta, r + gamma max q(s') - max q(s).
      decay: gamma lambda.

    Returns:
      The direction in which the parameters grow, and the new trace.
    """
    decayed = jax.tree.map(lambda e: decay * e, trace)
    direction = jax.tree.map(lambda e, g: greedy_error * e + error * g, decayed, gradient)
    return direction, jax.tree.map(jnp.add, decayed, gradient)


def make_optimizer(learning_rate: float, gradient_decay: float) -> optax.GradientTransformation:
    """A moving average of the gradients, then Adam (BMG Table 1)."""
    return optax.chain(optax.ema(gradient_decay, debias=False), optax.adam(learning_rate, eps=1e-4))


def make_step(q: Mlp, epsilon_of: Callable, config: TwoColorsConfig) -> core.Step:
    """One environment step: act at s_t, learn from the transition that led there, move on."""
    own = config.q_lambda
    optimizer = make_optimizer(own.learning_rate, own.gradient_decay)
    variant = two_colors.make_params(config.flip_every, config.respawn)

    def step(meta_params, agent: Agent, batch, key):
        del batch
        explore_key, action_key, world_key = jax.random.split(key, 3)
        observation = two_colors.observe(variant, agent.world)
        # Two passes: the gradient of one row is an outer product, far cheaper than that of two.
        q_tm1, pullback = jax.vjp(lambda x: q.apply(x, agent.observation), agent.params)
        q_t = q.apply(agent.params, observation)
        epsilon = epsilon_of(meta_params, agent.context)
        pi = epsilon_greedy(q_t, epsilon)
        random_action = jax.random.randint(action_key, (), 0, two_colors.NUM_ACTIONS, jnp.int32)
        explore = jax.random.uniform(explore_key) < epsilon
        action = jnp.where(explore, random_action, jnp.argmax(q_t).astype(jnp.int32))

        target = agent.reward + own.discount * jnp.max(q_t)
        taken = jax.nn.one_hot(agent.action, two_colors.NUM_ACTIONS)
        (gradient,) = pullback(taken)
        direction, trace = peng_step(
            agent.trace, gradient,
            error=target - q_tm1[agent.action], greedy_error=target - jnp.max(q_tm1),
            decay=own.discount * own.trace_decay,
        )  # fmt: skip
        updates, opt_state = optimizer.update(
            jax.tree.map(jnp.negative, direction), agent.opt_state
        )
        params = optax.apply_updates(agent.params, updates)

        draw = two_colors.draw(variant, world_key, ())
        world, transition = two_colors.step(variant, agent.world, action, draw)
        aux = StepAux(
            observation=observation,
            context=agent.context,
            reward=agent.reward,
            entropy=-jnp.sum(pi * jnp.log(jnp.maximum(pi, jnp.finfo(pi.dtype).tiny))),
            epsilon=epsilon,
            tie=(jnp.sum(q_t == jnp.max(q_t)) > 1).astype(jnp.float32),
        )
        context = jnp.append(agent.context[1:], transition.reward)
        new = agent._replace(
            params=params, trace=trace, opt_state=opt_state, world=world, context=context,
            observation=observation, action=action, reward=transition.reward,
        )  # fmt: skip
        return new, aux

    return step


def make_lifetime(config: TwoColorsConfig) -> Lifetime:
    """Q(lambda)'s lifetime; an update is one environment step."""
    own = config.q_lambda
    q = mlp(two_colors.OBSERVATION_SIZE, own.hidden, two_colors.NUM_ACTIONS)
    meta_network = sigmoid_network(own.meta_inputs, own.meta_hidden, own.initial_epsilon)
    epsilon_of = make_epsilon(meta_network, config)
    step = make_step(q, epsilon_of, config)
    optimizer = make_optimizer(own.learning_rate, own.gradient_decay)
    meta_optimizer = make_optimizer(config.meta_learning_rate, own.gradient_decay)
    variant = two_colors.make_params(config.flip_every, config.respawn)

    def init(key: jax.Array) -> State:
        q_key, meta_key, world_key, action_key, draw_key, key = jax.random.split(key, 6)
        params = q.init(q_key)
        world = two_colors.reset(variant, world_key)
        # The first action is random: the first update needs a transition.
        action = jax.random.randint(action_key, (), 0, two_colors.NUM_ACTIONS, jnp.int32)
        draw = two_colors.draw(variant, draw_key, ())
        after, transition = two_colors.step(variant, world, action, draw)
        agent = Agent(
            params=params,
            trace=jax.tree.map(jnp.zeros_like, params),
            opt_state=optimizer.init(params),
            world=after,
            context=jnp.zeros(own.meta_inputs).at[-1].set(transition.reward),
            observation=two_colors.observe(variant, world),
            action=action,
            reward=transition.reward,
            meta_params=None,
        )
        meta = None
        if config.method == "bmg":
            meta_params = meta_network.init(meta_key)
            meta = MetaState(meta_params, meta_optimizer.init(meta_params))
        return State(agent, meta, key)

    def unlearned(state: State, data: None):
        state, aux = fixed_window(step, state)
        return state, on_the_way((), aux, records)

    if config.method == "fixed":
        return Lifetime(init, unlearned, 1, 1, COLUMNS)

    def predict(agent: Agent, inputs: tuple[jax.Array, jax.Array]) -> Exploration:
        observation, context = inputs
        return Exploration(
            q.apply(agent.params, observation), epsilon_of(agent.meta_params, context)
        )

    objective = bootstrapped(
        target_step=step,
        final_step=step,  # the update rule has no meta-parameters: all L steps are the same
        predict=predict,
        matching={"policy": match_policy, "value": match_value}[config.matching_name],
        num_target_steps=config.target_steps,
        continue_from="target",
        match_on=lambda batch, unrolled, path: on_the_way(
            path.steps.aux, path.final_aux, lambda aux: (aux.observation, aux.context)
        ),
        unroll_target=core.scan,
    )
    compute = core.meta_gradient(
        lambda meta_params, agent, key: agent._replace(meta_params=meta_params), step, objective
    )

    def window(state: State, data: None):
        batch = BootstrapBatch(target=(None,) * (config.target_steps - 1))
        state, result = meta_window(compute, meta_optimizer, 0, batch, state)
        state = state._replace(agent=state.agent._replace(meta_params=None))
        return state, on_the_way(*result.target_aux, records)

    return Lifetime(init, window, config.target_steps, 1, COLUMNS)


def on_the_way(learned_aux, final_aux: StepAux, select: Callable):
    """`select` of all L steps to the target: L - 1 stacked ones, and the final one."""
    last = jax.tree.map(lambda x: x[None], select(final_aux))
    if not learned_aux:
        return last
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), select(learned_aux), last)


COLUMNS = ("reward", "entropy", "epsilon", "tie")


def records(aux: StepAux) -> dict[str, jax.Array]:
    """What is recorded of one step or of several stacked ones."""
    return {name: getattr(aux, name) for name in COLUMNS}
