"""How a learner's run ends, goes on, and gets over what fails on its way."""

from __future__ import annotations

import errno
import itertools
import os
import threading

import jax
import pytest

from bmg.agents.config import AgentConfig
from bmg.agents.messages import Evaluation
from bmg.learner.record import NotSavedError
from bmg.storage import checkpoint
from bmg.storage.checkpoint import CheckpointError
from tests.learner import fakes
from tests.learner.fakes import checkpoints_of, never, results_of, rows_of, run
from tests.waiting import DEADLINE, Call, Stop, eventually

FRAMES_PER_UPDATE = 2 * 5 * 4
REPORT = {"environment": 0.5, "inference": 0.25, "writing": 0.125, "steps_per_second": 100.0}


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


@pytest.mark.heavy
def test_stopping_before_any_data_came(agent, tmp_path):
    asked = itertools.count()
    waiting = threading.Event()

    def nothing():
        waiting.wait(DEADLINE)
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

    template = agent.init(jax.random.PRNGKey(0))
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

    def between_updates():
        names = checkpoints_of(tmp_path)
        if names not in seen:
            seen.append(names)
        return False

    run(learner, should_stop=between_updates)
    one, two, three, four, five = (f"checkpoint_000000000{i}.npz" for i in range(1, 6))
    assert seen == [[], [one], [one, two], [two, three], [three, four]]
    assert checkpoints_of(tmp_path) == [four, five]


def test_a_full_disk_is_reported_and_the_run_goes_on(agent, tmp_path, monkeypatch):
    """Metrics and checkpoints that fail on the way are lost; the last checkpoint must not be."""
    said = []
    learner = fakes.make_learner(agent, tmp_path, 5, {"checkpoint_interval": 0.0}, said.append)
    metrics = learner._record._metrics
    save, write = checkpoint.save, metrics.write

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save_if_room(directory, updates, *rest):
        return full() if updates in (2, 3) else save(directory, updates, *rest)

    def write_if_room(frames, metrics):
        return full() if frames in (80, 120) else write(frames, metrics)

    monkeypatch.setattr(checkpoint, "save", save_if_room)
    monkeypatch.setattr(metrics, "write", write_if_room)
    assert run(learner) is True
    assert said == [
        "metrics cannot be written (No space left on device); the run goes on",
        "checkpoints cannot be written (No space left on device); the run goes on",
        "metrics can be written again",
        "checkpoints can be written again",
    ]
    assert [row["frames"] for row in rows_of(tmp_path)] == [40, 160, 200]
    assert checkpoints_of(tmp_path) == ["checkpoint_0000000004.npz", "checkpoint_0000000005.npz"]


@pytest.mark.parametrize("before", [False, True])
def test_a_last_checkpoint_that_fails_is_an_error(agent, tmp_path, monkeypatch, before):
    """It is named, with what there is to go on from; the results come, one way or the other."""
    if before:
        run(fakes.make_learner(agent, tmp_path, 1))
        (tmp_path / "results.json").unlink()
    told = []
    learner = fakes.make_learner(agent, tmp_path, 2, resume=before, publish_results=told.append)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save", full)
    monkeypatch.setattr("bmg.learner.record.write_json", full)
    with pytest.raises(NotSavedError) as caught:
        run(learner)
    text = fakes.one_line(caught.value)
    assert "the run is complete, but not written are the checkpoint of update 2 (No space" in text
    assert "results.json (No space left on device)" in text
    assert ("--resume goes on from update 1" if before else "start again") in text
    assert told[-1]["complete"] is True and told[-1]["updates"] == 2
    assert not (tmp_path / "results.json").exists()


def test_the_end_waits_for_the_last_evaluation(agent, tmp_path):
    learner, stop = fakes.make_learner(agent, tmp_path, 2, num_evaluators=1), Stop()

    def evaluate():
        """As an evaluator does with the final parameters, after the learner has waited."""
        eventually(lambda: learner.get_parameters(10**9))
        version, frames, final = learner.get_parameters(10**9)[1:]
        assert final
        asked = stop.asked
        eventually(lambda: stop.asked >= asked + 3)
        learner.report_evaluation(tuple(Evaluation(version, frames, 1.0, 0.0, 10, True)))

    evaluating = Call(evaluate)
    assert run(learner, should_stop=stop) is True
    results = results_of(tmp_path)
    assert results["evaluation_return"] == 1.0 and results["human_normalized_score"] == 1.0
    assert results["evaluation"]["version"] == 2 and results["evaluation"]["final"] is True
    evaluating.result()
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
        fakes.online_stream(), fakes.replay_stream(), silent, dict, should_stop=never
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


def test_an_agent_that_learns_nothing_is_run_like_any_other(tmp_path):
    agent = fakes.make_agent(AgentConfig("bmg.benchmarks.idle:make", network=fakes.AGENT.network))
    assert run(fakes.make_learner(agent, tmp_path, 3)) is True
    rows = rows_of(tmp_path)
    assert [row["frames"] for row in rows] == [40, 80, 120]
    assert not any(name.startswith("loss") for row in rows for name in row)
