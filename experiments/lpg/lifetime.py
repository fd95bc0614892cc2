"""Meta-training of a rule as a lifetime of the runner: a window is one meta-update.

    K updates of every agent -> the rule's gradient, a mean over agents -> Adam
    agents whose time is over -> their final returns go to the bandit -> others in new worlds

Agents are spread over the devices. They begin at different ages, so that not all end at once; a
first lifetime that began in its midst tells the bandit nothing.

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020, algorithm 1.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bmg.agents.update_rule import Rule, init_rule
from bmg.environments import worlds
from bmg.experiments import lifetime as lifetimes_module
from bmg.experiments.lifetime import SHARDS, State, gathered, share
from bmg.experiments.lpg import bandit as bandits
from bmg.experiments.lpg.bandit import Bandit
from bmg.experiments.lpg.config import LpgConfig
from bmg.experiments.lpg.population import Hyperparameters, Lifetime, make_functions
from bmg.meta import core, diagnosis, objectives

_FINAL = 0.8  # of a lifetime, from which on episodes count for its final return


class Meta(NamedTuple):
    """What all lifetimes share."""

    params: Rule  # eta
    opt_state: optax.OptState
    bandit: Bandit


def columns_of(config: LpgConfig) -> tuple[str, ...]:
    """What is recorded of each meta-update."""
    totals = (
        "loss", "meta_gradient_norm", "reward", "policy_entropy", "prediction_entropy",
        "advantage", "policy_target", "prediction_target", "ended", "collapsed",
    )  # fmt: skip
    of_worlds = [(f"episodes_{name}", f"returns_{name}") for name in config.worlds]
    return (*totals, *(name for pair in of_worlds for name in pair))


def make_lifetime(config: LpgConfig) -> lifetimes_module.Lifetime:
    """Meta-training."""
    functions = make_functions(config)
    compute = core.meta_gradient(core.online_start, functions.step, functions.objective)
    optimizer = optax.adam(config.meta_learning_rate)
    families = worlds.stack_families(config.worlds)
    count = len(config.worlds) * config.lifetimes
    world_of = np.repeat(np.arange(len(config.worlds)), config.lifetimes)
    lengths = np.array([config.updates_of_lifetime(name) for name in config.worlds])[world_of]

    def hyperparameters(key: jax.Array, logits: jax.Array) -> Hyperparameters:
        arm_key, gamma_key, entropy_key = jax.random.split(key, 3)
        if config.bandit:
            arm = jax.random.categorical(arm_key, logits)
        else:
            middle = len(config.learning_rates) // 2 * len(config.prediction_costs)
            arm = jnp.int32(middle + len(config.prediction_costs) // 2)
        gamma = jax.random.choice(gamma_key, jnp.asarray(config.discounts))
        weight = jax.random.choice(entropy_key, jnp.asarray(config.policy_entropy_weights))
        return Hyperparameters(arm.astype(jnp.int32), gamma, weight)

    def begin(key: jax.Array, bandit: Bandit) -> Lifetime:
        """The lifetimes of this device at their beginning."""
        logits = bandits.logits(bandit, config.bandit_temperature, config.bandit_exploration)

        def one(key, world):
            hyper_key, key = jax.random.split(key)
            family = jax.tree.map(lambda x: x[world], families)
            return functions.begin(key, family, hyperparameters(hyper_key, logits[world]))

        return jax.vmap(one)(share(jax.random.split(key, count)), share(jnp.asarray(world_of)))

    def init(key: jax.Array) -> State:
        rule_key, begin_key, key = jax.random.split(key, 3)
        rule = init_rule(config.rule, rule_key)
        bandit = bandits.init(len(config.worlds), len(config.arms))
        ages = np.arange(count) % config.lifetimes / config.lifetimes * lengths
        window = config.updates_per_window
        ages = (ages // window * window).astype(np.int32)
        agents = begin(begin_key, bandit)
        ages = share(jnp.asarray(ages))
        agents = agents._replace(updates=ages, whole=ages == 0)
        return State(agents, Meta(rule, optimizer.init(rule), bandit), key)

    def window(state: State, data: None):
        del data
        next_key, update_key, begin_key = jax.random.split(state.key, 3)
        batches = (None,) * config.inner_steps
        further = objectives.BootstrapBatch((None,) * (config.target_steps - 1))
        result = compute(state.meta.params, state.agent, batches, further, update_key)
        average = functools.partial(jax.lax.pmean, axis_name=SHARDS)
        gradient = average(result.gradient)
        updates, opt_state = optimizer.update(gradient, state.meta.opt_state)
        rule = optax.apply_updates(state.meta.params, updates)

        agents = result.next_state
        own_lengths = share(jnp.asarray(lengths))
        agents, of_worlds = count_episodes(agents, own_lengths)
        collapsed = result.metrics["policy_entropy"] < config.collapse_entropy
        ended = agents.updates >= own_lengths
        final = agents.returns / agents.episodes  # NaN without episodes
        bandit = bandits.told(
            state.meta.bandit, jnp.asarray(world_of), gathered(agents.hyper.arm), gathered(final),
            gathered(ended & agents.whole & ~collapsed),
        )  # fmt: skip
        over = ended | collapsed
        agents = jax.lax.cond(
            jnp.any(over), lambda: chosen(over, begin(begin_key, bandit), agents), lambda: agents
        )
        values = {name: average(jnp.mean(x)) for name, x in result.metrics.items()}
        values |= {"loss": average(result.loss), "meta_gradient_norm": diagnosis.norm(gradient)}
        values |= {"ended": total(ended), "collapsed": total(collapsed)}
        for index, name in enumerate(config.worlds):
            values[f"episodes_{name}"] = of_worlds[0][index]
            values[f"returns_{name}"] = of_worlds[1][index]
        row = {name: values[name][None].astype(jnp.float32) for name in columns}
        return State(agents, Meta(rule, opt_state, bandit), next_key), row

    def count_episodes(agents: Lifetime, own_lengths: jax.Array):
        """Those of the newest rollout: for each lifetime's final return, and for each world."""
        ended = 1.0 - agents.rollout.discount
        episodes = jnp.sum(ended, (1, 2))
        returns = jnp.sum(ended * agents.rollout.episode_return, (1, 2))
        late = agents.updates >= _FINAL * own_lengths
        agents = agents._replace(
            episodes=agents.episodes + jnp.where(late, episodes, 0.0),
            returns=agents.returns + jnp.where(late, returns, 0.0),
        )
        index = share(jnp.asarray(world_of))
        sums = [
            jax.lax.psum(jax.ops.segment_sum(x, index, len(config.worlds)), SHARDS)
            for x in (episodes, returns)
        ]
        return agents, sums

    columns = columns_of(config)
    return lifetimes_module.Lifetime(
        init, window, 1, 1, columns, chunk_steps=1, shards=count, spread=True
    )


def total(x: jax.Array) -> jax.Array:
    """How many, on all devices."""
    return jax.lax.psum(jnp.sum(x), SHARDS)


def chosen(which: jax.Array, new: Lifetime, old: Lifetime) -> Lifetime:
    """New lifetimes where `which` [L], else the old ones."""
    pick = lambda a, b: jnp.where(which.reshape(-1, *(1,) * (a.ndim - 1)), a, b)  # noqa: E731
    return jax.tree.map(pick, new, old)
