"""The learner's loop over samplers in memory: counting, publishing, reporting, ending."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import math
import os
import threading
import time

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.messages import Evaluation, VersionedParameters
from agents.networks import main_task_params
from environments.scores import human_normalized_score
from learner import checkpoint
from learner.checkpoint import CheckpointError
from learner.learner import summarise_reports
from learner.metrics import MetricsWriter, read_metrics
from learner.update import first
from tests.learner import fakes

FRAMES_PER_UPDATE = 2 * 5 * 4
OCCUPANCY = {
    f"replay/{table}_{name}": 7
    for table in ("online", "replay")
    for name in ("size", "inserted", "sampled")
}
REPORT = {"environment": 0.5, "inference": 0.25, "writing": 0.125, "steps_per_second": 100.0}

# The list, by the names that people see.
LOSSES = ("total", "policy", "entropy", "value", "policy_entropy", "rho", "clipped_ratio", "accepted")
META_PARAMETERS = ("discount", "lambda", "alpha", "policy_cost", "entropy_cost", "value_cost")
TASKS = ("main", "auxiliary_1", "auxiliary_2")
TENSORBOARD = {
    *(f"loss_{task}/{name}" for task in TASKS for name in LOSSES),
    "learner/gradient_norm",
    "learner/gradient_clipped",
    "learner/learning_rate",
    *OCCUPANCY,
    *(f"policy_lag/{name}" for name in ("min", "mean", "max")),
    "learner/frames_per_second",
    "learner/updates_per_second",
    *(f"learner_time/{name}" for name in ("waiting", "updating", "publishing")),
    *(f"actors_time/{name}" for name in ("environment", "inference", "writing")),
    "actors/steps_per_second",
    *(f"meta_{task}/{name}" for task in TASKS for name in META_PARAMETERS),
    "meta/gradient_norm",
    "meta/gradient_cosine",
    "meta/gradient_norm_to_variance",
    "training/return",
    "training/human_normalized_score",
    "evaluation/return",
    "evaluation/human_normalized_score",
}


@pytest.fixture(scope="module")
def agent():
    return fakes.make_agent()


def never() -> bool:
    return False


def run(learner, online=None, replay=None, should_stop=never) -> bool:
    return learner.run(
        online or fakes.online_stream(),
        replay or fakes.replay_stream(),
        num_extra=1,
        occupancy=lambda: OCCUPANCY,
        should_stop=should_stop,
    )


def rows_of(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def results_of(workdir) -> dict:
    return json.loads((workdir / "results.json").read_text())


def checkpoints_of(workdir) -> list[str]:
    return [path.name for path in checkpoint.list_checkpoints(workdir / "checkpoints")]


def events_of(workdir) -> EventAccumulator:
    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    return events


def test_a_run_counts_environment_frames(agent, tmp_path):
    """It stops with the first update at or beyond the total."""
    learner = fakes.make_learner(agent, tmp_path, 0, total_frames=3 * FRAMES_PER_UPDATE + 1)
    assert learner.frames == 0
    assert run(learner) is True
    assert learner.frames == 4 * FRAMES_PER_UPDATE
    rows = rows_of(tmp_path)
    assert [row["frames"] for row in rows] == [FRAMES_PER_UPDATE * i for i in (1, 2, 3, 4)]
    assert [row["learner/updates"] for row in rows] == [1, 2, 3, 4]
    assert [row["learner/frames"] for row in rows] == [row["frames"] for row in rows]
    assert checkpoints_of(tmp_path) == ["checkpoint_0000000004.npz"]
    for row in rows:
        ratio = row["learner/frames_per_second"] / row["learner/updates_per_second"]
        assert ratio == pytest.approx(FRAMES_PER_UPDATE)
        shares = [row[f"learner_time/{n}"] for n in ("waiting", "updating", "publishing")]
        assert all(0 <= share <= 1 for share in shares) and sum(shares) <= 1.0 + 1e-6


def test_the_learner_learns_from_exactly_its_batches(agent, tmp_path):
    """Its state is that of the same updates made by hand."""
    learner = fakes.make_learner(agent, tmp_path, 3)
    run(learner)
    state = agent.replicate(agent.agent.init(jax.random.PRNGKey(3)))
    online, replay = fakes.online_stream(), fakes.replay_stream()
    for _ in range(3):
        batch = fakes.UpdateBatch(next(online), next(replay), (next(replay),))
        state, _ = agent.update(state, agent.shard(batch))
    expected = first(state)
    found, _ = checkpoint.load_newest(tmp_path / "checkpoints", expected)
    fakes.assert_same(found.state, expected)


def test_the_learning_rate_falls_with_frames(agent, tmp_path):
    """Linearly to zero: from 1e-2 over 4,800 frames, which is 120 updates of 40."""
    run(fakes.make_learner(agent, tmp_path, 130))
    rates = [row["learner/learning_rate"] for row in rows_of(tmp_path)]
    expected = [1e-2 * max(0.0, 1 - 40 * i / 4_800) for i in range(130)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-9)
    assert rates[119] > 0 and rates[120:] == [0.0] * 10


def test_everything_of_the_list_is_in_tensorboard(agent, tmp_path):
    returns = [1.0, None, -1.0, 0.5]
    learner = fakes.make_learner(agent, tmp_path, 4)
    learner.report("actor_0", REPORT)
    learner.report("actor_1", {**REPORT, "environment": 0.7})
    learner.report_evaluation(Evaluation(2, 80, 0.25, 0.5, 10, False))
    run(learner, fakes.online_stream(returns=returns))

    events, rows = events_of(tmp_path), rows_of(tmp_path)
    missing = TENSORBOARD - set(events.Tags()["scalars"])
    assert not missing
    # Both files tell the same.
    for name in events.Tags()["scalars"]:
        points = [(row["frames"], row[name]) for row in rows if name in row]
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [frames for frames, _ in found] == [frames for frames, _ in points], name
        np.testing.assert_allclose([x for _, x in found], [x for _, x in points], rtol=1e-6)
        assert read_metrics(tmp_path, name) == points
    assert set(events.Tags()["scalars"]) == set().union(*rows) - {"frames", "time"}

    last = rows[-1]
    assert last["training/return"] == pytest.approx((1.0 - 1.0 + 0.5) / 3)
    assert last["training/episodes"] == 3
    assert last["training/human_normalized_score"] == pytest.approx((1 / 6 + 0.6) / 1.6)
    assert last["actors/reporting"] == 2 and last["actors/steps_per_second"] == 200.0
    assert last["actors_time/environment"] == pytest.approx(0.6)
    assert last["replay/online_size"] == 7
    (evaluation,) = [row for row in rows if "evaluation/return" in row]
    assert evaluation["frames"] == 80, "an evaluation stands at the frames that it belongs to"
    assert evaluation["evaluation/parameter_version"] == 2
    assert evaluation["evaluation/human_normalized_score"] == pytest.approx((0.25 + 0.6) / 1.6)


def test_results_have_their_keys(agent, tmp_path):
    learner = fakes.make_learner(agent, tmp_path, 3)
    learner.report_evaluation(Evaluation(1, 40, -0.5, 0.1, 10, False))
    run(learner, fakes.online_stream(returns=[1.0, 0.0]))
    results = results_of(tmp_path)
    assert results["game"] == "catch"
    assert results["frames"] == 120 and results["updates"] == 3 and results["complete"] is True
    assert results["wall_seconds"] > 0
    assert results["frames_per_second"] == pytest.approx(120 / results["wall_seconds"])
    assert results["training_return"] == 0.5 and results["episodes"] == 2
    assert results["evaluation_return"] == -0.5
    assert results["human_normalized_score"] == human_normalized_score("catch", -0.5)
    assert results["protocol"] == {"seed": 3} and results["versions"] == {"python": "3.10"}
    assert not list(tmp_path.glob("*.tmp"))


def test_results_without_a_single_episode(agent, tmp_path):
    run(fakes.make_learner(agent, tmp_path, 1))
    results = results_of(tmp_path)
    assert results["training_return"] is None and results["evaluation_return"] is None
    assert results["human_normalized_score"] is None
    assert "training/return" not in rows_of(tmp_path)[-1]


def test_training_return_is_of_the_last_hundred_episodes(agent, tmp_path):
    returns = [float(i) for i in range(105)]
    run(fakes.make_learner(agent, tmp_path, 105), fakes.online_stream(returns=returns))
    assert results_of(tmp_path)["training_return"] == pytest.approx(np.mean(returns[5:]))
    assert results_of(tmp_path)["episodes"] == 105


def test_policy_lag_is_in_learner_updates(agent, tmp_path):
    """Update i (from 0) on unrolls of version v has lag i - v."""
    versions = [0, 0, 1, 0, 4]
    run(fakes.make_learner(agent, tmp_path, 5), fakes.online_stream(versions=versions))
    rows = rows_of(tmp_path)
    for i, row in enumerate(rows):
        lags = [row[f"policy_lag/{name}"] for name in ("min", "mean", "max")]
        assert lags == [i - versions[i]] * 3


def test_policy_lag_over_several_updates(agent, tmp_path):
    """One line for all five: lags 0, 1, 1, 3, 0, but with one unroll of the last batch older."""

    def online():
        for i, batch in enumerate(fakes.online_stream(versions=[0, 0, 1, 0, 4])):
            if i == 4:
                batch.parameter_version[1] = -2
            yield batch

    run(fakes.make_learner(agent, tmp_path, 5, {"log_interval": 3600.0}), online())
    (row,) = rows_of(tmp_path)
    lags = [0, 0, 1, 1, 1, 1, 3, 3, 0, 6]
    assert row["policy_lag/min"] == 0 and row["policy_lag/max"] == 6
    assert row["policy_lag/mean"] == pytest.approx(np.mean(lags))


def test_metrics_of_a_line_are_means_over_its_updates(agent, tmp_path):
    (each := tmp_path / "each").mkdir()
    (all_ := tmp_path / "all").mkdir()
    run(fakes.make_learner(agent, each, 4))
    run(fakes.make_learner(agent, all_, 4, {"log_interval": 3600.0}))
    (row,) = rows_of(all_)
    for name in agent.metric_names:
        expected = np.mean([one[name] for one in rows_of(each)])
        assert row[name] == pytest.approx(expected, rel=1e-5, abs=1e-7), name


def test_what_is_not_finite_is_left_out_and_counted(agent, tmp_path):
    learner = fakes.make_learner(agent, tmp_path, 1)
    learner.report("actor_0", {**REPORT, "inference": math.nan, "writing": math.inf})
    run(learner)
    (row,) = rows_of(tmp_path)
    assert row["learner/not_finite_metrics"] == 2
    assert "actors_time/inference" not in row and "actors_time/writing" not in row
    assert row["actors_time/environment"] == 0.5
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert "actors_time/inference" not in events_of(tmp_path).Tags()["scalars"]


def test_metrics_are_continued(tmp_path):
    for frames in (40, 80):
        writer = MetricsWriter(tmp_path)
        writer.write(frames, {"a/b": frames / 2})
        writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"frames": 120, "a/b": 6')  # as after a crash
    assert read_metrics(tmp_path, "a/b") == [(40, 20.0), (80, 40.0)]
    assert [(e.step, e.value) for e in events_of(tmp_path).Scalars("a/b")] == [(40, 20), (80, 40)]


def test_reports_of_actors_are_joined():
    assert summarise_reports({}) == {}
    reports = {"actor_0": REPORT, "actor_1": {**REPORT, "writing": 0.375, "steps_per_second": 50.0}}
    assert summarise_reports(reports) == {
        "actors/reporting": 2.0,
        "actors_time/environment": 0.5,
        "actors_time/inference": 0.25,
        "actors_time/writing": 0.25,
        "actors/steps_per_second": 150.0,
    }


def test_parameters_are_there_from_the_start(agent, tmp_path):
    learner = fakes.make_learner(agent, tmp_path, 1)
    published = learner.get_parameters(-1)
    assert isinstance(published, VersionedParameters)
    assert (published.version, published.frames, published.final) == (0, 0, False)
    expected = main_task_params(agent.agent.init(jax.random.PRNGKey(3)).agent.params)
    fakes.assert_same(published.params, jax.tree.map(np.asarray, expected))
    assert not any(name.startswith(("task_1", "task_2")) for name in published.params)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(published.params))
    assert learner.get_parameters(0) is None


def test_each_update_is_published(agent, tmp_path):
    """Versions go up by one, and what was fetched stays what it was while the learner goes on."""
    learner = fakes.make_learner(agent, tmp_path, 6)
    fetched, copies = [], []

    def online():
        for batch in fakes.online_stream():
            newer = learner.get_parameters(fetched[-1].version if fetched else -1)
            if newer is not None:
                fetched.append(newer)
                copies.append(jax.tree.map(np.copy, newer.params))
            yield batch

    run(learner, online())
    final = learner.get_parameters(6)
    assert (final.version, final.frames, final.final) == (6, 240, True)
    versions = [published.version for published in fetched]
    assert versions == sorted(set(versions)) and versions[0] == 0
    assert all(p.frames == 40 * p.version and not p.final for p in fetched)
    for published, copy in zip(fetched, copies):
        fakes.assert_same(published.params, copy)

    # What is published is what was learned.
    state = agent.replicate(agent.agent.init(jax.random.PRNGKey(3)))
    online_batches, replay = fakes.online_stream(), fakes.replay_stream()
    by_version = {published.version: published for published in [*fetched, final]}
    for version in range(1, 7):
        batch = fakes.UpdateBatch(next(online_batches), next(replay), (next(replay),))
        state, _ = agent.update(state, agent.shard(batch))
        if version in by_version:
            expected = main_task_params(first(state).agent.params)
            fakes.assert_same(by_version[version].params, expected)


@pytest.mark.parametrize("interval", [2, 3])
def test_publications_may_be_rarer(agent, tmp_path, interval):
    learner = fakes.make_learner(agent, tmp_path, 7, {"publish_interval": interval})
    published = []
    publish = learner._publish

    def record(final):
        publish(final)
        published.append(learner.get_parameters(-1).version)

    learner._publish = record
    run(learner)
    assert published == [*range(interval, 8, interval), 7]
    assert learner.get_parameters(-1).final
    assert len(rows_of(tmp_path)) == 7


def test_stopping_writes_a_checkpoint(agent, tmp_path):
    learner = fakes.make_learner(agent, tmp_path, 100)
    stop = threading.Event()

    def online():
        for i, batch in enumerate(fakes.online_stream(returns=[0.5])):
            if i == 4:
                stop.set()
            yield batch

    assert run(learner, online(), should_stop=stop.is_set) is False
    updates = learner.frames // FRAMES_PER_UPDATE
    assert 1 <= updates <= 5
    assert checkpoints_of(tmp_path) == [f"checkpoint_{updates:010d}.npz"]
    results = results_of(tmp_path)
    assert results["complete"] is False and results["frames"] == 40 * updates
    assert results["training_return"] == 0.5
    assert not learner.get_parameters(-1).final


def test_stopping_before_any_data_came(agent, tmp_path):
    asked = itertools.count()
    waiting = threading.Event()

    def nothing():
        waiting.wait(30.0)
        return
        yield

    learner = fakes.make_learner(agent, tmp_path, 100)
    try:
        stopping = lambda: next(asked) >= 3  # noqa: E731
        assert run(learner, nothing(), should_stop=stopping) is False
    finally:
        waiting.set()
    assert checkpoints_of(tmp_path) == ["checkpoint_0000000000.npz"]
    assert results_of(tmp_path)["frames"] == 0


@pytest.mark.parametrize("which", ["online", "replay"])
def test_a_samplers_error_ends_the_run_after_a_checkpoint(agent, tmp_path, which):
    def failing(source, count):
        yield from itertools.islice(source, count)
        raise TimeoutError("no batch for 600 s")

    streams = {"online": fakes.online_stream(), "replay": fakes.replay_stream()}
    # The replay gives two batches to each update.
    streams[which] = failing(streams[which], 3 if which == "online" else 6)
    learner = fakes.make_learner(agent, tmp_path, 100)
    with pytest.raises(TimeoutError, match="no batch for 600 s"):
        run(learner, **streams)
    assert checkpoints_of(tmp_path) == ["checkpoint_0000000003.npz"]
    assert results_of(tmp_path)["frames"] == 120 and not results_of(tmp_path)["complete"]


def test_resuming_goes_on_where_it_ended(agent, tmp_path):
    """Counters, returns, evaluation, time and state: bit-equal to a run that never ended."""
    (whole := tmp_path / "whole").mkdir()
    (parts := tmp_path / "parts").mkdir()
    returns = [1.0, None, -1.0, None, 1.0, 0.0]
    run(fakes.make_learner(agent, whole, 6), fakes.online_stream(returns=returns))

    online, replay = fakes.online_stream(returns=returns), fakes.replay_stream()

    def exactly(source, count):
        return itertools.islice(source, count)

    learner = fakes.make_learner(agent, parts, 3)
    learner.report_evaluation(Evaluation(1, 40, 0.5, 0.0, 10, False))
    assert run(learner, exactly(online, 3), exactly(replay, 6)) is True
    seconds = results_of(parts)["wall_seconds"]

    second = fakes.make_learner(agent, parts, 6, resume=True)
    assert second.frames == 120
    published = second.get_parameters(-1)
    assert (published.version, published.frames, published.final) == (3, 120, False)
    fakes.assert_same(published.params, learner.get_parameters(-1).params)
    assert run(second, exactly(online, 3), exactly(replay, 6)) is True

    template = agent.agent.init(jax.random.PRNGKey(0))
    states = [
        checkpoint.load(folder / "checkpoints" / "checkpoint_0000000006.npz", template).state
        for folder in (whole, parts)
    ]
    fakes.assert_same(*states)
    results, expected = results_of(parts), results_of(whole)
    for key in ("frames", "updates", "episodes", "training_return", "complete"):
        assert results[key] == expected[key], key
    assert results["episodes"] == 4 and results["training_return"] == 0.25
    assert results["evaluation_return"] == 0.5
    assert results["wall_seconds"] > seconds
    assert [row["frames"] for row in rows_of(parts) if "learner/frames" in row] == [
        40, 80, 120, 160, 200, 240
    ]  # fmt: skip


def test_resuming_a_complete_run_has_nothing_to_learn(agent, tmp_path):
    run(fakes.make_learner(agent, tmp_path, 2))
    before = results_of(tmp_path)
    again = fakes.make_learner(agent, tmp_path, 2, resume=True)
    assert run(again) is True
    assert again.get_parameters(2).final
    assert results_of(tmp_path)["frames"] == before["frames"] == 80
    assert checkpoints_of(tmp_path) == ["checkpoint_0000000002.npz"]


def test_resuming_falls_back_to_an_older_checkpoint(agent, tmp_path, capfd):
    changes = {"checkpoint_interval": 0.0}
    run(fakes.make_learner(agent, tmp_path, 3, changes))
    older, newest = checkpoint.list_checkpoints(tmp_path / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:500])
    learner = fakes.make_learner(agent, tmp_path, 3, changes, resume=True)
    assert learner.frames == 80
    assert str(newest) in capfd.readouterr().out
    older.write_bytes(b"")
    with pytest.raises(CheckpointError):
        fakes.make_learner(agent, tmp_path, 3, changes, resume=True)


def test_checkpoints_come_on_an_interval_and_the_newest_stay(agent, tmp_path):
    learner = fakes.make_learner(agent, tmp_path, 5, {"checkpoint_interval": 0.0})
    seen = []

    def online():
        for batch in fakes.online_stream():
            seen.append(tuple(checkpoints_of(tmp_path)))
            yield batch

    run(learner, online())
    assert checkpoints_of(tmp_path) == ["checkpoint_0000000004.npz", "checkpoint_0000000005.npz"]
    assert any("checkpoint_0000000001.npz" in names for names in seen)


def test_a_full_disk_is_reported_and_the_run_goes_on(agent, tmp_path, monkeypatch, capfd):
    """Metrics and checkpoints that fail on the way are lost; the last checkpoint must not be."""
    learner = fakes.make_learner(agent, tmp_path, 5, {"checkpoint_interval": 0.0})
    save, write = checkpoint.save, learner._metrics.write

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save_if_room(directory, updates, *rest):
        return full() if updates in (2, 3) else save(directory, updates, *rest)

    def write_if_room(frames, metrics):
        return full() if frames in (80, 120) else write(frames, metrics)

    monkeypatch.setattr(checkpoint, "save", save_if_room)
    monkeypatch.setattr(learner._metrics, "write", write_if_room)
    assert run(learner) is True
    output = capfd.readouterr().out
    assert output.count("metrics could not be written") == 2
    assert output.count("checkpoint could not be written") == 2
    assert [row["frames"] for row in rows_of(tmp_path)] == [40, 160, 200]
    assert checkpoints_of(tmp_path) == ["checkpoint_0000000004.npz", "checkpoint_0000000005.npz"]


def test_a_last_checkpoint_that_fails_is_an_error(agent, tmp_path, monkeypatch):
    learner = fakes.make_learner(agent, tmp_path, 2)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run(learner)


def evaluating(learner, delay: float = 0.0):
    """An evaluator: waits for the final parameters and reports on them."""

    def evaluate():
        deadline = time.monotonic() + 30.0
        while time.monotonic() < deadline:
            published = learner.get_parameters(10**9)
            if published is not None:
                assert published.final
                time.sleep(delay)
                learner.report_evaluation(
                    tuple(Evaluation(published.version, published.frames, 1.0, 0.0, 10, True))
                )
                return
            time.sleep(0.01)

    thread = threading.Thread(target=evaluate, daemon=True)
    thread.start()
    return thread


def test_the_end_waits_for_the_last_evaluation(agent, tmp_path):
    learner = fakes.make_learner(agent, tmp_path, 2, num_evaluators=1)
    thread = evaluating(learner, delay=0.5)
    assert run(learner) is True
    thread.join(10.0)
    results = results_of(tmp_path)
    assert results["evaluation_return"] == 1.0 and results["human_normalized_score"] == 1.0
    assert results["evaluation"]["version"] == 2 and results["evaluation"]["final"] is True
    assert rows_of(tmp_path)[-1]["evaluation/return"] == 1.0
    # And it is in the checkpoint.
    resumed = fakes.make_learner(agent, tmp_path, 2, resume=True)
    assert resumed._progress.evaluation["mean_return"] == 1.0


def test_the_end_does_not_wait_for_ever(agent, tmp_path, capfd):
    learner = fakes.make_learner(agent, tmp_path, 2, num_evaluators=1, final_timeout=0.3)
    assert run(learner) is True
    assert "did not come in time" in capfd.readouterr().out
    assert results_of(tmp_path)["evaluation_return"] is None


def test_a_replay_server_that_does_not_answer_costs_its_metrics_alone(agent, tmp_path):
    """It may be busy for a moment, or leave before the learner when a run is stopped."""

    def silent():
        raise TimeoutError("replay server gives no answer")

    learner = fakes.make_learner(agent, tmp_path, 3)
    done = learner.run(
        fakes.online_stream(), fakes.replay_stream(), 1, occupancy=silent, should_stop=never
    )
    assert done is True and learner.frames == 120
    rows = rows_of(tmp_path)
    assert [row["frames"] for row in rows] == [40, 80, 120]
    assert not any(name.startswith("replay/") for row in rows for name in row)


def test_an_evaluation_after_the_end_is_no_error(agent, tmp_path):
    """One that did not come in time may come a moment later, from a process that is to leave."""
    learner = fakes.make_learner(agent, tmp_path, 1, num_evaluators=1, final_timeout=0.0)
    run(learner)
    learner.report_evaluation(Evaluation(1, 40, 1.0, 0.0, 10, True))
    learner.report("actor_0", REPORT)


def test_skipping_the_update_still_counts(tmp_path):
    config = dataclasses.replace(fakes.LEARNER, skip_update=True)
    agent = fakes.make_agent(config=config)
    assert run(fakes.make_learner(agent, tmp_path, 3, {"skip_update": True})) is True
    rows = rows_of(tmp_path)
    assert [row["frames"] for row in rows] == [40, 80, 120]
    assert not any(name.startswith("loss") for row in rows for name in row)
