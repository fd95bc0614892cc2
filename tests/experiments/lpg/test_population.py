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
GROUPS = ("chain-short-noisy", "random-dense", "cliff", "chain-distractor")
RATES = {True: (4.0, 8.0), False: (0.01, 0.02)}  # of SGD, of Adam
ARM, GAMMA, COST = (1, 2), (0.9, 0.99), (1.0, 0.5)


def some(config: LpgConfig):
    """Groups, functions, a rule with weights that do something, and lifetimes, two of each group,
    with parameters of their own."""
    groups, real = make_groups(config), jnp.result_type(float)
    functions = population.make_functions(groups, config, axis_name=None)
    drawn = some_lifetimes(config.worlds, config.environments, config.rule.outputs, real)
    return groups, functions, some_rule(config.rule, real), drawn


@functools.cache
def some_rule(config: RuleConfig, real):
    return jax.jit(lambda: moved(update_rule.init_rule(config, KEY), real))()


@functools.cache
def some_lifetimes(names, environments: int, outputs: int, real):
    rule = dataclasses.replace(SMALL.rule, prediction_size=outputs)
    config = dataclasses.replace(SMALL, worlds=names, environments=environments, rule=rule)

    def of_group(group):
        count = len(group.worlds) * config.lifetimes
        hyper = Hyperparameters(*(jnp.array(x)[:count] for x in (ARM, GAMMA, (0.01, 0.02))))
        begin = functools.partial(population.begin, group, config=config)
        world_of = jnp.repeat(jnp.arange(len(group.worlds)), config.lifetimes)
        lifetimes = jax.vmap(lambda k, w, h: begin(world_of=w, hyper=h, key=k))(
            jax.random.split(KEY, count), world_of, hyper
        )
        params = moved(lifetimes.params, real)
        return lifetimes._replace(params=params, opt_state=jax.vmap(group.optimizer.init)(params))

    groups = make_groups(config)
    return jax.jit(lambda: tuple(map(of_group, groups)))()


def moved(tree, real):
    """Away from where it begins."""
    return jax.tree.map(lambda x: (x + 0.5 * jax.random.normal(KEY, x.shape)).astype(real), tree)


def pick(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def slow_outputs(params, observation):
    """Of one agent: logits of all 18 actions and prediction; a convolution by a loop over its
    kernel."""
    if not isinstance(params, dict):
        row = params[observation]
    else:
        x, index = observation, 0
        while (name := f"conv_{index}") + "_w" in params.get("~", {}):
            w, total = params["~"][name + "_w"], params["~"][name + "_b"]
            height, width = x.shape[-3:-1]
            padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
            for i in range(3):
                for j in range(3):
                    total = total + padded[..., i : i + height, j : j + width, :] @ w[i, j]
            x = jax.nn.relu(total)
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

    def alone(group, there, rule, own, gamma, rate, cost):
        """Of one agent of a group, with so many actions: the gradient of its loss, the rule's
        targets, and what its games show."""
        rollout = own.rollout

        def outputs(params, observation):
            logits, prediction = slow_outputs(params, observation)
            return update_rule.Outputs(logits[..., :there], prediction)

        seen = update_rule.see(
            outputs(own.params, rollout.observation), rollout.action, rollout.reward,
            rollout.discount, jnp.repeat(gamma, config.environments), config.rule,
        )  # fmt: skip
        targets = update_rule.apply_rule(rule, seen, config.rule)
        if group.worlds[0] in TABLES and prediction != "distribution":
            states = rollout.observation[:-1]  # an entry does not overshoot
            shares = jnp.mean(states[..., None, None] == states, axis=(2, 3))
            cost = jnp.minimum(cost, 1 / (rate * shares * (2 if prediction == "vector" else 1)))
        gradient = jax.grad(
            lambda p: update_rule.agent_loss(
                outputs(p, rollout.observation[:-1]), targets, rollout.action, cost, config.rule
            )
        )(own.params)
        return gradient, targets, jax.vmap(functools.partial(group.observe, own.world))(own.games)

    squares = []
    before, after = jax.tree.map(np.asarray, (before, after))
    for group, olds, news in zip(groups, before, after):
        tabular = group.worlds[0] in TABLES
        of_one = jax.jit(functools.partial(alone, group), static_argnums=0)
        action_counts = np.asarray(jax.jit(jax.vmap(worlds.num_actions))(olds.world))
        for i, name in enumerate(group.worlds):
            own, new, there = pick(olds, i), pick(news, i), int(action_counts[i])
            assert np.all(own.rollout.action < (2 if "chain" in name else there))
            rate = RATES[tabular][ARM[i] // 2]
            gradient, targets, shown = of_one(there, rule, own, GAMMA[i], rate, COST[i])
            gradient = jax.tree.map(np.asarray, gradient)
            for old, found, g in zip(*map(jax.tree.leaves, (own.params, new.params, gradient))):
                if tabular:
                    np.testing.assert_allclose(found, old - rate * g, atol=2e-5)
                else:
                    large = np.abs(g) > 1e-4
                    np.testing.assert_allclose(
                        found[large], (old - rate * np.sign(g))[large], atol=rate * 0.02
                    )
                    np.testing.assert_array_equal(found[g == 0], old[g == 0])
            squares.append(np.mean(np.square(targets.policy)))
            np.testing.assert_array_equal(new.rollout.observation[0], shown)
        assert news.updates.tolist() == [1] * len(group.worlds)
    np.testing.assert_allclose(aux.policy_target, np.mean(squares), rtol=1e-4)


def slopes(loss, rule, gradients, seed: int = 0):
    """Along a random direction: that of the loss by a finite difference, and by each gradient."""
    rng = np.random.default_rng(seed)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), rule)
    above, below = (
        loss(jax.tree.map(lambda x, d, e=e: x + e * d, rule, direction)) for e in (1e-6, -1e-6)
    )
    along = [
        sum(jax.tree.leaves(jax.tree.map(np.vdot, gradient, direction))) for gradient in gradients
    ]
    return jax.tree.map(lambda a, b: (a - b) / 2e-6, above, below), along


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("names", [TABLES, ("cliff", "random-small")])
def test_the_rules_gradient_through_two_updates_in_two_worlds(names):
    """Along random directions, with the actions as they are. Where what the rule sees is cut, the
    loss is the same, and the derivative is that of a rule that is shown the same."""
    config = dataclasses.replace(SMALL, worlds=names)
    _, functions, rule, lifetimes = some(config)
    rule = jax.tree.map(np.asarray, rule)

    @jax.jit
    def loss(rule):
        unrolled = core.unroll(functions.step, rule, lifetimes, (None,) * 2, keys[1])
        return functions.objective(rule, unrolled, None, keys[2])[0]

    def gradient(connected):
        functions = population.make_functions(
            make_groups(config), dataclasses.replace(config, connected=connected), axis_name=None
        )
        compute = core.meta_gradient(core.online_start, functions.step, functions.objective)
        found = jax.jit(lambda rule: compute(rule, lifetimes, (None,) * 2, None, KEY))(rule)
        np.testing.assert_allclose(found.loss, loss(rule), rtol=1e-12)
        return jax.tree.map(np.asarray, found.gradient)

    keys = jax.random.split(KEY, 3)
    gradients = [gradient(connected) for connected in (True, False)]
    close = []
    for seed in range(3):
        expected, found = slopes(loss, rule, gradients, seed)
        close.append(np.isclose(found, expected, rtol=1e-5, atol=1e-9))
    connected, cut = np.all(close, axis=0)
    assert connected
    assert not cut, "without the path through what is seen, it is another one"


@pytest.mark.usefixtures("doubles")
def test_the_bootstrapped_gradient_has_a_frozen_target():
    """L = 2: one more update by the rule, one by A2C; then nothing but the agents after K moves."""
    config = dataclasses.replace(
        SMALL, objective="bmg", inner_steps=1, target_steps=2,
        policy_target_weight=0.0, prediction_target_weight=0.0,
    )  # fmt: skip
    (group,), functions, rule, lifetimes = some(config)
    rule, keys = jax.tree.map(np.asarray, rule), jax.random.split(KEY, 3)

    def updated(rule):
        return core.unroll(functions.step, rule, lifetimes, (None,), keys[1]).states[-1]

    @jax.jit
    def with_target(rule):
        """The agents after K updates, after one more, and the tables after A2C's."""
        agents = updated(rule)
        steps_key, _ = jax.random.split(keys[2])
        (further,) = core.unroll(functions.step, rule, agents, (None,), steps_key).states[-1]
        target = []
        for i, rate in enumerate((4.0, 8.0)):
            own = pick(further, i)
            gradient = jax.grad(
                lambda table, own=own: population.outer_loss(group, table, own, config)[0]
            )(own.params)
            target.append(own.params - rate * gradient)
        return agents[0], further, target

    agents, further, target = with_target(rule)

    @jax.jit
    def distances(rule):
        found, table = {"policy": 0.0, "prediction": 0.0}, updated(rule)[0].params
        for i in range(COUNT):
            states, world = agents.rollout.observation[i, :-1], pick(agents.world, i)
            ours, theirs = (
                population.outputs_of(group, x[i], world, states) for x in (table, target)
            )
            for name, of in (("policy", "logits"), ("prediction", "prediction")):
                log_p = jax.nn.log_softmax(getattr(theirs, of))
                log_q = jax.nn.log_softmax(getattr(ours, of))
                found[name] += jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)) / COUNT
        return found | {"both": found["policy"] + found["prediction"]}

    losses, gradients = distances(rule), {}
    for matched in losses:
        own = population.make_functions(
            (group,), dataclasses.replace(config, matched=matched), axis_name=None
        )
        compute = core.meta_gradient(core.online_start, own.step, own.objective)
        batch = objectives.BootstrapBatch((None,))
        found = jax.jit(lambda rule, c=compute: c(rule, lifetimes, (None,), batch, KEY))(rule)
        assert found.next_state[0].updates.tolist() == [2, 2]
        np.testing.assert_allclose(found.next_state[0].params, further.params, atol=1e-12)
        np.testing.assert_allclose(found.loss, losses[matched], rtol=1e-9)
        gradients[matched] = jax.tree.map(np.asarray, found.gradient)
    expected, found = slopes(distances, rule, gradients.values())
    for matched, along in zip(gradients, found):
        np.testing.assert_allclose(along, expected[matched], rtol=1e-5, atol=1e-10)


def learned_values(name: str, updates: int, **changes):
    """Of an agent that stays as it is, in a world: its values after so many rollouts, and how far
    they were off before each of them, squared; and its lifetime."""
    config = dataclasses.replace(
        SMALL, worlds=(name,), environments=64, rollout_length=20, discounts=(1.0,), **changes
    )
    (group,) = make_groups(config)
    hyper = Hyperparameters(jnp.int32(0), jnp.float32(1.0), jnp.float32(0.0))
    lifetime = jax.jit(lambda: population.begin(group, jnp.int32(0), hyper, config, KEY))()

    @jax.jit
    def learn(values, games, key):
        games, rollout = population.collect(
            group, lifetime.params, lifetime.world, games, key, length=20
        )
        error = population.advantages(group, values, rollout, hyper.gamma, config.trace_decay)
        values = group.values.learn(values, rollout.observation[:-1], error)
        return values, games, jnp.mean(jnp.square(error))

    values, games, errors = lifetime.values, lifetime.games, []
    for key in jax.random.split(KEY, updates):
        values, games, error = learn(values, games, key)
        errors.append(float(error))
    return values, errors, lifetime


def test_values_are_learned():
    """Of a chain, whose returns are known; short ones with many visits too. The squared advantage
    falls to what chance alone leaves."""
    values, errors, lifetime = learned_values("chain-short", updates=60)
    values, length = np.asarray(values), int(lifetime.world.chain.length)
    assert np.mean(errors[-10:]) < 0.3 * errors[0]
    # After the first choice the return is certain: +1 where it was right, -1 where it was wrong.
    for step in range(1, length):
        for right in (0, 1):
            for choice in (0, 1):
                number = 2 + 4 * (step - 1) + 2 * right + choice
                expected = 1 if right == choice else -1
                np.testing.assert_allclose(values[number], expected, atol=0.15)


def test_values_of_networks_are_learned():
    """Of a chain whose first choice decides: after it the return is certain."""
    _, errors, _ = learned_values("chain-distractor", 200, value_network_learning_rate=0.01)
    assert np.mean(errors[-10:]) < 0.3 * errors[0]


def test_what_the_rule_descends_is_equation_4():
    """Of one lifetime, term by term."""
    (group,), _, _, (lifetimes,) = some(SMALL)
    own = pick(jax.tree.map(np.asarray, lifetimes), 1)
    values = np.random.default_rng(0).normal(size=own.values.shape).astype(np.float32)
    own = own._replace(values=values)
    loss, metrics, there = jax.jit(
        lambda own: (
            *population.outer_loss(group, own.params, own, SMALL), worlds.num_actions(own.world)
        )
    )(own)  # fmt: skip
    states, actions = own.rollout.observation, own.rollout.action
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


def test_inputs_that_are_always_zero_leave_the_meta_gradient_finite():
    """Through two updates of Adam, whose slope is infinite there: of a plane without objects."""
    config = dataclasses.replace(SMALL, worlds=("random-sparse",), environments=8)
    _, functions, rule, lifetimes = some(config)
    compute = core.meta_gradient(core.online_start, functions.step, functions.objective)
    found = jax.jit(lambda rule: compute(rule, lifetimes, (None,) * 2, None, KEY))(rule)
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

    @jax.jit
    def update(rule, before):
        (targets,) = population.make_targets(rule, (group,), (before,), config)
        return targets, population.learned(group, before, targets, config)[0]

    before = jax.tree.map(np.asarray, before)
    targets, params = jax.tree.map(np.asarray, update(rule, before))
    for i in range(COUNT):
        states = before.rollout.observation[i, :-1]
        for state in np.unique(states):
            mean = targets.prediction[i][states == state].mean(0)
            np.testing.assert_allclose(params[i, state, 18:], mean, rtol=1e-3, atol=1e-4)
        others = np.setdiff1d(np.arange(params.shape[1]), states)
        np.testing.assert_array_equal(params[i, others], before.params[i, others])
