"""Meta-training of a rule as a lifetime of the runner: a window is one meta-update.

    K updates of every agent -> the rule's gradient, a mean over agents -> Adam
    agents whose time is over -> their final returns go to the bandit -> others in new worlds

Agents are spread over the devices. They begin at different ages, so that not all end at once; a
first lifetime that began in its midst tells the bandit nothing.

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020, algorithm 1.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bmg.agents.rule_file import load_rule, rule_path
from bmg.agents.update_rule import Rule, init_rule
from bmg.experiments import lifetime as lifetimes_module
from bmg.experiments.lifetime import State, gathered, share
from bmg.experiments.lpg import bandit as bandits
from bmg.experiments.lpg import population
from bmg.experiments.lpg.bandit import Bandit
from bmg.experiments.lpg.config import LpgConfig
from bmg.experiments.lpg.groups import Group, make_groups
from bmg.experiments.lpg.population import Hyperparameters
from bmg.meta import core, diagnosis, objectives
from bmg.meta.optimizers import clip_by_running_norm
from bmg.meta.side_by_side import SHARDS

_FINAL = 0.8  # of a lifetime, from which on episodes count for its final return


class Meta(NamedTuple):
    """What all lifetimes share."""

    params: Rule  # eta
    opt_state: optax.OptState
    bandits: tuple[Bandit, ...]  # of each group


def columns_of(config: LpgConfig) -> tuple[str, ...]:
    """What is recorded of each meta-update."""
    totals = (
        "loss", "meta_gradient_norm", "reward", "policy_entropy", "prediction_entropy",
        "advantage", "policy_target", "prediction_target", "ended", "collapsed", "skipped",
    )  # fmt: skip
    of_worlds = [(f"episodes_{name}", f"returns_{name}") for name in config.worlds]
    return (*totals, *(name for pair in of_worlds for name in pair))


class Slots(NamedTuple):
    """Where the lifetimes of a group are; one begins in a slot as another one ends there."""

    group: Group
    world: np.ndarray  # [L], which of the group's
    length: np.ndarray  # [L], updates


def make_slots(group: Group, config: LpgConfig) -> Slots:
    """As many of each world."""
    world = np.repeat(np.arange(len(group.worlds)), config.lifetimes)
    lengths = np.array([config.updates_of_lifetime(name) for name in group.worlds])
    return Slots(group, world, lengths[world])


def begin(slots: Slots, bandit: Bandit, config: LpgConfig, key: jax.Array) -> population.Lifetime:
    """New lifetimes in the slots of this device."""
    group = slots.group
    logits = bandits.logits(bandit, config.bandit_temperature, config.bandit_exploration)

    def hyperparameters(key: jax.Array, logits: jax.Array) -> Hyperparameters:
        arm_key, gamma_key, entropy_key = jax.random.split(key, 3)
        if config.bandit:
            arm = jax.random.categorical(arm_key, logits)
        else:
            arm = jnp.int32(config.middle_arm_of(group.worlds[0]))
        gamma = jax.random.choice(gamma_key, jnp.asarray(config.discounts))
        weight = jax.random.choice(entropy_key, jnp.asarray(config.policy_entropy_weights))
        return Hyperparameters(arm.astype(jnp.int32), gamma, weight)

    def one(key, world):
        hyper_key, key = jax.random.split(key)
        hyper = hyperparameters(hyper_key, logits[world])
        return population.begin(group, world, hyper, config, key)

    keys = jax.random.split(key, len(slots.world))
    return jax.vmap(one)(share(keys), share(jnp.asarray(slots.world)))


def start_file(config: LpgConfig) -> pathlib.Path:
    """The rule that a run began with: its own copy, or else what it was given.

    Raises:
      ValueError: there is neither; one line.
    """
    own = config.path / "start.npz"
    return own if own.exists() else rule_path(config.start)


def first_rule(config: LpgConfig) -> Callable[[jax.Array], Rule]:
    """Key -> the rule that meta-training begins with: drawn, or out of a file, which is read now.

    Raises:
      ValueError: the file cannot be read, or its rule is another kind of rule; one line.
    """
    if not config.start:
        return functools.partial(init_rule, config.rule)
    found = load_rule(start_file(config))
    if found.config != config.rule:
        options = " ".join(
            f"--rule.{field.name.replace('_', '-')} {getattr(found.config, field.name)}"
            for field in dataclasses.fields(found.config)
            if getattr(found.config, field.name) != getattr(config.rule, field.name)
        )
        raise ValueError(f"start is {config.start}, which is another kind of rule; give {options}.")
    return lambda key: jax.tree.map(jnp.asarray, found.rule)


def make_optimizer(config: LpgConfig) -> optax.GradientTransformation:
    """Adam on the rule, behind the clip. A meta-gradient that is not finite changes nothing."""
    adam = optax.adam(config.meta_learning_rate)
    if config.meta_clip:
        adam = optax.chain(clip_by_running_norm(config.meta_clip), adam)
    return optax.apply_if_finite(adam, max_consecutive_errors=np.iinfo(np.int32).max)


def make_lifetime(config: LpgConfig) -> lifetimes_module.Lifetime:
    """Meta-training.

    Raises:
      ValueError: see `first_rule`.
    """
    groups = make_groups(config)
    every = [make_slots(group, config) for group in groups]
    functions = population.make_functions(groups, config)
    compute = core.meta_gradient(core.online_start, functions.step, functions.objective)
    optimizer = make_optimizer(config)
    draw_rule = first_rule(config)

    def init(key: jax.Array) -> State:
        rule_key, begin_key, key = jax.random.split(key, 3)
        rule = draw_rule(rule_key)
        learners = tuple(
            bandits.init(len(slots.group.worlds), len(slots.group.arms)) for slots in every
        )
        agents = []
        for slots, bandit, own_key in zip(every, learners, _keys(begin_key, every)):
            ages = np.arange(len(slots.world)) % config.lifetimes / config.lifetimes * slots.length
            window = config.updates_per_window
            ages = share(jnp.asarray((ages // window * window).astype(np.int32)))
            found = begin(slots, bandit, config, own_key)
            agents.append(found._replace(updates=ages, whole=ages == 0))
        return State(tuple(agents), Meta(rule, optimizer.init(rule), learners), key)

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

        diverged = ~jnp.isfinite(result.metrics["policy_entropy"] + result.metrics["advantage"])
        collapsed = diverged | (result.metrics["policy_entropy"] < config.collapse_entropy)
        values = {name: average(jnp.mean(x)) for name, x in result.metrics.items()}
        values |= {"loss": average(result.loss), "meta_gradient_norm": diagnosis.norm(gradient)}
        values |= {"ended": jnp.zeros(()), "collapsed": total(collapsed)}
        values["skipped"] = ~optax.tree.get(opt_state, "last_finite")
        everyone, learners, first = [], [], 0
        keys = _keys(begin_key, every)
        for slots, agents, bandit, key in zip(every, result.next_state, state.meta.bandits, keys):
            last = first + len(agents.updates)
            agents, bandit, ended, of_worlds = turn_over(
                slots, agents, bandit, collapsed[first:last], key
            )
            everyone.append(agents)
            learners.append(bandit)
            values["ended"] += total(ended)
            values |= of_worlds
            first = last
        row = {name: values[name][None].astype(jnp.float32) for name in columns}
        meta = Meta(rule, opt_state, tuple(learners))
        return State(tuple(everyone), meta, next_key), row

    def turn_over(slots, agents, bandit, collapsed, key):
        """Those whose time is over tell the bandit, and others begin."""
        length = share(jnp.asarray(slots.length))
        agents, of_worlds = count_episodes(slots, agents)
        ended = agents.updates >= length
        final = agents.final.returns / agents.final.count  # NaN without episodes
        bandit = bandits.told(
            bandit, jnp.asarray(slots.world), gathered(agents.hyper.arm), gathered(final),
            gathered(ended & agents.whole & ~collapsed),
        )  # fmt: skip
        over = ended | collapsed
        agents = jax.lax.cond(
            jnp.any(over), lambda: chosen(over, begin(slots, bandit, config, key), agents),
            lambda: agents,
        )  # fmt: skip
        return agents, bandit, ended, of_worlds

    columns = columns_of(config)
    shards = math.gcd(*(len(slots.world) for slots in every))
    return lifetimes_module.Lifetime(
        init, window, 1, 1, columns, chunk_steps=1, shards=shards, spread=True
    )


def _keys(key: jax.Array, every: Sequence[Slots]) -> list[jax.Array]:
    """One for the slots of each group."""
    return [key, *(jax.random.fold_in(key, index) for index in range(1, len(every)))]


def count_episodes(slots: Slots, agents: population.Lifetime):
    """Those since the last meta-update: for each lifetime's final return, and for each world."""
    found = agents.episodes
    late = agents.updates >= _FINAL * share(jnp.asarray(slots.length))
    counted = jax.tree.map(lambda x: jnp.where(late, x, 0.0), found)
    agents = agents._replace(
        episodes=jax.tree.map(jnp.zeros_like, found), final=population.more(agents.final, counted)
    )
    names, index = slots.group.worlds, share(jnp.asarray(slots.world))
    of_worlds = {}
    for what, x in (("episodes", found.count), ("returns", found.returns)):
        sums = jax.lax.psum(jax.ops.segment_sum(x, index, len(names)), SHARDS)
        of_worlds |= {f"{what}_{name}": sums[i] for i, name in enumerate(names)}
    return agents, of_worlds


def total(x: jax.Array) -> jax.Array:
    """How many, on all devices."""
    return jax.lax.psum(jnp.sum(x), SHARDS)


def chosen(
    which: jax.Array, new: population.Lifetime, old: population.Lifetime
) -> population.Lifetime:
    """New lifetimes where `which` [L], else the old ones."""
    pick = lambda a, b: jnp.where(which.reshape(-1, *(1,) * (a.ndim - 1)), a, b)  # noqa: E731
    return jax.tree.map(pick, new, old)
