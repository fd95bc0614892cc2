"""What agents come to under a fixed update rule, and under A2C with the same agents.

In each world several agents live for each pair of a step size and a cost: of the prediction for a
rule, of the entropy for A2C. The best pair is told, by the mean return of its agents at the end:
outside of meta-training step sizes are chosen as for any other algorithm (section 3.4).

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020, section 4.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmg.agents.update_rule import Rule
from bmg.experiments.lpg import population
from bmg.experiments.lpg.config import LpgConfig
from bmg.experiments.lpg.groups import Group, make_groups
from bmg.experiments.lpg.population import Hyperparameters, Lifetime

Arm = tuple[float, float]  # a step size, and a cost: of the prediction, or of A2C's entropy


class Trial(NamedTuple):
    """Of W worlds, A arms with N agents each, in U updates."""

    arms: tuple[Arm, ...]
    episodes: np.ndarray  # [W, A, N, U], that ended
    returns: np.ndarray  # [W, A, N, U], the sum of theirs


class Best(NamedTuple):
    """Of the best arm of one world."""

    arm: Arm
    final: np.ndarray  # [N], mean returns of each agent's last episodes
    curve: np.ndarray  # [N, points], over its lifetime


def arms_of_a2c(group: Group, weights: Sequence[float]) -> Group:
    """The group whose arms are a step size and a weight of the policy's entropy."""
    rates = dict.fromkeys(rate for rate, _ in group.arms)
    return group._replace(arms=tuple((rate, weight) for rate in rates for weight in weights))


def try_out(
    config: LpgConfig,
    rule: Rule | None,
    updates: int,
    agents: int,
    seed: int,
    entropy_weights: Sequence[float] = (),
    report: Callable[[int], None] = lambda done: None,
    at_once: int = 50,
) -> Trial:
    """Agents from their beginning.

    Args:
      config: of the worlds, whose agents have to be alike, the rollouts and the rule.
      rule: that agents follow; None for A2C.
      updates: of each agent.
      agents: for each arm in each world.
      seed: of their worlds and of everything that happens; the same for each method.
      entropy_weights: of A2C, an arm with each step size.
      report: called with the updates so far.
      at_once: updates between two reports.
    """
    weights = None if rule is not None else tuple(entropy_weights)
    config = dataclasses.replace(config, lifetimes=agents)
    arms, begin, advance = _functions(config, weights, at_once)
    world_of = jnp.repeat(jnp.arange(len(config.worlds)), len(arms) * agents)
    arm_of = jnp.tile(jnp.repeat(jnp.arange(len(arms)), agents), len(config.worlds))
    begin_key, key = jax.random.split(jax.random.PRNGKey(seed))
    # Agents of all arms meet the same worlds.
    keys = jnp.tile(jax.random.split(begin_key, agents), (len(arms) * len(config.worlds), 1))
    lifetimes = begin(keys, world_of, arm_of)
    found = []
    for done in range(0, updates, at_once):
        lifetimes, rows = advance(rule, lifetimes, jax.random.fold_in(key, done))
        found.append(jax.device_get(rows))
        report(min(done + at_once, updates))
    shape = (len(config.worlds), len(arms), agents, -1)
    return Trial(arms, *(np.concatenate(x)[:updates].T.reshape(shape) for x in zip(*found)))


@functools.lru_cache(maxsize=4)
def _functions(config: LpgConfig, entropy_weights: tuple[float, ...] | None, at_once: int):
    """The arms, and compiled: (keys, worlds, arms) -> lifetimes at their beginning;
    (rule, lifetimes, key) -> lifetimes later, with episodes and returns of each update. Kept, as
    several rules are tried in a world.

    Args:
      config: `lifetimes` are those of an arm in a world.
      entropy_weights: of A2C; None for a rule.
      at_once: updates.
    """
    (group,) = make_groups(config)
    if entropy_weights is not None:
        group = arms_of_a2c(group, entropy_weights)
    config = dataclasses.replace(config, lifetimes=len(group.arms) * config.lifetimes)
    step = make_step(group, entropy_weights is None, config)

    def begin(key, world, arm):
        hyper = Hyperparameters(arm, jnp.float32(config.discounts[0]), jnp.float32(0))
        return population.begin(group, world, hyper, config, key)

    def advance(rule, lifetimes, key):
        def body(lifetimes, key):
            after = step(rule, lifetimes, key)
            return after, population.episodes_of(after.rollout)

        return jax.lax.scan(body, lifetimes, jax.random.split(key, at_once))

    return group.arms, jax.jit(jax.vmap(begin)), jax.jit(advance)


def make_step(group: Group, by_rule: bool, config: LpgConfig):
    """(rule, lifetimes, key) -> lifetimes after an update by the rule; or else by A2C: the same
    agents, without their prediction."""
    if by_rule:
        functions = population.make_functions((group,), config, axis_name=None)
        return lambda rule, lifetimes, key: functions.step(rule, (lifetimes,), None, key)[0][0]

    config = dataclasses.replace(config, prediction_entropy_weight=0.0)

    def one(lifetime: Lifetime, key):
        weight = jnp.asarray(group.arms)[lifetime.hyper.arm, 1]
        own = lifetime._replace(hyper=lifetime.hyper._replace(entropy_weight=weight))
        after = population.a2c_update(group, own, config)
        return population.advance(group, lifetime, *after, key, config)

    def step(rule, lifetimes, key):
        del rule
        return jax.vmap(one)(lifetimes, jax.random.split(key, len(lifetimes.updates)))

    return step


def best_of(trial: Trial, world: int, points: int = 40, final: float = 0.2) -> Best:
    """The arm whose agents end best in a world.

    Args:
      trial: of all worlds.
      world: which one.
      points: of the curves: means over as many equal parts of a lifetime.
      final: share of a lifetime whose episodes count as its end.
    """
    episodes, returns = trial.episodes[world], trial.returns[world]
    late = int(np.ceil(episodes.shape[-1] * (1 - final)))
    finals = mean_of(returns[..., late:].sum(-1), episodes[..., late:].sum(-1))
    arm = int(np.argmax(np.where(np.isfinite(finals), finals, -np.inf).mean(1)))
    parts = np.array_split(np.arange(episodes.shape[-1]), min(points, episodes.shape[-1]))
    curve = [mean_of(returns[arm][:, p].sum(-1), episodes[arm][:, p].sum(-1)) for p in parts]
    return Best(trial.arms[arm], finals[arm], np.stack(curve, axis=1))


def timed() -> Callable[[str, str], str]:
    """(world, method) -> a line that this was tried, with the time since now."""
    begin = time.monotonic()
    return lambda world, method: f"{world}: {method}, {time.monotonic() - begin:.0f} s so far"


def mean_of(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Of what there are `count`; NaN where there is nothing."""
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
