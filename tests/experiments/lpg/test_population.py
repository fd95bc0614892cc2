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
from bmg.experiments.lpg.groups import make_groups
from bmg.experiments.lpg.population import Hyperparameters
from bmg.meta import core, objectives

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation")]
KEY = jax.random.PRNGKey(1)
SMALL = LpgConfig(
    worlds=("chain-short-noisy", "cliff"), lifetimes=1, environments=3, rollout_length=6,
    inner_steps=2, learning_rates=(4.0, 8.0), prediction_costs=(0.5, 1.0),
    network_learning_rates=(0.01, 0.02), distractor_learning_rates=(0.01, 0.02),
    rule=RuleConfig(units=3, prediction_size=4, embedding=2),
)  # fmt: skip
COUNT = 2
TABLES = SMALL.worlds
NETWORKS = ("random-small", "random-sparse")
GROUPS = ("chain-short-noisy", "random-dense", "cliff", "chain-distractor")
RATES = {True: (4.0, 8.0), False: (0.01, 0.02)}  # of SGD, of Adam
ARM, GAMMA, COST = (1, 2), (0.9, 0.99), (1.0, 0.5)


def some(config: LpgConfig, key=KEY):
    """Groups, functions, a rule with weights that do something, and lifetimes, two of each group,
    with parameters of their own."""
    groups = make_groups(config)
    functions = population.make_functions(groups, config, axis_name=None)
    real = jnp.result_type(float)
    own = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: (x + 0.5 * jax.random.normal(key, x.shape)).astype(real), tree
    )
    everyone = []
    for group in groups:
        count = len(group.worlds) * config.lifetimes
        hyper = Hyperparameters(
            *(jnp.array(x)[:count] for x in (ARM, GAMMA, (0.01, 0.02)))
        )  # fmt: skip
        begin = functools.partial(population.begin, group, config=config)
        world_of = jnp.repeat(jnp.arange(len(group.worlds)), config.lifetimes)
        lifetimes = jax.vmap(lambda k, w, h, b=begin: b(world_of=w, hyper=h, key=k))(
            jax.random.split(key, count), world_of, hyper
        )
        params = own(lifetimes.params)
        state = jax.vmap(group.optimizer.init)(params)
        everyone.append(lifetimes._replace(params=params, opt_state=state))
    return groups, functions, own(update_rule.init_rule(config.rule, key)), tuple(everyone)


def pick(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def slow_outputs(params, observation):
    """Of one agent: logits of all 18 actions and prediction, by a loop over pixels."""
    if not isinstance(params, dict):
        row = params[observation]
    else:
        x, index = observation, 0
        while (name := f"conv_{index}") + "_w" in params.get("~", {}):
            w, b = params["~"][name + "_w"], params["~"][name + "_b"]
            height, width = x.shape[-3:-1]
            rows = []
            for r in range(height):
                for c in range(width):
                    total = b
                    for i in range(3):
                        for j in range(3):
                            if 0 <= r + i - 1 < height and 0 <= c + j - 1 < width:
                                total = total + x[..., r + i - 1, c + j - 1, :] @ w[i, j]
                    rows.append(jax.nn.relu(total))
            x = jnp.stack(rows, -2).reshape(*x.shape[:-1], -1)
            index += 1
        x = x.reshape(*observation.shape[:2], -1)
        hidden, out = (params[f"mlp/~/linear_{i}"] for i in (0, 1))
        row = jax.nn.relu(x @ hidden["w"] + hidden["b"]) @ out["w"] + out["b"]
    return row[..., :18], row[..., 18:]


@pytest.mark.parametrize(
    "prediction, names",
    [("distribution", TABLES), ("vector", TABLES), ("value", TABLES), ("distribution", GROUPS)],
)
def test_an_update_is_that_of_one_agent_after_the_other(prediction, names):
    """Each with its own parameters, step size, cost, gamma and world; actions that are not there
    have no probability. Tables by SGD; networks by Adam, whose first step is rate * sign."""
    rule_config = dataclasses.replace(SMALL.rule, prediction=prediction)
    config = dataclasses.replace(SMALL, rule=rule_config, worlds=names)
    groups, functions, rule, before = some(config)
    assert sum(len(group.worlds) for group in groups) == len(names)
    after, aux = jax.jit(functions.step)(rule, before, None, KEY)
    squares = []
    for group, olds, news in zip(groups, before, after):
        tabular = group.worlds[0] in TABLES
        for i, name in enumerate(group.worlds):
            own, new = pick(olds, i), pick(news, i)
            rollout = own.rollout
            there = 2 if "chain" in name else int(worlds.num_actions(own.world))
            assert np.all(rollout.action < there)

            def outputs(params, observation, there=there):
                logits, prediction = slow_outputs(params, observation)
                return update_rule.Outputs(logits[..., :there], prediction)

            seen = update_rule.see(
                outputs(own.params, rollout.observation), rollout.action, rollout.reward,
                rollout.discount, jnp.repeat(GAMMA[i], config.environments), config.rule,
            )  # fmt: skip
            targets = update_rule.apply_rule(rule, seen, config.rule)
            rate, cost = RATES[tabular][ARM[i] // 2], COST[i]
            if tabular and prediction != "distribution":  # an entry does not overshoot
                states = np.asarray(rollout.observation[:-1])
                shares = np.mean(states[..., None, None] == states, axis=(2, 3))
                cost = np.minimum(cost, 1 / (rate * shares * (2 if prediction == "vector" else 1)))
            gradient = jax.grad(
                lambda p: update_rule.agent_loss(
                    outputs(p, rollout.observation[:-1]), targets, rollout.action, cost,
                    config.rule,
                )
            )(own.params)  # fmt: skip
            for old, found, g in zip(*map(jax.tree.leaves, (own.params, new.params, gradient))):
                if tabular:
                    np.testing.assert_allclose(found, old - rate * g, atol=2e-5)
                else:
                    large = np.abs(g) > 1e-4
                    np.testing.assert_allclose(
                        found[large], (old - rate * np.sign(g))[large], atol=rate * 0.02
                    )
                    np.testing.assert_array_equal(found[g == 0], old[g == 0])
            squares.append(float(jnp.mean(jnp.square(targets.policy))))
            observe = jax.vmap(functools.partial(group.observe, own.world))
            np.testing.assert_array_equal(new.rollout.observation[0], observe(own.games))
        assert news.updates.tolist() == [1] * len(group.worlds)
    np.testing.assert_allclose(aux.policy_target, np.mean(squares), rtol=1e-4)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("names", [TABLES, ("cliff", "random-small")])
@pytest.mark.parametrize("connected", [True, False])
def test_the_rules_gradient_through_two_updates_in_two_worlds(connected, names):
    """Along random directions, with the actions as they are. Where what the rule sees is cut, the
    derivative is that of a rule that is shown the same."""
    config = dataclasses.replace(SMALL, connected=connected, worlds=names)
    _, functions, rule, lifetimes = some(config)
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
    (group,), functions, rule, lifetimes = some(config)
    compute = core.meta_gradient(core.online_start, functions.step, functions.objective)
    batch = objectives.BootstrapBatch((None,))
    found = jax.jit(lambda rule: compute(rule, lifetimes, (None,), batch, KEY))(rule)

    keys = jax.random.split(KEY, 3)
    updated = jax.jit(lambda r: core.unroll(functions.step, r, lifetimes, (None,), keys[1]))
    agents = updated(rule).states[-1]
    steps_key, _ = jax.random.split(keys[2])
    further = core.unroll(functions.step, rule, agents, (None,), steps_key).states[-1]
    assert found.next_state[0].updates.tolist() == [2, 2]
    np.testing.assert_allclose(found.next_state[0].params, further[0].params, atol=1e-12)
    target = []
    for i, rate in enumerate((4.0, 8.0)):
        own = pick(further[0], i)
        gradient = jax.grad(
            lambda table, own=own: population.outer_loss(group, table, own, config)[0]
        )(own.params)
        target.append(own.params - rate * gradient)

    def loss(rule):
        total, table = 0.0, updated(rule).states[-1][0].params
        for i in range(COUNT):
            states, world = agents[0].rollout.observation[i, :-1], pick(agents[0].world, i)
            ours, theirs = (
                population.outputs_of(group, x[i], world, states) for x in (table, target)
            )
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
    (group,) = make_groups(config)
    hyper = Hyperparameters(jnp.int32(0), jnp.float32(1.0), jnp.float32(0.0))
    lifetime = population.begin(group, jnp.int32(0), hyper, config, KEY)
    collect = jax.jit(functools.partial(population.collect, group, length=20))
    error_of = jax.jit(functools.partial(population.advantages, group))
    values, games, errors = lifetime.values, lifetime.games, []
    for key in jax.random.split(KEY, 60):
        games, rollout = collect(lifetime.params, lifetime.world, games, key)
        error = error_of(values, rollout, hyper.gamma, config.trace_decay)
        errors.append(float(jnp.mean(jnp.square(error))))
        values = group.values.learn(values, rollout.observation[:-1], error)
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
    (group,), _, _, (lifetimes,) = some(SMALL)
    own = pick(lifetimes, 1)
    values = jax.random.normal(KEY, own.values.shape)
    own = own._replace(values=values)
    loss, metrics = population.outer_loss(group, own.params, own, SMALL)
    there = int(worlds.num_actions(own.world))
    states, actions = np.asarray(own.rollout.observation), np.asarray(own.rollout.action)
    total, steps = 0.0, SMALL.rollout_length
    for b in range(SMALL.environments):
        advantage = 0.0
        for t in reversed(range(steps)):
            row = np.asarray(own.params[states[t, b]], np.float64)
            pi = np.exp(row[:there]) / np.exp(row[:there]).sum()
            y = np.exp(row[18:]) / np.exp(row[18:]).sum()
            step = 0.99 * float(own.rollout.discount[t, b])
            error = float(own.rollout.reward[t, b]) - float(values[states[t, b]])
            advantage = error + step * (float(values[states[t + 1, b]]) + 0.95 * advantage)
            total -= np.log(pi[actions[t, b]]) * advantage
            total += 0.02 * np.sum(pi * np.log(pi)) + 0.001 * np.sum(y * np.log(y))
    np.testing.assert_allclose(loss, total / (steps * SMALL.environments), rtol=1e-4)
    assert set(metrics) >= {"policy_entropy", "prediction_entropy", "reward"}


def test_values_of_networks_are_learned():
    """Of a chain whose first choice decides: after it the return is certain."""
    config = dataclasses.replace(
        SMALL, worlds=("chain-distractor",), environments=64, rollout_length=20, discounts=(1.0,),
        value_network_learning_rate=0.01,
    )  # fmt: skip
    (group,) = make_groups(config)
    hyper = Hyperparameters(jnp.int32(0), jnp.float32(1.0), jnp.float32(0.0))
    lifetime = population.begin(group, jnp.int32(0), hyper, config, KEY)

    @jax.jit
    def learn(values, games, key):
        games, rollout = population.collect(
            group, lifetime.params, lifetime.world, games, key, length=20
        )
        error = population.advantages(group, values, rollout, hyper.gamma, config.trace_decay)
        values = group.values.learn(values, rollout.observation[:-1], error)
        return values, games, jnp.mean(jnp.square(error))

    values, games, errors = lifetime.values, lifetime.games, []
    for key in jax.random.split(KEY, 200):
        values, games, error = learn(values, games, key)
        errors.append(float(error))
    assert np.mean(errors[-10:]) < 0.3 * errors[0]


def test_inputs_that_are_always_zero_leave_the_meta_gradient_finite():
    """Through three updates of Adam, whose slope is infinite there: of a plane without objects."""
    config = dataclasses.replace(SMALL, worlds=("random-sparse",), inner_steps=3, environments=8)
    _, functions, rule, lifetimes = some(config)
    compute = core.meta_gradient(core.online_start, functions.step, functions.objective)
    found = jax.jit(lambda rule: compute(rule, lifetimes, (None,) * 3, None, KEY))(rule)
    assert np.all(lifetimes[0].rollout.observation[..., 2] == 0)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found.gradient))
    assert np.any(found.gradient.policy.w != 0)


@pytest.mark.parametrize("prediction", ["vector", "value"])
def test_entries_of_tables_do_not_overshoot(prediction):
    """With a step size that would throw them far beyond, those that are no distributions move to
    the mean of their targets."""
    rule_config = dataclasses.replace(SMALL.rule, prediction=prediction)
    config = dataclasses.replace(SMALL, learning_rates=(1e4, 1e5), rule=rule_config)
    (group,), _, rule, (before,) = some(config)
    (targets,) = population.make_targets(rule, (group,), (before,), config)
    params, _ = population.learned(group, before, targets, config)
    for i in range(COUNT):
        states = np.asarray(before.rollout.observation[i, :-1])
        for state in np.unique(states):
            mean = np.asarray(targets.prediction[i])[states == state].mean(0)
            np.testing.assert_allclose(params[i, state, 18:], mean, rtol=1e-3, atol=1e-4)
        others = np.setdiff1d(np.arange(params.shape[1]), states)
        np.testing.assert_array_equal(params[i, others], before.params[i, others])
