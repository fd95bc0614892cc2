"""The update on several devices: what each device gets, and that their number changes nothing."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from bmg.actors.rollout import trajectory_signature
from bmg.agents.config import AgentConfig, MetaConfig
from bmg.agents.factory import make_agent
from bmg.environments.base import EnvironmentSpec
from bmg.learner.config import LearnerConfig
from bmg.learner.guard import guarded
from bmg.learner.update import (
    check_batch,
    empty_trajectories,
    first,
    frames_per_update,
)
from tests.agents.data import params_of, with_params
from tests.learner import fakes

GLOBAL = dataclasses.replace(fakes.LEARNER, online_batch=8, replay_batch=16)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_each_device_gets_its_share_of_online_and_replay(count):
    """Every unroll is on one device, whole, and each device has one online for two replayed."""
    agent = fakes.make_agent(config=GLOBAL, num_devices=count)
    batch = fakes.update_batch(0, GLOBAL)
    batch.online.parameter_version[:] = np.arange(8)
    batch.replay.parameter_version[:] = 100 + np.arange(16)
    batch.extra[0].parameter_version[:] = 200 + np.arange(16)
    sharded = agent.shard(batch)
    parts = [(batch.online, sharded.online, 8), (batch.replay, sharded.replay, 16),
             (batch.extra[0], sharded.extra[0], 16)]  # fmt: skip
    for host, device, size in parts:
        seen = []
        for name, array, expected in zip(device._fields, device, host):
            assert array.shape == expected.shape and len(expected) == size, name
            assert len(array.addressable_shards) == count, name
            for d, shard in enumerate(array.addressable_shards):
                assert shard.device == agent.mesh.devices[d], name
                share = slice(d * size // count, (d + 1) * size // count)
                np.testing.assert_array_equal(np.asarray(shard.data), expected[share])
                if name == "parameter_version":
                    seen += list(np.asarray(shard.data).ravel())
        assert sorted(seen) == sorted(host.parameter_version)


VARIANTS = {
    # The target's last step on replay alone needs each device to know which part is online.
    "bmg": dataclasses.replace(
        fakes.AGENT,
        meta=MetaConfig(target_steps=2, final_data="replay", matching_reduction="sum"),
        loss=dataclasses.replace(fakes.AGENT.loss, max_entropy=2.0),
    ),
    "impala": dataclasses.replace(
        fakes.AGENT,
        algorithm="impala",
        loss=dataclasses.replace(fakes.AGENT.loss, reduction="sum"),
    ),
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", VARIANTS)
def test_the_number_of_devices_changes_nothing(name):
    """Two updates of the same global batches; one device without a device axis is the oracle."""
    config = VARIANTS[name]
    agent = make_agent(config, fakes.SPEC)
    count = agent.num_extra_batches
    batches = [fakes.update_batch(seed, GLOBAL, count) for seed in range(2)]
    plain = guarded(agent, frames_per_update(GLOBAL, fakes.ACTION_REPEAT))
    start = jax.jit(plain.init)(jax.random.PRNGKey(0))
    # Policies far from uniform and values far from zero: no meta-gradient is small.
    params = jax.tree.map(lambda x: 2.0 * x, params_of(start))
    start = with_params(start, params)
    expected = start
    plain_update = jax.jit(plain.update)
    for batch in batches:
        expected, expected_metrics = plain_update(expected, batch)
    expected = jax.tree.map(np.asarray, expected)
    changes = jax.tree.map(
        lambda a, b: float(np.max(np.abs(a - b))), params_of(expected), params_of(start)
    )
    assert min(jax.tree.leaves(changes)) > 1e-4, "the updates were to change every layer"
    if name != "impala":
        gradient = np.concatenate([np.ravel(x) for x in expected.agent.meta.gradient])
        assert gradient.shape == (18,) and (gradient != 0).all()
        assert expected_metrics["meta/gradient_norm"] > 1e-3

    for devices in (1, 2, 4, 8) if name == "impala" else (2, 8):
        agent = fakes.make_agent(config, GLOBAL, devices)
        state = agent.replicate(start)
        for batch in batches:
            state, values = agent.update(state, agent.shard(batch))
        for path, x in jax.tree_util.tree_leaves_with_path(state):
            copies = {np.asarray(shard.data).tobytes() for shard in x.addressable_shards}
            assert len(copies) == 1, f"devices differ in {jax.tree_util.keystr(path)}"
        found = first(state)
        for (path, x), y in zip(
            jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected)
        ):
            label = f"{devices} devices, {jax.tree_util.keystr(path)}"
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5, err_msg=label)
        metrics = dict(zip(values.names, np.asarray(values.values)))
        assert metrics.keys() == expected_metrics.keys()
        for key, value in expected_metrics.items():
            if key == "meta/gradient_norm_to_variance":  # a ratio whose divisor is tiny
                np.testing.assert_allclose(metrics[key], value, rtol=1e-3)
                continue
            label = f"{devices} devices, {key}"
            np.testing.assert_allclose(metrics[key], value, rtol=1e-5, atol=1e-5, err_msg=label)


@pytest.mark.heavy
def test_an_update_is_a_function_of_state_and_batch():
    agent = fakes.make_agent()
    start = agent.init(jax.random.PRNGKey(1))
    batches = [fakes.update_batch(seed) for seed in range(3)]

    def run():
        state, seen = agent.replicate(start), []
        for batch in batches:
            state, metrics = agent.update(state, agent.shard(batch))
            seen.append(np.asarray(metrics.values))
        return first(state), np.stack(seen)

    one, another = run(), run()
    fakes.assert_same(one, another)
    assert int(one[0].updates) == 3
    assert not np.array_equal(one[0].key, start.key), "each update has its own key"


def test_the_benchmarks_idle_agent_learns_nothing():
    agent = fakes.make_agent(AgentConfig("bmg.benchmarks.idle:make", network=fakes.AGENT.network))
    start = agent.init(jax.random.PRNGKey(1))
    batch = fakes.update_batch(0, num_extra=0)
    state, metrics = agent.update(agent.replicate(start), agent.shard(batch))
    fakes.assert_same(first(state).agent, jax.tree.map(np.asarray, start.agent))
    assert int(state.updates) == 1 and int(state.skipped) == 0
    assert metrics.names == ("learner/skipped_in_a_row", "learner/skipped_updates")


def test_frames_are_environment_frames():
    assert frames_per_update(LearnerConfig(), action_repeat=4) == 6 * 20 * 4
    assert frames_per_update(fakes.LEARNER, 4) == 2 * 5 * 4


STACX = dataclasses.replace(fakes.AGENT, algorithm="stacx", meta=MetaConfig())


@pytest.mark.heavy
def test_a_learner_without_replay_gets_empty_batches():
    spec = EnvironmentSpec(fakes.SHAPE, fakes.NUM_ACTIONS, fakes.NUM_STACK, fakes.ACTION_REPEAT)
    empty = empty_trajectories(trajectory_signature(spec, fakes.LENGTH))
    config = dataclasses.replace(fakes.LEARNER, replay_batch=0)
    for agent_config in (VARIANTS["impala"], STACX):
        agent = fakes.make_agent(agent_config, config)
        start = agent.init(jax.random.PRNGKey(0))
        batch = fakes.update_batch(0, config, 0)._replace(replay=empty)
        state, metrics = agent.update(agent.replicate(start), agent.shard(batch))
        assert np.isfinite(np.asarray(metrics.values)).all()
        # An online-only batch of the same unrolls without a device axis gives the same.
        plain = guarded(make_agent(agent_config, fakes.SPEC), 40)
        expected, _ = jax.jit(plain.update)(start, batch)
        for x, y in zip(jax.tree.leaves(first(state)), jax.tree.leaves(expected)):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


BMG = AgentConfig()
PLAIN = AgentConfig(algorithm="impala")


@pytest.mark.parametrize(
    ("learner", "agent", "devices", "words"),
    [
        ({"online_batch": 6}, BMG, 4, ["online_batch 6", "4 devices", "online-batch 4 or 8"]),
        ({"replay_batch": 13}, BMG, 2, ["replay_batch 13", "2 devices", "replay-batch 12 or 14"]),
        ({"replay_batch": 0}, AgentConfig(meta=MetaConfig(target_steps=2)), 1, ["replay_batch"]),
        ({"replay_batch": 0}, AgentConfig(meta=MetaConfig(inner_steps=2)), 1, ["replay_batch"]),
        (
            {"replay_batch": 0},
            AgentConfig(algorithm="stacx", meta=MetaConfig(extra_replay_batches=3)),
            1,
            ["replay_batch"],
        ),
        ({"replay_batch": 0}, AgentConfig(meta=MetaConfig(final_data="replay")), 1, ["final_data"]),
    ],
)
def test_batches_that_cannot_be_used_are_refused(learner, agent, devices, words):
    with pytest.raises(ValueError) as caught:
        check_batch(LearnerConfig(**learner), make_agent(agent, fakes.SPEC), devices)
    text = fakes.one_line(caught.value)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("learner", "agent", "devices"),
    [
        ({}, BMG, 6),
        ({"replay_batch": 0}, PLAIN, 6),
        ({"replay_batch": 0}, BMG, 1),
        # Settings of another algorithm ask for nothing.
        ({"replay_batch": 0}, AgentConfig("impala", meta=MetaConfig(target_steps=4)), 1),
        ({"replay_batch": 0}, AgentConfig("stacx", meta=MetaConfig(final_data="replay")), 1),
    ],
)
def test_batches_that_can_be_used_are_accepted(learner, agent, devices):
    check_batch(LearnerConfig(**learner), make_agent(agent, fakes.SPEC), devices)


def test_make_sharded_agent_checks_the_batch():
    with pytest.raises(ValueError, match="online_batch 6 cannot be shared evenly by 4 devices"):
        fakes.make_agent(config=LearnerConfig(), num_devices=4)


def broken(batch):
    """The batch with one reward that is no number."""
    reward = batch.online.reward.copy()
    reward[0, 1] = np.nan
    return batch._replace(online=batch.online._replace(reward=reward))


@pytest.mark.heavy
@pytest.mark.parametrize("config", [fakes.AGENT, VARIANTS["impala"]], ids=["bmg", "impala"])
def test_an_update_that_is_not_finite_changes_counts_alone(config):
    agent = fakes.make_agent(config)
    count = agent.agent.num_extra_batches
    state = agent.replicate(agent.init(jax.random.PRNGKey(1)))
    states, counts = [], []
    for i, is_broken in enumerate((False, True, True, False)):
        batch = fakes.update_batch(i, num_extra=count)
        state, values = agent.update(state, agent.shard(broken(batch) if is_broken else batch))
        metrics = dict(zip(values.names, np.asarray(values.values)))
        counts.append([metrics[f"learner/skipped_{n}"] for n in ("updates", "in_a_row")])
        states.append(first(state))
    assert counts == [[0, 0], [1, 1], [2, 2], [2, 0]]
    for skipped in states[1:3]:
        fakes.assert_same(skipped.agent, states[0].agent)
    assert [int(s.updates) for s in states] == [1, 2, 3, 4]
    before, after = jax.tree.leaves(states[2].agent), jax.tree.leaves(states[3].agent)
    assert all(np.isfinite(x).all() for x in after)
    assert any(np.any(x != y) for x, y in zip(before, after))
