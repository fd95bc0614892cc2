"""Agents in worlds of their own: what a learned rule updates, and how it is judged.

    theta(k)  =  theta(k-1) - alpha_lr grad of Eq. 2, whose targets the rule makes of a rollout
    rollout   =  20 steps of 64 environments under theta(k)
    the rule's loss, at theta(K) (Eq. 4):
      mean_t -log pi(a_t|s_t) A_t - beta_0 H(pi) - beta_1 H(y) + beta_2 pi^^2 + beta_3 |y^|^2

Agents that are alike (`groups`) are updated at once: arrays have them as their first axis. The
rule is applied to all rollouts of all groups together. Advantages are made of values that each
lifetime learns beside its agent and the rule never sees.

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bmg.agents import update_rule
from bmg.agents.losses import entropy, policy_gradient_loss
from bmg.agents.update_rule import Outputs, Rule, Seen, Targets
from bmg.environments import worlds
from bmg.experiments.lifetime import share
from bmg.experiments.lpg.config import LpgConfig
from bmg.experiments.lpg.groups import Group
from bmg.meta import core, objectives
from bmg.meta.differentiation import inner_gradient
from bmg.meta.matching import kl_divergence
from bmg.meta.side_by_side import SHARDS

PyTree = Any
_NO_ACTION = -1e9  # logit


class Rollout(NamedTuple):
    """What B environments did in T steps."""

    observation: jax.Array  # [T + 1, B, ...]: int32 numbers of states, or float32
    action: jax.Array  # int32 [T, B]
    reward: jax.Array  # float32 [T, B]
    discount: jax.Array  # float32 [T, B], 0 where an episode ended, else 1
    episode_return: jax.Array  # float32 [T, B], so far


class Hyperparameters(NamedTuple):
    """What stays the same in a lifetime."""

    arm: jax.Array  # int32 [], of the group's
    gamma: jax.Array  # float32 []
    entropy_weight: jax.Array  # float32 [], beta_0


class Episodes(NamedTuple):
    """Those that ended."""

    count: jax.Array  # float32 []
    returns: jax.Array  # float32 [], the sum of theirs


class Lifetime(NamedTuple):
    """An agent and its world; with a leading axis, those of a group."""

    params: PyTree  # theta
    opt_state: optax.OptState
    values: PyTree  # for the advantages
    world: worlds.Params
    games: worlds.State  # [B], after the rollout
    rollout: Rollout  # under theta, for the next update
    hyper: Hyperparameters
    updates: jax.Array  # int32 [], so far
    whole: jax.Array  # bool [], whether it began at its beginning
    episodes: Episodes  # since the last meta-update
    final: Episodes  # in its last fifth


Population = tuple[Lifetime, ...]  # of each group


class StepAux(NamedTuple):
    """What one update tells, means over lifetimes and steps."""

    policy_target: jax.Array  # [], of pi^ squared
    prediction_target: jax.Array  # [], of |y^|^2, of a distribution's probabilities


class Functions(NamedTuple):
    """Of a population, pure."""

    step: core.Step  # (rule, population, None, key) -> (population, StepAux)
    objective: core.Objective
    """Its metrics are those of each lifetime [L], group by group, and those of the rule's targets
    []."""


def begin(
    group: Group, world_of: jax.Array, hyper: Hyperparameters, config: LpgConfig, key: jax.Array
) -> Lifetime:
    """One lifetime at its beginning, in a world of a kind: `world_of` int32 [], which of the
    group's."""
    world_key, game_key, rollout_key = jax.random.split(key, 3)
    family = jax.tree.map(lambda x: x[world_of], group.families)
    world = group.draw_world(family, world_key)
    keys = jax.random.split(game_key, config.environments)
    games = jax.vmap(functools.partial(worlds.reset, world))(keys)
    agent_key, values_key = jax.random.split(jax.random.fold_in(key, 1))
    params = group.init(agent_key)
    games, rollout = collect(group, params, world, games, rollout_key, config.rollout_length)
    none = Episodes(jnp.zeros(()), jnp.zeros(()))
    return Lifetime(
        params, group.optimizer.init(params), group.values.init(values_key), world, games, rollout,
        hyper, jnp.int32(0), jnp.bool_(True), episodes_of(rollout), none,
    )  # fmt: skip


def make_functions(
    groups: Sequence[Group], config: LpgConfig, axis_name: str | None = SHARDS
) -> Functions:
    """What the population does.

    Args:
      groups: its worlds and agents.
      config: of the experiment.
      axis_name: of the devices that share the lifetimes of each group; None for this one alone.
    """
    counts = [len(group.worlds) * config.lifetimes for group in groups]

    def step(rule, population, batch, key):
        del batch
        keys = _split(jax.random.split(key, sum(counts)), counts)
        targets = make_targets(rule, groups, population, config)
        after = tuple(
            jax.vmap(functools.partial(advance, group, config=config))(
                own, *learned(group, own, to, config), share(k, axis_name)
            )
            for group, own, to, k in zip(groups, population, targets, keys)
        )
        joined = jax.tree.map(lambda *x: jnp.concatenate(x), *targets)
        return after, StepAux(
            jnp.mean(jnp.square(joined.policy)),
            jnp.mean(jnp.sum(jnp.square(y_of(joined.prediction, config)), axis=-1)),
        )

    def outer(population):
        """Losses and metrics of all lifetimes: [L]."""
        found = [
            jax.vmap(functools.partial(outer_loss, group, config=config))(own.params, own)
            for group, own in zip(groups, population)
        ]
        return jax.tree.map(lambda *x: jnp.concatenate(x), *found)

    def a2c(rule, unrolled, batch, key):
        del rule, batch, key
        losses, metrics = outer(unrolled.states[-1])
        return jnp.mean(losses), core.Outcome(unrolled.states[-1], metrics)

    def towards_a2c(rule, population, batch, key):
        """The target's last update, of the policy and the prediction's entropy."""
        del rule, batch, key
        step = lambda group: functools.partial(a2c_update, group, config=config)  # noqa: E731
        return tuple(
            own._replace(params=jax.vmap(step(group))(own)[0])
            for group, own in zip(groups, population)
        ), ()

    def on_their_rollouts(population, given):
        found = []
        for group, own, (world, observation) in zip(groups, population, given):
            found.append(
                jax.vmap(functools.partial(outputs_of, group))(own.params, world, observation)
            )
        return jax.tree.map(lambda *x: jnp.concatenate(x), *found)

    bootstrapped = objectives.bootstrapped(
        step, towards_a2c, on_their_rollouts, functools.partial(distance, config=config),
        config.target_steps, continue_from="bootstrap",
        match_on=lambda batch, unrolled, path: [
            (own.world, own.rollout.observation[:, :-1]) for own in unrolled.states[-1]
        ],
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

    return Functions(step, objective)


def _split(x: jax.Array, counts: Sequence[int]) -> list[jax.Array]:
    """[sum of counts, ...] -> a part for each group."""
    return jnp.split(x, np.cumsum(counts)[:-1])


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


def outputs_of(
    group: Group, params: PyTree, world: worlds.Params, observation: jax.Array
) -> Outputs:
    """An agent's; actions that are not there have no probability."""
    logits, prediction = group.apply(params, observation)
    there = jnp.arange(worlds.NUM_ACTIONS) < worlds.num_actions(world)
    return Outputs(jnp.where(there, logits, _NO_ACTION), prediction)


def collect(
    group: Group,
    params: PyTree,
    world: worlds.Params,
    games: worlds.State,
    key: jax.Array,
    length: int,
) -> tuple[worlds.State, Rollout]:
    """A rollout of B environments under one agent; nothing in it is differentiated."""
    batch = jax.tree.leaves(games)[0].shape[0]
    action_key, game_key = jax.random.split(key)
    noise = jax.random.gumbel(action_key, (length, batch, worlds.NUM_ACTIONS))
    draws = worlds.draw(world, game_key, (length, batch))
    params = jax.lax.stop_gradient(params)  # actions are samples: there is nothing to cut
    observe = jax.vmap(functools.partial(group.observe, world))
    step = jax.vmap(functools.partial(worlds.step, world))

    def act(games, random):
        noise, draws = random
        observation = observe(games)
        logits = outputs_of(group, params, world, observation).logits
        action = jnp.argmax(logits + noise, axis=-1)
        games, transition = step(games, action, draws)
        return games, (observation, action, *transition)

    games, (observation, *rest) = jax.lax.scan(act, games, (noise, draws))
    return games, Rollout(jnp.concatenate([observation, observe(games)[None]]), *rest)


def episodes_of(rollout: Rollout) -> Episodes:
    """Those that ended in [..., T, B] steps: [...] of each."""
    ended = 1.0 - rollout.discount
    total = functools.partial(jnp.sum, axis=(-2, -1))
    return Episodes(total(ended), total(ended * rollout.episode_return))


def more(one: Episodes, other: Episodes) -> Episodes:
    """Those of both."""
    return jax.tree.map(jnp.add, one, other)


def make_targets(
    rule: Rule, groups: Sequence[Group], population: Population, config: LpgConfig
) -> list[Targets]:
    """The rule's targets for each lifetime's rollout: of each group, [L, T, B] leading."""
    given = []
    for group, own in zip(groups, population):
        outputs = jax.vmap(functools.partial(outputs_of, group))(
            own.params, own.world, own.rollout.observation
        )
        if not config.connected:
            outputs = jax.lax.stop_gradient(outputs)
        rollout = own.rollout
        given.append((outputs, rollout.action, rollout.reward, rollout.discount, own.hyper.gamma))
    counts = [len(gamma) for *_, gamma in given]
    *given, gamma = jax.tree.map(lambda *x: jnp.concatenate(x), *given)
    joined = lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])  # noqa: E731
    outputs, action, reward, discount = jax.tree.map(joined, given)
    gamma = jnp.repeat(gamma, config.environments)
    seen = update_rule.see(outputs, action, reward, discount, gamma, config.rule)
    targets = update_rule.apply_rule(rule, seen, config.rule)

    def parted(x):
        x = jnp.moveaxis(x.reshape(len(x), sum(counts), -1, *x.shape[2:]), 1, 0)
        return _split(x, counts)

    parts = jax.tree.map(parted, targets)
    return [Targets(*x) for x in zip(*parts)]


def make_gradient(group: Group, config: LpgConfig):
    """(theta, (targets, alpha_y), (world, rollout)) -> (gradient of Eq. 2, ()), of one lifetime."""

    def predict(params, data):
        world, rollout = data
        return outputs_of(group, params, world, rollout.observation[:-1])

    def loss(outputs, constants, meta, data):
        del constants
        targets, cost = meta
        action = data[1].action
        return update_rule.agent_loss(outputs, targets, action, cost, config.rule), ()

    return inner_gradient(predict, loss)


def learned(
    group: Group, lifetimes: Lifetime, targets: Targets, config: LpgConfig
) -> tuple[PyTree, optax.OptState]:
    """Parameters and optimisers of a group after an update by the rule's targets."""
    costs = jax.vmap(functools.partial(prediction_costs, group, config=config))(lifetimes)
    gradient, _ = jax.vmap(make_gradient(group, config))(
        lifetimes.params, (targets, costs), (lifetimes.world, lifetimes.rollout)
    )
    return jax.vmap(functools.partial(descend, group))(lifetimes, gradient)


def prediction_costs(group: Group, lifetime: Lifetime, config: LpgConfig) -> jax.Array:
    """alpha_y of the lifetime, [], or of each step, [T, B].

    A table's entry that is no distribution moves by alpha_lr alpha_y times the share of its state
    in the rollout, of its distance to the mean of its targets. It would overshoot, and grow without
    bound, where the product is over 1: there alpha_y is what makes it 1.
    """
    rate, cost = jnp.asarray(group.arms)[lifetime.hyper.arm]
    if config.rule.prediction == "distribution" or group.visits is None:
        return cost
    states = lifetime.rollout.observation[:-1]
    slope = 1.0 if config.rule.prediction == "value" else 2.0  # of the distance
    return jnp.minimum(cost, states.size / (slope * rate * group.visits(states)))


def descend(group: Group, lifetime: Lifetime, gradient: PyTree) -> tuple[PyTree, optax.OptState]:
    """One step along a gradient: parameters and optimiser."""
    rate = jnp.asarray(group.arms)[lifetime.hyper.arm, 0]
    direction, opt_state = group.optimizer.update(gradient, lifetime.opt_state)
    params = jax.tree.map(lambda p, d: p - rate * d, lifetime.params, direction)
    return params, opt_state


def a2c_update(
    group: Group, lifetime: Lifetime, config: LpgConfig
) -> tuple[PyTree, optax.OptState]:
    """One step along the gradient of what the rule descends."""
    gradient, _ = jax.grad(outer_loss, argnums=1, has_aux=True)(
        group, lifetime.params, lifetime, config
    )
    return descend(group, lifetime, gradient)


def advantages(
    group: Group, values: PyTree, rollout: Rollout, gamma: jax.Array, trace_decay: float
) -> jax.Array:
    """Lambda-returns minus values: [T, B]."""
    value = group.values.apply(values, rollout.observation)
    batch = jnp.broadcast_to(gamma, rollout.reward.shape[1:])
    seen = Seen(rollout.reward, rollout.discount, batch, rollout.reward, value[..., None])
    return update_rule.lambda_returns(seen, trace_decay) - value[:-1]


def advance(
    group: Group,
    lifetime: Lifetime,
    params: PyTree,
    opt_state: optax.OptState,
    key: jax.Array,
    config: LpgConfig,
) -> Lifetime:
    """A lifetime after an update to `params`: its values, and the next rollout."""
    values, rollout = lifetime.values, lifetime.rollout
    error = advantages(group, values, rollout, lifetime.hyper.gamma, config.trace_decay)
    # No part of the meta-gradient: 0, and Adam's slope is infinite where a gradient is 0.
    values = jax.lax.stop_gradient(group.values.learn(values, rollout.observation[:-1], error))
    games, rollout = collect(
        group, params, lifetime.world, lifetime.games, key, config.rollout_length
    )
    return lifetime._replace(
        params=params, opt_state=opt_state, values=values, games=games, rollout=rollout,
        updates=lifetime.updates + 1, episodes=more(lifetime.episodes, episodes_of(rollout)),
    )  # fmt: skip


def outer_loss(
    group: Group, params: PyTree, lifetime: Lifetime, config: LpgConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What the rule descends, of one lifetime with these parameters, without what is said of its
    targets."""
    rollout, hyper = lifetime.rollout, lifetime.hyper
    outputs = outputs_of(group, params, lifetime.world, rollout.observation[:-1])
    values = jax.lax.stop_gradient(lifetime.values)
    advantage = advantages(group, values, rollout, hyper.gamma, config.trace_decay)
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
