"""Meta-updates: what ends, what begins anew, what the bandit is told; devices; resuming."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bmg.agents.rule_file import save_rule
from bmg.agents.update_rule import RuleConfig, init_rule
from bmg.environments import worlds
from bmg.experiments.lpg import lifetime
from bmg.experiments.lpg.config import LpgConfig
from bmg.experiments.runner import Runner
from bmg.storage.fields import FieldError
from tests.programs import once

pytestmark = [
    pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation", "shared_programs"),
]  # fmt: skip
make_lifetime = once(lifetime.make_lifetime)
# Lifetimes of three meta-updates in grids, and of one in chains.
SMALL = LpgConfig(
    worlds=("cliff", "chain-short"), lifetimes=2, environments=4, rollout_length=8, inner_steps=2,
    lifetime_scale=6.5e-5, steps=10, record_every=1, learning_rates=(4.0, 8.0),
    prediction_costs=(0.5,), rule=RuleConfig(units=4, prediction_size=3, embedding=2),
    meta_learning_rate=0.01,
)  # fmt: skip


def on(devices: int, monkeypatch, config=SMALL, **how) -> Runner:
    there = jax.devices()[:devices]
    monkeypatch.setattr(jax, "devices", lambda: there)
    runner = Runner(make_lifetime(config), config.seeds, 3, 1, **how)
    monkeypatch.undo()
    return runner


def run(runner: Runner, steps: int):
    runner.run(steps, lambda done: None)
    return runner.records.means(steps)[1], runner.lifetime(0)


def test_lengths_are_whole_meta_updates():
    assert [SMALL.updates_of_lifetime(world) for world in SMALL.worlds] == [6, 2]
    paper = LpgConfig()
    assert paper.updates_of_lifetime("dense") == 2_340  # of 1,280 steps each
    assert paper.updates_of_lifetime("chain-long") == 780


def test_lifetimes_end_in_turns_and_tell_the_bandit(monkeypatch):
    """The second one in the cliff's world begins at a third of its age, so it ends first, without
    counting; those in chains end at each meta-update."""
    runner = on(1, monkeypatch)
    begin = runner.lifetime(0)
    assert begin.agent[0].updates.tolist() == [0, 2, 0, 0]
    assert begin.agent[0].whole.tolist() == [True, False, True, True]
    columns, first = run(runner, 1)
    assert columns["ended"][0].tolist() == [2]
    assert first.agent[0].updates.tolist() == [2, 4, 0, 0]
    assert np.all(first.agent[0].params[2:] == 0)
    assert all(np.any(table != 0) for table in first.agent[0].params[:2])
    counts = np.asarray(first.meta.bandits[0].counts)
    assert counts[0].sum() == 0
    # A chain's episodes have up to 30 steps, and its last rollout 8: where none ended, 0 / 0.
    assert counts[1].sum() <= 2
    columns, last = run(runner, 4)
    assert columns["ended"][0].tolist() == [2, 3, 3, 2]
    assert last.meta.bandits[0].counts[0].sum() <= 1  # the first, which began at its beginning
    assert np.all(last.agent[0].whole)


def test_all_episodes_of_a_meta_update_count(monkeypatch):
    """All environments reach a time limit of 9 steps at once: in a meta-update of two rollouts, of
    8 steps each, whichever of them that is. The rollout at the beginning counts as well. The third
    lifetime's last fifth is its last meta-update."""
    nine = worlds.WORLDS["long-dense"]._replace(time_limit=9)
    monkeypatch.setitem(worlds.WORLDS, "long-dense", nine)
    scale = 3 * 2 * 4 * 8 / 3e6  # three meta-updates
    config = dataclasses.replace(
        SMALL, worlds=("long-dense",), lifetimes=3, lifetime_scale=scale, bandit=True
    )
    runner = on(1, monkeypatch, config)
    assert runner.lifetime(0).agent[0].updates.tolist() == [0, 2, 4]
    columns, state = run(runner, 2)
    ended = [4 * sum(t % 9 == 8 for t in range(a, b)) for a, b in ((0, 24), (24, 40))]
    # The third one ended with the first meta-update; another one began in its place.
    np.testing.assert_array_equal(
        columns["episodes_long-dense"][0], [3 * ended[0], 2 * ended[1] + ended[0]]
    )
    assert np.all(state.agent[0].final.count[0] == 0)
    _, state = run(runner, 3)
    assert int(state.meta.bandits[0].counts.sum()) == 1  # the first one; the others were not whole


def change(runner: Runner, function) -> None:
    """Puts other agents of the first group in."""
    (state,) = runner._progress.state
    agents = (function(state.agent[0]), *state.agent[1:])
    runner._progress = runner._progress._replace(state=(state._replace(agent=agents),))


def test_a_lifetime_whose_policy_has_collapsed_begins_anew(monkeypatch):
    """And the bandit is not told, whether it would have been over or not."""
    runner, collapsed = on(1, monkeypatch), np.array([True, False, True, True])
    sure = jnp.asarray(1e3 * collapsed, jnp.float32)
    first_action = lambda x: x.at[0, :, :, 0].add(sure[:, None])  # noqa: E731
    change(runner, lambda own: own._replace(params=first_action(own.params)))
    columns, state = run(runner, 1)
    assert columns["collapsed"][0].tolist() == [3] and columns["ended"][0].tolist() == [2]
    assert state.agent[0].updates.tolist() == [0, 4, 0, 0]
    assert np.all(np.asarray(state.agent[0].params)[collapsed] == 0)
    assert state.meta.bandits[0].counts.sum() == 0
    columns, _ = run(runner, 2)
    assert columns["collapsed"][0].tolist() == [3, 0]


def test_a_meta_gradient_that_is_not_finite_changes_nothing(monkeypatch):
    """Neither rule nor Adam; the lifetime that it came from begins anew, and the next one counts.
    The bandit is not told of it."""
    runner = on(1, monkeypatch)
    change(runner, lambda own: own._replace(params=own.params.at[0, 1].set(jnp.nan)))
    before = runner.lifetime(0)
    columns, after = run(runner, 1)
    jax.tree.map(np.testing.assert_array_equal, after.meta.params, before.meta.params)
    assert columns["skipped"][0, 0] == 1 and columns["collapsed"][0, 0] == 1
    assert after.agent[0].updates.tolist() == [2, 0, 0, 0]
    assert after.meta.bandits[0].counts[0].sum() == 0
    columns, last = run(runner, 2)
    assert columns["skipped"][0, 1] == 0
    moved = jax.tree.map(lambda a, b: np.any(a != b), last.meta.params, after.meta.params)
    assert any(jax.tree.leaves(moved)) and runner.not_finite() == []


def test_a_rule_to_begin_with(monkeypatch, tmp_path):
    """A file's, of the same kind."""
    rule = jax.jit(lambda: init_rule(SMALL.rule, jax.random.PRNGKey(7)))()
    save_rule(tmp_path / "rule.npz", rule, SMALL.rule, {})
    config = dataclasses.replace(SMALL, start=str(tmp_path / "rule.npz"))
    found = on(1, monkeypatch, config).lifetime(0).meta.params
    jax.tree.map(np.testing.assert_array_equal, found, rule)
    own = dataclasses.replace(config, workdir=str(tmp_path))  # the run has a copy
    save_rule(tmp_path / "start.npz", jax.tree.map(lambda x: 2 * np.asarray(x), rule), SMALL.rule,
              {})  # fmt: skip
    found = lifetime.first_rule(own)(jax.random.PRNGKey(0))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * np.asarray(b)), found, rule)
    other = dataclasses.replace(config, rule=RuleConfig(units=5))
    with pytest.raises(ValueError, match="give --rule.units 4 --rule.prediction-size 3"):
        lifetime.make_lifetime(other)
    with pytest.raises(ValueError, match="there is no rule nowhere"):
        lifetime.make_lifetime(dataclasses.replace(config, start="nowhere"))


def test_the_rule_descends_the_mean_over_all_lifetimes(monkeypatch):
    """Adam's first step goes against each coordinate's sign."""
    runner = on(1, monkeypatch)
    before = runner.lifetime(0).meta.params
    columns, state = run(runner, 1)
    gradient = optax.tree.get(state.meta.opt_state, "mu")
    given = jax.tree.map(np.asarray, (before, state.meta.params, gradient))
    for old, new, mean in zip(*map(jax.tree.leaves, given)):
        large = np.abs(mean) > 1e-6
        np.testing.assert_allclose((new - old)[large], -0.01 * np.sign(mean)[large], rtol=1e-2)
    assert np.all(np.isfinite(list(columns.values()))) and columns["meta_gradient_norm"] > 0


def test_lifetimes_spread_over_devices_are_those_of_one(monkeypatch):
    """Each holds its own alone; rule and bandit are alike."""
    devices = 2
    together, alone = on(devices, monkeypatch), on(1, monkeypatch)
    assert len(together.devices) == devices
    shard = together._progress.state[0].agent[0].params.addressable_shards[0]
    assert shard.data.shape[1] == 4 // devices
    columns, state = run(together, 3)
    expected_columns, expected = run(alone, 3)
    for name in columns:
        np.testing.assert_allclose(columns[name], expected_columns[name], rtol=1e-3, atol=1e-6)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)  # noqa: E731
    jax.tree.map(close, state.agent[0].params, expected.agent[0].params)
    jax.tree.map(close, state.meta, expected.meta)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_stopped_and_resumed_meta_training_is_the_uninterrupted_one(
    tmp_path, devices, monkeypatch
):
    """To the last bit: rule, agents, worlds, bandit, keys, records."""
    columns, state = run(on(devices, monkeypatch), 5)
    run(on(devices, monkeypatch, directory=tmp_path), 3)
    resumed = on(devices, monkeypatch, directory=tmp_path)
    assert resumed.restore() == [] and resumed.records.steps == 3
    found_columns, found = run(resumed, 5)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    jax.tree.map(np.testing.assert_array_equal, found_columns, columns)


def test_bootstrapped_updates_are_updates(monkeypatch):
    """The rule's steps to the target go on: two updates of each agent in a meta-update."""
    config = dataclasses.replace(SMALL, objective="bmg", inner_steps=1, target_steps=2)
    assert config.updates_of_lifetime("cliff") == SMALL.updates_of_lifetime("cliff")
    columns, state = run(on(1, monkeypatch, config), 1)
    assert state.agent[0].updates.tolist() == [2, 4, 0, 0]
    assert columns["loss"][0, 0] > 0 and columns["meta_gradient_norm"][0, 0] > 0


def test_what_the_bandit_has_learned_is_drawn_from(monkeypatch):
    """New lifetimes take the arm that paid; without a bandit, the middle ones."""
    config = dataclasses.replace(
        SMALL, lifetimes=64, bandit_temperature=0.01, learning_rates=(1.0, 2.0, 3.0),
        prediction_costs=(0.1, 0.2, 0.3),
    )  # fmt: skip
    runner = on(1, monkeypatch, config)
    drawn = np.unique(runner.lifetime(0).agent[0].hyper.arm)
    assert len(drawn) == 9
    fixed = on(1, monkeypatch, dataclasses.replace(config, bandit=False))
    assert set(np.asarray(fixed.lifetime(0).agent[0].hyper.arm)) == {4}
    assert config.arms_of("cliff")[4] == (2.0, 0.2)
    hyper = runner.lifetime(0).agent[0].hyper
    assert set(np.round(np.asarray(hyper.gamma), 4)) == {np.float32(0.995), np.float32(0.99)}
    assert abs(float(jnp.mean(hyper.entropy_weight)) - 0.015) < 0.002


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"worlds": ("dense", "wood", "maze")}, "has wood, maze; allowed are"),
        ({"worlds": ("dense", "cliff", "dense")}, "has dense twice"),
        ({"worlds": ()}, "worlds"),
        ({"learning_rates": ()}, "learning_rates is empty"),
        (
            {"objective": "bmg", "target_steps": 1, "rule": RuleConfig(prediction="value")},
            "compares distributions",
        ),
        ({"inner_steps": 3}, "6.5e-05, with which a lifetime in chain-short is shorter than the 3"),
        ({"record_every": 0}, "record_every"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises((FieldError, ValueError), match=message):
        dataclasses.replace(SMALL, **changes)


def test_groups_of_agents_side_by_side(monkeypatch):
    """Tables beside networks: each group has a bandit and slots of its own, on two devices as on
    one; the rule is the same for all."""
    config = dataclasses.replace(
        SMALL, worlds=("cliff", "chain-distractor", "chain-short"), lifetimes=2, inner_steps=1,
        distractor_learning_rates=(0.01, 0.02, 0.03),
    )  # fmt: skip
    together, alone = on(2, monkeypatch, config), on(1, monkeypatch, config)
    begin = alone.lifetime(0)
    assert [len(agents.updates) for agents in begin.agent] == [4, 2]
    assert [bandit.counts.shape for bandit in begin.meta.bandits] == [(2, 2), (1, 3)]
    assert begin.agent[1].rollout.observation.shape == (2, 9, 4, 22)
    columns, state = run(together, 2)
    expected_columns, expected = run(alone, 2)
    assert columns["episodes_chain-distractor"].sum() > 0
    for name in columns:
        np.testing.assert_allclose(columns[name], expected_columns[name], rtol=1e-3, atol=1e-6)
    # Adam's steps are as large where a gradient is all but 0, and rounding decides its sign.
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3)  # noqa: E731
    jax.tree.map(close, state.meta, expected.meta)
