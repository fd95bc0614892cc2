"""What a rule makes of predictions while the policy stays what it is: policy evaluation by it.

    y  <-  y - alpha_lr alpha_y grad KL(y || y^)        y^: the rule's, of rollouts of one policy

Beside y, values learn by TD(lambda) from the same rollouts. How much of the true values at other
discounts is in either is found by a regression, and tried on grids that it has not seen.

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020, section 4.3.
Not stated there: the policy (here the best action or, in a quarter of the steps, any), and the
regression's size.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bmg.agents.update_rule import Outputs, Rule
from bmg.environments import worlds
from bmg.experiments.lpg import population, tabular
from bmg.experiments.lpg.config import LpgConfig
from bmg.experiments.lpg.groups import Group, make_groups
from bmg.experiments.lpg.population import Hyperparameters
from bmg.experiments.networks import mlp

_ANY_ACTION = 0.25  # share of steps
_HIDDEN, _REGRESSION_STEPS, _REGRESSION_RATE = 32, 2_000, 3e-3


class Grids(NamedTuple):
    """G worlds of a family with S states, each with a policy."""

    worlds: worlds.Params  # [G] leading
    policy: np.ndarray  # float32 [G, S, 18], probabilities
    values: np.ndarray  # float64 [D, G, S], true ones, at each of D discounts


class Evaluated(NamedTuple):
    """What policy evaluation came to after each of n numbers of updates."""

    updates: np.ndarray  # [n]
    predictions: np.ndarray  # float32 [n, G, S, m], y
    values: np.ndarray  # float32 [n, G, S], of TD(lambda)
    visited: np.ndarray  # bool [n, G, S], until then


class _Fixed(NamedTuple):
    """An agent whose policy stays."""

    logits: jax.Array  # [S, 18]
    prediction: jax.Array  # [S, m]


def draw_grids(name: str, count: int, discounts: Sequence[float], seed: int) -> Grids:
    """Some worlds of a tabular family of grids, and policies that are good and try everything.

    Args:
      name: of the family.
      count: G.
      discounts: of the true values; the policies are made for the first.
      seed: draws the worlds.
    """
    family = jax.tree.map(lambda x: x[0], worlds.stack_families([name]))
    # Objects are stepped on: predictions then belong to places.
    family = family._replace(grid=family.grid._replace(collects=jnp.asarray(False)))
    keys = jax.random.split(jax.random.PRNGKey(seed), count)
    drawn = jax.device_get(jax.jit(jax.vmap(functools.partial(worlds.draw_world, family)))(keys))
    policies, values = [], []
    for index in range(count):
        model = tabular.make_model(jax.tree.map(lambda x, i=index: x[i], drawn).grid)
        states, actions = model.reward.shape
        policy = np.full((states, actions), _ANY_ACTION / actions)
        best = tabular.best_policy(model, discounts[0])
        policy[np.arange(states), best] += 1 - _ANY_ACTION
        values.append([tabular.values_of(model, policy, gamma) for gamma in discounts])
        policies.append(np.pad(policy, ((0, 0), (0, worlds.NUM_ACTIONS - actions))))
    return Grids(drawn, np.array(policies, np.float32), np.array(values).swapaxes(0, 1))


def evaluate_policies(
    config: LpgConfig,
    rule: Rule,
    grids: Grids,
    discount: float,
    updates: Sequence[int],
    predictions: np.ndarray,
    seed: int,
) -> Evaluated:
    """Policy evaluation by a rule.

    Args:
      config: of the rule and the rollouts; its world is that of the grids.
      rule: makes the targets.
      grids: worlds and policies.
      discount: gamma, that the rule is told.
      updates: after which y is looked at, ascending.
      predictions: where y begins, [G, S, m], logits.
      seed: of everything that happens; the same for other predictions.
    """
    (group,) = make_groups(config)
    count, states = grids.policy.shape[:2]
    group = group._replace(apply=_outputs)
    config = dataclasses.replace(config, lifetimes=count)
    functions = population.make_functions((group,), config, axis_name=None)
    begin = functools.partial(_begin, group, config, discount)
    key, begin_key = jax.random.split(jax.random.PRNGKey(seed))
    agents = _Fixed(jnp.log(grids.policy + 1e-30), jnp.asarray(predictions, jnp.float32))
    lifetimes = jax.jit(jax.vmap(begin))(jax.random.split(begin_key, count), grids.worlds, agents)

    @jax.jit
    def advance(lifetimes, visits, key):
        state = lifetimes.rollout.observation[:, :-1].reshape(count, -1)
        visits = jax.vmap(lambda v, s: v.at[s].add(1))(visits, state)
        return functions.step(rule, (lifetimes,), None, key)[0][0], visits

    visits = jnp.zeros((count, states), jnp.int32)
    found, done = [], 0
    for number in updates:
        for update in range(done, number):
            lifetimes, visits = advance(lifetimes, visits, jax.random.fold_in(key, update))
        done = number
        y = jax.nn.softmax(lifetimes.params.prediction)
        found.append(jax.device_get((y, lifetimes.values[:, :states], visits > 0)))
    return Evaluated(np.array(updates), *(np.stack(x) for x in zip(*found)))


def _outputs(agent: _Fixed, state: jax.Array) -> Outputs:
    """Its policy is no part of the gradient."""
    return Outputs(jax.lax.stop_gradient(agent.logits)[state], agent.prediction[state])


def _begin(group: Group, config: LpgConfig, discount: float, key, world, agent: _Fixed):
    arm = jnp.int32(config.middle_arm_of(group.worlds[0]))
    hyper = Hyperparameters(arm, jnp.float32(discount), jnp.float32(0))
    own = group._replace(init=lambda key: agent, draw_world=lambda family, key: world)
    return population.begin(own, jnp.int32(0), hyper, config, key)


def random_predictions(grids: Grids, size: int, seed: int) -> np.ndarray:
    """Logits from a normal distribution: [G, S, m]."""
    shape = (*grids.policy.shape[:2], size)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def distance(one: Evaluated, other: Evaluated) -> np.ndarray:
    """KL(y_0 || y_1) in the states that were visited by the end, a mean over these: [n, G]."""
    p, q = (np.maximum(x.predictions, 1e-30) for x in (one, other))
    kl = np.sum(p * (np.log(p) - np.log(q)), axis=-1)
    seen = one.visited[-1]
    return np.sum(kl * seen, axis=-1) / np.sum(seen, axis=-1)


def regression_errors(
    features: np.ndarray, values: np.ndarray, seen: np.ndarray, held_out: int, seed: int
) -> np.ndarray:
    """How far a regression is off on grids that it has not seen.

    Args:
      features: [G, S, k], what it is given.
      values: [D, G, S], what it is to tell.
      seen: bool [G, S], states that count.
      held_out: grids, the last ones, on which it is tried.
      seed: of the network.

    Returns:
      Mean squared errors: [D].
    """
    split = len(features) - held_out
    (x, y), (other_x, other_y) = (
        (features[part][seen[part]], values[:, part][:, seen[part]].T)
        for part in (slice(0, split), slice(split, None))
    )
    # Inputs and outputs of about the same size: the network begins close to them.
    centre, scale = x.mean(0), x.std(0) + 1e-6
    mean, spread = y.mean(0), y.std(0) + 1e-6
    given, wanted = jnp.asarray((x - centre) / scale), jnp.asarray((y - mean) / spread)
    network = mlp(x.shape[1], (_HIDDEN,), y.shape[1])
    optimizer = optax.adam(_REGRESSION_RATE)

    def loss(params: Any):
        return jnp.mean(jnp.square(network.apply(params, given) - wanted))

    @jax.jit
    def fit(params):
        def body(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, optimizer.init(params)), length=_REGRESSION_STEPS)[0][0]

    params = fit(network.init(jax.random.PRNGKey(seed)))
    told = network.apply(params, jnp.asarray((other_x - centre) / scale)) * spread + mean
    return np.mean(np.square(np.asarray(told) - other_y), axis=0)
