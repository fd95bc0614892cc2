"""Agents in worlds of their own: what a learned rule updates, and how it is judged.

    theta(k)  =  theta(k-1) - alpha_lr grad of Eq. 2, whose targets the rule makes of a rollout
    rollout   =  20 steps of 64 environments under theta(k)
    the rule's loss, at theta(K) (Eq. 4):
      mean_t -log pi(a_t|s_t) A_t - beta_0 H(pi) - beta_1 H(y) + beta_2 pi^^2 + beta_3 |y^|^2

An agent is a table with a row for each state of its world: logits of 18 actions, of which the first
9, 18 or 2 are there, and the prediction. Advantages are made of values that each lifetime learns
beside it and the rule never sees. All lifetimes are updated at once: arrays have them as their
first axis, and the rule is applied to all of their rollouts together.

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmg.agents import update_rule
from bmg.agents.losses import entropy, policy_gradient_loss
from bmg.agents.update_rule import Outputs, Rule, Seen, Targets
from bmg.environments import worlds
from bmg.experiments.lifetime import SHARDS, share
from bmg.experiments.lpg.config import LpgConfig
from bmg.meta import core, objectives
from bmg.meta.differentiation import inner_gradient
from bmg.meta.matching import kl_divergence

PyTree = Any
_NO_ACTION = -1e9  # logit


class Rollout(NamedTuple):
    """What B environments did in T steps."""

    state: jax.Array  # int32 [T + 1, B], numbers
    action: jax.Array  # int32 [T, B]
    reward: jax.Array  # float32 [T, B]
    discount: jax.Array  # float32 [T, B], 0 where an episode ended, else 1
    episode_return: jax.Array  # float32 [T, B], so far


class Hyperparameters(NamedTuple):
    """What stays the same in a lifetime."""

    arm: jax.Array  # int32 [], of the bandit
    gamma: jax.Array  # float32 []
    entropy_weight: jax.Array  # float32 [], beta_0


class Lifetime(NamedTuple):
    """An agent and its world; with a leading axis, those of a population."""

    table: jax.Array  # float32 [states, 18 + m], theta
    values: jax.Array  # float32 [states], for the advantages
    world: worlds.Params
    games: worlds.State  # [B], after the rollout
    rollout: Rollout  # under theta, for the next update
    hyper: Hyperparameters
    updates: jax.Array  # int32 [], so far
    whole: jax.Array  # bool [], whether it began at its beginning
    episodes: jax.Array  # float32 [], that ended in the last fifth
    returns: jax.Array  # float32 [], the sum of theirs


class StepAux(NamedTuple):
    """What one update tells, means over lifetimes and steps."""

    policy_target: jax.Array  # [], of pi^ squared
    prediction_target: jax.Array  # [], of |y^|^2, of a distribution's probabilities


class Functions(NamedTuple):
    """Of a population, pure."""

    begin: Callable[[jax.Array, jax.Array, Hyperparameters], Lifetime]
    """(key, family of worlds, hyper-parameters) -> one lifetime at its beginning."""
    step: core.Step  # (rule, lifetimes, None, key) -> (lifetimes, StepAux)
    objective: core.Objective
    """Its metrics are those of each lifetime [L], and those of the rule's targets []."""


def make_functions(config: LpgConfig, axis_name: str | None = SHARDS) -> Functions:
    """What the population does.

    Args:
      config: of the experiment.
      axis_name: of the devices that share the lifetimes; None for this one alone.
    """
    rows = worlds.most_states(config.worlds)
    count = len(config.worlds) * config.lifetimes
    columns = worlds.NUM_ACTIONS + config.rule.outputs

    def begin(key, family, hyper):
        world_key, game_key, rollout_key = jax.random.split(key, 3)
        world = worlds.draw_world(family, world_key)
        keys = jax.random.split(game_key, config.environments)
        games = jax.vmap(functools.partial(worlds.reset, world))(keys)
        table = jnp.zeros((rows, columns))
        games, rollout = collect(table, world, games, rollout_key, config.rollout_length)
        zero = jnp.zeros(())
        return Lifetime(
            table, jnp.zeros(rows), world, games, rollout, hyper, jnp.int32(0), jnp.bool_(True),
            zero, zero,
        )  # fmt: skip

    def step(rule, lifetimes, batch, key):
        del batch
        keys = share(jax.random.split(key, count), axis_name)
        targets = make_targets(rule, lifetimes, config)
        rates, costs = jnp.asarray(config.arms).T
        arm = lifetimes.hyper.arm
        gradient, _ = jax.vmap(gradient_of)(
            lifetimes.table, (targets, costs[arm]), (lifetimes.world, lifetimes.rollout)
        )
        table = lifetimes.table - rates[arm][:, None, None] * gradient
        after = jax.vmap(functools.partial(advance, config=config))(lifetimes, table, keys)
        return after, StepAux(
            jnp.mean(jnp.square(targets.policy)),
            jnp.mean(jnp.sum(jnp.square(y_of(targets.prediction, config)), axis=-1)),
        )

    gradient_of = make_gradient(config)

    def outer(lifetimes):
        return jax.vmap(functools.partial(outer_loss, config=config))(
            lifetimes.table, lifetimes.values, lifetimes.world, lifetimes.rollout, lifetimes.hyper
        )

    def a2c(rule, unrolled, batch, key):
        del rule, batch, key
        losses, metrics = outer(unrolled.states[-1])
        return jnp.mean(losses), core.Outcome(unrolled.states[-1], metrics)

    def towards_a2c(rule, lifetimes, batch, key):
        """The target's last update, of the policy and the prediction's entropy."""
        del rule, batch, key
        gradient = jax.grad(lambda table: jnp.sum(outer(lifetimes._replace(table=table))[0]))
        rates = jnp.asarray(config.arms)[lifetimes.hyper.arm, 0]
        table = lifetimes.table - rates[:, None, None] * gradient(lifetimes.table)
        return lifetimes._replace(table=table), ()

    def on_their_rollouts(lifetimes, given):
        world, rollout = given
        return jax.vmap(outputs_of)(lifetimes.table, world, rollout.state[:, :-1])

    bootstrapped = objectives.bootstrapped(
        step, towards_a2c, on_their_rollouts, functools.partial(distance, config=config),
        config.target_steps, continue_from="bootstrap",
        match_on=lambda batch, unrolled, path: (
            unrolled.states[-1].world, unrolled.states[-1].rollout
        ),
    )  # fmt: skip

    def bmg(rule, unrolled, batch, key):
        loss, outcome = bootstrapped(rule, unrolled, batch, key)
        _, metrics = outer(outcome.next_state)
        return loss, outcome._replace(metrics=metrics)

    main = {"a2c": a2c, "bmg": bmg}[config.objective]

    def objective(rule, unrolled, batch, key):
        loss, outcome = main(rule, unrolled, batch, key)
        mean = lambda values: sum(values) / len(values)  # noqa: E731
        targets = {
            "policy_target": mean([aux.policy_target for aux in unrolled.aux]),
            "prediction_target": mean([aux.prediction_target for aux in unrolled.aux]),
        }
        loss += config.policy_target_weight * targets["policy_target"]
        loss += config.prediction_target_weight * targets["prediction_target"]
        return loss, outcome._replace(metrics=outcome.metrics | targets)

    return Functions(begin, step, objective)


def distance(target: Outputs, agents: Outputs, config: LpgConfig) -> jax.Array:
    """KL(target || agents) of what is matched, a mean over lifetimes and steps: [], nats."""
    total = jnp.zeros(())
    if config.matched != "prediction":
        total += kl_divergence(target.logits, agents.logits)
    if config.matched != "policy":
        total += kl_divergence(target.prediction, agents.prediction)
    return total


def y_of(prediction: jax.Array, config: LpgConfig) -> jax.Array:
    """Numbers of a prediction or its target: [..., m]."""
    return update_rule.predicted(prediction, config.rule)


def outputs_of(table: jax.Array, world: worlds.Params, state: jax.Array) -> Outputs:
    """An agent's, in states [...] by their numbers."""
    row = table[state]
    logits, prediction = row[..., : worlds.NUM_ACTIONS], row[..., worlds.NUM_ACTIONS :]
    there = jnp.arange(worlds.NUM_ACTIONS) < worlds.num_actions(world)
    return Outputs(jnp.where(there, logits, _NO_ACTION), prediction)


def collect(
    table: jax.Array, world: worlds.Params, games: worlds.State, key: jax.Array, length: int
) -> tuple[worlds.State, Rollout]:
    """A rollout of B environments under one agent; nothing in it is differentiated."""
    batch = jax.tree.leaves(games)[0].shape[0]
    action_key, game_key = jax.random.split(key)
    noise = jax.random.gumbel(action_key, (length, batch, worlds.NUM_ACTIONS))
    draws = worlds.draw(world, game_key, (length, batch))
    table = jax.lax.stop_gradient(table)  # actions are samples: there is nothing to cut
    number = jax.vmap(functools.partial(worlds.index, world))
    step = jax.vmap(functools.partial(worlds.step, world))

    def act(games, random):
        noise, draws = random
        state = number(games)
        action = jnp.argmax(outputs_of(table, world, state).logits + noise, axis=-1)
        games, transition = step(games, action, draws)
        return games, (state, action, *transition)

    games, (state, *rest) = jax.lax.scan(act, games, (noise, draws))
    return games, Rollout(jnp.concatenate([state, number(games)[None]]), *rest)


def make_targets(rule: Rule, lifetimes: Lifetime, config: LpgConfig) -> Targets:
    """The rule's targets for each lifetime's rollout: [L, T, B] leading."""
    rollout = lifetimes.rollout
    outputs = jax.vmap(outputs_of)(lifetimes.table, lifetimes.world, rollout.state)
    if not config.connected:
        outputs = jax.lax.stop_gradient(outputs)
    joined = lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])  # noqa: E731
    outputs, action, reward, discount = jax.tree.map(
        joined, (outputs, rollout.action, rollout.reward, rollout.discount)
    )
    gamma = jnp.repeat(lifetimes.hyper.gamma, rollout.reward.shape[2])
    seen = update_rule.see(outputs, action, reward, discount, gamma, config.rule)
    targets = update_rule.apply_rule(rule, seen, config.rule)
    count = len(lifetimes.updates)
    parted = lambda x: jnp.moveaxis(x.reshape(len(x), count, -1, *x.shape[2:]), 1, 0)  # noqa: E731
    return jax.tree.map(parted, targets)


def make_gradient(config: LpgConfig):
    """(table, (targets, alpha_y), (world, rollout)) -> (gradient of Eq. 2, ()), of one lifetime."""

    def predict(table, data):
        world, rollout = data
        return outputs_of(table, world, rollout.state[:-1])

    def loss(outputs, constants, meta, data):
        del constants
        targets, cost = meta
        action = data[1].action
        return update_rule.agent_loss(outputs, targets, action, cost, config.rule), ()

    return inner_gradient(predict, loss)


def advantages(
    values: jax.Array, rollout: Rollout, gamma: jax.Array, trace_decay: float
) -> jax.Array:
    """Lambda-returns minus values: [T, B]."""
    value = values[rollout.state]
    batch = jnp.broadcast_to(gamma, rollout.reward.shape[1:])
    seen = Seen(rollout.reward, rollout.discount, batch, rollout.reward, value[..., None])
    return update_rule.lambda_returns(seen, trace_decay) - value[:-1]


def learned_values(
    values: jax.Array, rollout: Rollout, gamma: jax.Array, config: LpgConfig
) -> jax.Array:
    """Each value moved towards the mean of its state's lambda-returns in this rollout.

    A step of SGD, as agents take it, goes too far in a short chain: its few states are visited so
    often that values oscillate and grow.
    """
    values = jax.lax.stop_gradient(values)
    error = advantages(values, rollout, gamma, config.trace_decay)
    state = rollout.state[:-1]
    visits = jnp.zeros_like(values).at[state].add(1.0)
    errors = jnp.zeros_like(values).at[state].add(error)
    return values + config.value_learning_rate * errors / jnp.maximum(visits, 1.0)


def advance(lifetime: Lifetime, table: jax.Array, key: jax.Array, config: LpgConfig) -> Lifetime:
    """A lifetime after an update to `table`: its values, and the next rollout."""
    values = learned_values(lifetime.values, lifetime.rollout, lifetime.hyper.gamma, config)
    games, rollout = collect(table, lifetime.world, lifetime.games, key, config.rollout_length)
    return lifetime._replace(
        table=table, values=values, games=games, rollout=rollout, updates=lifetime.updates + 1
    )


def outer_loss(
    table: jax.Array,
    values: jax.Array,
    world: worlds.Params,
    rollout: Rollout,
    hyper: Hyperparameters,
    config: LpgConfig,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What the rule descends, of one lifetime, without what is said of its targets."""
    outputs = outputs_of(table, world, rollout.state[:-1])
    advantage = advantages(jax.lax.stop_gradient(values), rollout, hyper.gamma, config.trace_decay)
    log_pi = jax.nn.log_softmax(outputs.logits)
    policy_entropy = jnp.mean(entropy(outputs.logits))
    loss = policy_gradient_loss(log_pi, rollout.action, advantage)
    loss -= hyper.entropy_weight * policy_entropy
    prediction_entropy = jnp.zeros(())
    if config.rule.prediction == "distribution":
        prediction_entropy = jnp.mean(entropy(outputs.prediction))
        loss -= config.prediction_entropy_weight * prediction_entropy
    metrics = {
        "policy_entropy": policy_entropy,
        "prediction_entropy": prediction_entropy,
        "reward": jnp.mean(rollout.reward),
        "advantage": jnp.mean(jnp.square(advantage)),
    }
    return loss, metrics
