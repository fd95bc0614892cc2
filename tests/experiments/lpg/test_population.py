"""A population's update against one agent after the other, and the rule's gradient against finite
differences."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.agents import update_rule
from bmg.agents.update_rule import RuleConfig
from bmg.environments import worlds
from bmg.experiments.lpg import population
from bmg.experiments.lpg.config import LpgConfig
from bmg.experiments.lpg.population import Hyperparameters
from bmg.meta import core, objectives

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation")]
KEY = jax.random.PRNGKey(1)
SMALL = LpgConfig(
    worlds=("chain-short-noisy", "cliff"), lifetimes=1, environments=3, rollout_length=6,
    inner_steps=2, learning_rates=(4.0, 8.0), prediction_costs=(0.5, 1.0),
    rule=RuleConfig(units=3, prediction_size=4, embedding=2),
)  # fmt: skip
COUNT = 2


def some(config: LpgConfig, key=KEY):
    """Functions, a rule with weights that do something, and lifetimes with tables of their own."""
    functions = population.make_functions(config, axis_name=None)
    families = worlds.stack_families(config.worlds)
    hyper = Hyperparameters(jnp.array([1, 2]), jnp.array([0.9, 0.99]), jnp.array([0.01, 0.02]))
    lifetimes = jax.vmap(functions.begin)(jax.random.split(key, COUNT), families, hyper)
    table = jax.random.normal(key, lifetimes.table.shape)
    rule = update_rule.init_rule(config.rule, key)
    rule = jax.tree.map(lambda x: x + 0.5 * jax.random.normal(key, x.shape), rule)
    return functions, rule, lifetimes._replace(table=table.astype(rule.policy.w.dtype))


def pick(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


@pytest.mark.parametrize("prediction", ["distribution", "vector", "value"])
def test_an_update_is_that_of_one_agent_after_the_other(prediction):
    """Each with its own table, step size, cost, gamma and world; actions that are not there have
    no probability."""
    config = dataclasses.replace(SMALL, rule=dataclasses.replace(SMALL.rule, prediction=prediction))
    functions, rule, before = some(config)
    after, aux = jax.jit(functions.step)(rule, before, None, KEY)
    squares = []
    for i in range(COUNT):
        own, world = pick(before, i), pick(before.world, i)
        rollout, there = own.rollout, 2 if i == 0 else int(worlds.num_actions(world))
        assert np.all(rollout.action < there)

        def outputs(table, states, there=there):
            row = table[states]
            return update_rule.Outputs(row[..., :there], row[..., 18:])

        gamma = jnp.repeat(own.hyper.gamma, config.environments)
        seen = update_rule.see(
            outputs(own.table, rollout.state), rollout.action, rollout.reward, rollout.discount,
            gamma, config.rule,
        )  # fmt: skip
        targets = update_rule.apply_rule(rule, seen, config.rule)
        rate, cost = [(4.0, 1.0), (8.0, 0.5)][i]
        gradient = jax.grad(
            lambda table: update_rule.agent_loss(
                outputs(table, rollout.state[:-1]), targets, rollout.action, cost, config.rule
            )
        )(own.table)
        np.testing.assert_allclose(after.table[i], own.table - rate * gradient, atol=2e-5)
        squares.append(float(jnp.mean(jnp.square(targets.policy))))
        np.testing.assert_array_equal(after.rollout.state[i][0], pick(before.games, i) and
            jax.vmap(functools.partial(worlds.index, world))(pick(before.games, i)))  # fmt: skip
    np.testing.assert_allclose(aux.policy_target, np.mean(squares), rtol=1e-4)
    assert after.updates.tolist() == [1, 1]


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("connected", [True, False])
def test_the_rules_gradient_through_two_updates_in_two_worlds(connected):
    """Along random directions, with the actions as they are. Where what the rule sees is cut, the
    derivative is that of a rule that is shown the same."""
    config = dataclasses.replace(SMALL, connected=connected)
    functions, rule, lifetimes = some(config)
    rule = jax.tree.map(lambda x: x.astype(jnp.float64), rule)
    lifetimes = lifetimes._replace(table=lifetimes.table.astype(jnp.float64))
    compute = core.meta_gradient(core.online_start, functions.step, functions.objective)
    found = jax.jit(lambda rule: compute(rule, lifetimes, (None,) * 2, None, KEY))(rule)

    def loss(rule):
        unrolled = core.unroll(functions.step, rule, lifetimes, (None,) * 2, keys[1])
        return functions.objective(rule, unrolled, None, keys[2])[0]

    keys = jax.random.split(KEY, 3)
    loss = jax.jit(loss)
    np.testing.assert_allclose(found.loss, loss(rule), rtol=1e-12)
    rng = np.random.default_rng(0)
    agree = []
    for _ in range(3):
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), rule)
        moved = [
            loss(jax.tree.map(lambda x, d, e=e: x + e * d, rule, direction)) for e in (1e-6, -1e-6)
        ]
        products = jax.tree.map(lambda g, d: jnp.vdot(g, d), found.gradient, direction)
        along = sum(jax.tree.leaves(products))
        agree.append(np.allclose(along, (moved[0] - moved[1]) / 2e-6, rtol=1e-5, atol=1e-9))
    assert all(agree) == connected, "without the path through what is seen, it is another one"


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("matched", ["policy", "prediction", "both"])
def test_the_bootstrapped_gradient_has_a_frozen_target(matched):
    """L = 2: one more update by the rule, one by A2C; then nothing but the agents after K moves."""
    config = dataclasses.replace(
        SMALL, objective="bmg", inner_steps=1, target_steps=2, matched=matched,
        policy_target_weight=0.0, prediction_target_weight=0.0,
    )  # fmt: skip
    functions, rule, lifetimes = some(config)
    rule = jax.tree.map(lambda x: x.astype(jnp.float64), rule)
    lifetimes = lifetimes._replace(table=lifetimes.table.astype(jnp.float64))
    compute = core.meta_gradient(core.online_start, functions.step, functions.objective)
    batch = objectives.BootstrapBatch((None,))
    found = jax.jit(lambda rule: compute(rule, lifetimes, (None,), batch, KEY))(rule)

    keys = jax.random.split(KEY, 3)
    updated = jax.jit(lambda r: core.unroll(functions.step, r, lifetimes, (None,), keys[1]))
    agents = updated(rule).states[-1]
    steps_key, _ = jax.random.split(keys[2])
    further = core.unroll(functions.step, rule, agents, (None,), steps_key).states[-1]
    assert found.next_state.updates.tolist() == [2, 2]
    np.testing.assert_allclose(found.next_state.table, further.table, atol=1e-12)
    target = []
    for i, rate in enumerate((4.0, 8.0)):
        own = pick(further, i)
        gradient = jax.grad(
            lambda table, own=own: population.outer_loss(
                table, own.values, own.world, own.rollout, own.hyper, config
            )[0]
        )(own.table)
        target.append(own.table - rate * gradient)

    def loss(rule):
        total, table = 0.0, updated(rule).states[-1].table
        for i in range(COUNT):
            states, world = agents.rollout.state[i, :-1], pick(agents.world, i)
            ours, theirs = (population.outputs_of(x[i], world, states) for x in (table, target))
            for name in ("logits", "prediction"):
                if matched in ("both", {"logits": "policy"}.get(name, name)):
                    log_p = jax.nn.log_softmax(getattr(theirs, name))
                    log_q = jax.nn.log_softmax(getattr(ours, name))
                    total += jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)) / COUNT
        return total

    np.testing.assert_allclose(found.loss, loss(rule), rtol=1e-9)
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), rule)
    moved = [
        loss(jax.tree.map(lambda x, d, e=e: x + e * d, rule, direction)) for e in (1e-6, -1e-6)
    ]
    products = jax.tree.map(lambda g, d: jnp.vdot(g, d), found.gradient, direction)
    along = sum(jax.tree.leaves(products))
    np.testing.assert_allclose(along, (moved[0] - moved[1]) / 2e-6, rtol=1e-5, atol=1e-10)


def test_values_are_learned():
    """Of a chain, whose returns are known; short ones with many visits too. The squared advantage
    falls to what chance alone leaves."""
    config = dataclasses.replace(
        SMALL, worlds=("chain-short",), environments=64, rollout_length=20, discounts=(1.0,)
    )
    functions = population.make_functions(config, axis_name=None)
    family = pick(worlds.stack_families(config.worlds), 0)
    hyper = Hyperparameters(jnp.int32(0), jnp.float32(1.0), jnp.float32(0.0))
    lifetime = functions.begin(KEY, family, hyper)
    collect = jax.jit(functools.partial(population.collect, length=20))
    learn = jax.jit(functools.partial(population.learned_values, config=config))
    values, games, errors = lifetime.values, lifetime.games, []
    for key in jax.random.split(KEY, 60):
        games, rollout = collect(lifetime.table, lifetime.world, games, key)
        advantage = population.advantages(values, rollout, hyper.gamma, config.trace_decay)
        errors.append(float(jnp.mean(jnp.square(advantage))))
        values = learn(values, rollout, hyper.gamma)
    length = int(lifetime.world.chain.length)
    assert np.mean(errors[-10:]) < 0.3 * errors[0]
    # After the first choice the return is certain: +1 where it was right, -1 where it was wrong.
    for step in range(1, length):
        for right in (0, 1):
            for choice in (0, 1):
                number = 2 + 4 * (step - 1) + 2 * right + choice
                expected = 1 if right == choice else -1
                np.testing.assert_allclose(values[number], expected, atol=0.15)


def test_what_the_rule_descends_is_equation_4():
    """Of one lifetime, term by term."""
    _, _, lifetimes = some(SMALL)
    own = pick(lifetimes, 1)
    values = jax.random.normal(KEY, own.values.shape)
    loss, metrics = population.outer_loss(
        own.table, values, own.world, own.rollout, own.hyper, SMALL
    )
    there = int(worlds.num_actions(own.world))
    states, actions = np.asarray(own.rollout.state), np.asarray(own.rollout.action)
    total, steps = 0.0, SMALL.rollout_length
    for b in range(SMALL.environments):
        advantage = 0.0
        for t in reversed(range(steps)):
            row = np.asarray(own.table[states[t, b]], np.float64)
            pi = np.exp(row[:there]) / np.exp(row[:there]).sum()
            y = np.exp(row[18:]) / np.exp(row[18:]).sum()
            step = 0.99 * float(own.rollout.discount[t, b])
            error = float(own.rollout.reward[t, b]) - float(values[states[t, b]])
            advantage = error + step * (float(values[states[t + 1, b]]) + 0.95 * advantage)
            total -= np.log(pi[actions[t, b]]) * advantage
            total += 0.02 * np.sum(pi * np.log(pi)) + 0.001 * np.sum(y * np.log(y))
    np.testing.assert_allclose(loss, total / (steps * SMALL.environments), rtol=1e-4)
    assert set(metrics) >= {"policy_entropy", "prediction_entropy", "reward"}
