"""Acting, replay and learning in one program, against the same by hand."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.actors.rollout import agent_spec, trajectory_signature
from bmg.agents.agent import UpdateBatch
from bmg.agents.config import AgentConfig, MetaConfig, NetworkConfig, OptimizerConfig
from bmg.agents.factory import make_agent
from bmg.environments.factory import make_world
from bmg.learner import in_graph_learner
from bmg.learner.config import LearnerConfig
from bmg.learner.guard import guarded
from bmg.learner.in_graph import State, collect, make_evaluation, make_program
from bmg.learner.in_graph_learner import InGraphLearner, axis_name, make_beginning, spread
from bmg.learner.record import RunInfo, RunRecord
from bmg.replay import ring
from bmg.storage import checkpoint

pytestmark = [
    pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation", "shared_programs"),
]  # fmt: skip
WORLD = make_world("catch")
LENGTH, FRESH, REPLAYED = 12, 4, 2  # an episode has 9 steps
CONFIG = LearnerConfig(unroll_length=LENGTH, online_batch=FRESH, replay_batch=REPLAYED)
AGENT = AgentConfig(
    "bmg",
    network=NetworkConfig(torso="minatar", features=6, head_hidden=()),
    optimizer=OptimizerConfig(learning_rate=1e-2, decay_frames=0),
    meta=MetaConfig(target_steps=2),
)
KEY = jax.random.PRNGKey(0)


@pytest.fixture(scope="module")
def agent():
    return make_agent(AGENT, agent_spec(WORLD.spec))


@pytest.fixture(scope="module")
def program(agent):
    return make_program(agent, WORLD, CONFIG, replay_capacity=9, most_updates=3)


@functools.cache
def begin(program):
    """A state on one device."""
    state = make_beginning(program, shards=1)(jax.random.PRNGKey(0)[None])
    playing = jax.tree.map(lambda x: x[0, 0], jax.device_get(state.playing))
    return State(jax.tree.map(lambda x: x[0], jax.device_get(state.learner)), playing)


@pytest.fixture(scope="module")
def by_hand(agent):
    """Unrolls of a device's environments, fresh and replayed; and the agent's update."""
    whole = guarded(agent, FRESH * LENGTH)

    @functools.partial(jax.jit, static_argnums=3)
    def play(playing, params, version, replayed):
        key, act_key, *keys = jax.random.split(playing.key, 3 + agent.num_extra_batches)
        games, unrolls = collect(agent, WORLD, params, playing.games, act_key, version, LENGTH)
        replay = ring.append(playing.replay, unrolls)
        drawn = [ring.sample(replay, k, replayed) for k in keys]
        return type(playing)(games, replay, key), [unrolls, *drawn]

    return play, jax.jit(whole.update)


def equal(one, other, **how):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **how), one, other)


def test_an_unroll_is_what_the_environments_did(agent, program):
    """Step by step, with the same draws; and of the structure, shapes and types that actors of
    other runtimes write."""
    state = begin(program)
    params = agent.acting_params(state.learner.agent)
    games, found = jax.jit(lambda p, g, k: collect(agent, WORLD, p, g, k, jnp.int32(5), LENGTH))(
        params, state.playing.games, KEY
    )
    wanted = trajectory_signature(WORLD.spec, LENGTH)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), found)
    assert shapes == wanted

    act_key, draw_key = jax.random.split(KEY)
    random = WORLD.draw(draw_key, (LENGTH, FRESH))
    keys = jax.random.split(act_key, (LENGTH, FRESH))
    ended = 0
    for b in range(FRESH):
        game = jax.tree.map(lambda x: x[b], state.playing.games)
        for t in range(LENGTH):
            frame = np.asarray(WORLD.frame(game))
            np.testing.assert_array_equal(found.frames[b, t], frame)
            assert sorted(np.unique(frame)) == [0, 255]
            action, logits = agent.act(params, frame[None], keys[t, b][None])
            assert action[0] == found.action[b, t]
            np.testing.assert_allclose(logits[0], found.behaviour_logits[b, t], atol=1e-5)
            game, told = WORLD.step(game, action[0], random[t, b])
            assert (told.reward, told.discount) == (found.reward[b, t], found.discount[b, t])
            over = told.discount == 0
            ended += over
            np.testing.assert_equal(
                float(found.episode_return[b, t]), float(told.episode_return) if over else np.nan
            )
        np.testing.assert_array_equal(found.frames[b, LENGTH], WORLD.frame(game))
        equal(jax.tree.map(lambda x: x[b], games), game)
    assert ended == FRESH and not np.any(found.reset) and np.all(found.parameter_version == 5)


def test_an_update_is_the_agents_own_on_fresh_and_replayed_unrolls(agent, program, by_hand):
    """By hand, twice; a chunk of two updates comes to the same."""
    state = before = begin(program)
    (play, update), returns = by_hand, []
    for _ in range(2):
        params = agent.acting_params(state.learner.agent)
        playing, (fresh, main, extra) = play(state.playing, params, state.learner.updates, REPLAYED)
        learner, metrics = update(state.learner, UpdateBatch(fresh, main, (extra,)))
        returns.append(fresh.episode_return)
        state = State(learner, playing)
    after, told = jax.jit(program.chunk)(before, np.int32(2))
    equal(after, state, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(told.episode_return[:2], np.stack(returns))
    assert np.all(np.isnan(told.episode_return[2]))
    assert int(after.playing.replay.appended) == 2 * FRESH
    last = dict(zip(told.metrics.names, told.metrics.values))
    assert set(last) == set(metrics) and np.all(np.isfinite(told.metrics.values))


def test_an_evaluation_is_the_first_episode_of_each(agent, program):
    """Catch's have 9 steps and return 1 or -1."""
    params = agent.acting_params(begin(program).learner.agent)
    start, advance = make_evaluation(agent, WORLD, episodes=40, steps=6)
    state = start(KEY)
    state = jax.jit(advance)(params, state)
    assert np.all(state.playing) and np.all(state.returns == 0)
    state = jax.jit(advance)(params, state)
    assert not np.any(state.playing) and set(np.unique(state.returns)) == {-1.0, 1.0}
    equal(jax.jit(advance)(params, state).returns, state.returns)  # nothing counts later


def learner(agent, folder, seeds, updates, devices=1, resume=False, first=3):
    records = []
    for index in range(seeds):
        directory = folder / f"seed-{first + index}"
        directory.mkdir(parents=True, exist_ok=True)
        frames = FRESH * LENGTH
        info = RunInfo(
            directory, "catch", updates * frames, frames, first + index, resume, {}, {}, 1, 1.0, {}
        )
        records.append(RunRecord(info, 2, print, lambda results: None))
    config = dataclasses.replace(CONFIG, log_rows=1, checkpoint_interval=1e6)
    mesh = spread(seeds, config, jax.devices()[:devices])
    return InGraphLearner(agent, WORLD, config, 5, 1e6, 9, records, mesh, print)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Of two updates at most, however many a run has: runs of the same program."""
    monkeypatch.setattr(in_graph_learner, "_MOST_UPDATES", 2)


def states(made):
    return jax.tree.map(np.asarray, made._state)


def test_seeds_do_not_depend_on_who_runs_beside_them(agent, tmp_path):
    """Four on two devices, and each of two alone."""
    together = learner(agent, tmp_path / "together", 4, 4, devices=2)
    assert together.run(lambda: False) is True
    for index in (0, 3):
        alone = learner(agent, tmp_path / f"alone-{index}", 1, 4, first=3 + index)
        alone.run(lambda: False)
        own = jax.tree.map(lambda x: x[index : index + 1], states(together))
        equal(own, states(alone), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "seeds, batches, devices, expected, shared",
    [
        (1, (3, 2), 2, (1, 1), False),  # 3 unrolls are not shared by two
        (1, (4, 2), 8, (1, 2), True),
        (1, (4, 0), 8, (1, 4), True),
        (1, (4, 8), 3, (1, 2), True),
        (4, (4, 4), 8, (4, 2), True),
        (3, (4, 4), 8, (3, 2), True),
        (16, (4, 4), 8, (8, 1), False),
        (6, (4, 4), 4, (3, 1), False),
    ],
)
def test_devices_are_shared_out(seeds, batches, devices, expected, shared):
    config = dataclasses.replace(CONFIG, online_batch=batches[0], replay_batch=batches[1])
    mesh = spread(seeds, config, jax.devices()[:devices])
    assert mesh.devices.shape == expected
    assert (axis_name(mesh) is not None) == shared


@pytest.fixture(scope="module")
def shared_agent():
    return make_agent(AGENT, agent_spec(WORLD.spec)._replace(axis_name="shards"))


def test_a_seed_on_two_devices_learns_from_what_both_play(agent, shared_agent, by_hand, tmp_path):
    """By hand: the agent's own update on the unrolls of both, fresh and replayed."""
    made = learner(shared_agent, tmp_path, 1, 2, devices=2)
    play, update = by_hand
    state = states(made)
    own = jax.tree.map(lambda x: x[0], state.learner)
    pieces = [jax.tree.map(lambda x, i=i: x[0, i], state.playing) for i in range(2)]
    assert not np.array_equal(pieces[0].key, pieces[1].key)
    returns = []
    for _ in range(2):
        drawn = []
        for i, playing in enumerate(pieces):
            pieces[i], unrolls = play(playing, agent.acting_params(own.agent), own.updates, 1)
            drawn.append(unrolls)
        both = [jax.tree.map(lambda *x: np.concatenate(x), *parts) for parts in zip(*drawn)]
        returns.append(both[0].episode_return)
        own, _ = update(own, UpdateBatch(both[0], both[1], (both[2],)))
    assert made.run(lambda: False) is True
    after = states(made)
    equal(jax.tree.map(lambda x: x[0], after.learner), own, rtol=1e-4, atol=1e-5)
    for i, playing in enumerate(pieces):
        equal(jax.tree.map(lambda x: x[0, i], after.playing), playing, rtol=1e-4, atol=1e-5)
    ended = np.concatenate([x.T.ravel() for x in returns])
    ended = ended[np.isfinite(ended)]
    results = json.loads((tmp_path / "seed-3/results.json").read_text())
    assert len(ended) == results["episodes"] == 4 * 2
    assert results["training_return"] == np.mean(ended)


def test_a_seed_on_two_devices_is_resumed(shared_agent, tmp_path):
    """And goes on with new episodes where there is another number of devices."""
    whole = learner(shared_agent, tmp_path / "whole", 1, 4, devices=2)
    whole.run(lambda: False)
    learner(shared_agent, tmp_path / "parts", 1, 2, devices=2).run(lambda: False)
    resumed = learner(shared_agent, tmp_path / "parts", 1, 4, resume=True, devices=2)
    resumed.run(lambda: False)
    jax.tree.map(np.testing.assert_array_equal, states(resumed), states(whole))


def test_a_seed_goes_on_on_fewer_devices(agent, shared_agent, tmp_path, capsys):
    """With new episodes and an empty ring."""
    made = learner(shared_agent, tmp_path, 1, 2, devices=2)
    made.run(lambda: False)
    other = learner(agent, tmp_path, 1, 4, resume=True)
    assert "environments begin anew" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, states(other).learner, states(made).learner)
    assert not np.any(other._state.playing.replay.appended)
    other.run(lambda: False)


def test_a_resumed_run_equals_an_uninterrupted_one(agent, tmp_path):
    """Also its rows; without the file of the environments it goes on with new episodes."""
    whole = learner(agent, tmp_path / "whole", 2, 6)
    whole.run(lambda: False)
    learner(agent, tmp_path / "parts", 2, 3).run(lambda: False)
    resumed = learner(agent, tmp_path / "parts", 2, 6, resume=True)
    resumed.run(lambda: False)
    jax.tree.map(np.testing.assert_array_equal, states(resumed), states(whole))
    for path in (tmp_path / "parts").glob("seed-*/playing/*"):
        path.unlink()
    other = learner(agent, tmp_path / "parts", 2, 9, resume=True)
    assert not np.any(other._state.playing.replay.appended)
    jax.tree.map(np.testing.assert_array_equal, states(other).learner, states(whole).learner)
    other.run(lambda: False)
    results = (tmp_path / "parts/seed-4/results.json").read_text()
    assert '"complete": true' in results and '"evaluation_return": null' not in results


def test_a_run_that_has_its_frames_says_what_is_left_to_do(agent, tmp_path, capsys):
    """Stopped in its last evaluation, and then complete."""
    first = learner(agent, tmp_path, 1, 2)
    first._evaluate = lambda final, should_stop: None
    first.run(lambda: False)
    frames = 2 * CONFIG.online_batch * LENGTH
    for words in ("its last evaluation is missing and is made", "give more --frames to go on"):
        capsys.readouterr()
        learner(agent, tmp_path, 1, 2, resume=True).run(lambda: False)
        assert f"the run has {frames} frames already; {words}\n" in capsys.readouterr().out


@pytest.mark.parametrize("kept", ["all", "the newest"])
def test_seeds_that_were_saved_at_different_times_go_on_together(agent, tmp_path, kept, capsys):
    """As a process leaves them that is killed between the checkpoints of two seeds."""
    whole = learner(agent, tmp_path / "whole", 2, 6)
    whole.run(lambda: False)
    folder = tmp_path / "killed"
    learner(agent, folder, 2, 3).run(lambda: False)
    behind = shutil.copytree(folder / "seed-4/checkpoints", tmp_path / "behind")
    learner(agent, folder, 2, 6, resume=True).run(lambda: False)
    shutil.rmtree(folder / "seed-4/checkpoints")
    shutil.copytree(behind, folder / "seed-4/checkpoints")
    if kept == "the newest":
        checkpoint.list_checkpoints(folder / "seed-3/checkpoints")[0].unlink()
        with pytest.raises(checkpoint.CheckpointError, match="is ahead of the other seeds"):
            learner(agent, folder, 2, 6, resume=True)
        return
    capsys.readouterr()
    resumed = learner(agent, folder, 2, 6, resume=True)
    assert "going on from update 3" in capsys.readouterr().out
    resumed.run(lambda: False)
    jax.tree.map(np.testing.assert_array_equal, states(resumed), states(whole))


def test_a_full_disk_is_said_once(agent, tmp_path, monkeypatch, capsys):
    """Of checkpoints and of where environments are; with room again that is said too."""
    made = learner(agent, tmp_path, 1, 6)
    made.run(lambda: False)
    save, full = checkpoint.save, [True]

    def maybe(*arguments, **how):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments, **how)

    monkeypatch.setattr(checkpoint, "save", maybe)
    capsys.readouterr()
    for _ in range(2):
        made._save_on_the_way()
    out = capsys.readouterr().out
    assert out.count("No space left") == 2
    assert "checkpoints cannot be written" in out and "playing cannot be written" in out
    full.clear()
    made._save_on_the_way()
    assert "playing can be written again" in capsys.readouterr().out


def test_an_evaluation_that_is_not_finite_is_left_out(agent, tmp_path, capsys):
    """And the run goes on: no checkpoint has it."""
    for updates, resume in ((2, False), (4, True)):
        made = learner(agent, tmp_path, 1, updates, resume=resume)
        step = made._evaluate_steps
        made._evaluate_steps = lambda params, state, step=step: step(params, state)._replace(
            returns=np.full((1, 5), np.inf)
        )
        assert made.run(lambda: False) is True
        line = "seed 3: none of 5 episodes of an evaluation had a finite return; it is left out"
        assert line in capsys.readouterr().out
        results = json.loads((tmp_path / "seed-3/results.json").read_text())
        assert (
            results["evaluation_return"] is None and results["frames"] == updates * FRESH * LENGTH
        )


def test_what_fails_in_a_chunk_is_told_and_results_are_written(agent, tmp_path, capsys):
    """The state was given away, so that it cannot be saved."""
    made = learner(agent, tmp_path, 1, 4)

    def fails(state, updates):
        for x in jax.tree.leaves(state):
            x.delete()
        raise ValueError("out of memory")

    made._chunk = fails
    with pytest.raises(ValueError, match="out of memory"):
        made.run(lambda: False)
    assert "no last checkpoint" in capsys.readouterr().out
    assert json.loads((tmp_path / "seed-3/results.json").read_text())["complete"] is False
