"""Metrics on a disk that is full for a while, after a crash, and under a clock that jumps."""

from __future__ import annotations

import json

import pytest

from learner import metrics
from learner.metrics import MetricsWriter, read_metrics
from tests.learner import fakes
from tests.learner.fakes import results_of, rows_of, run
from tests.learner.test_learner import events_of


def test_a_disk_that_was_full_leaves_a_gap(small_disk):
    """A real one. What is written afterwards can be read, and nothing hangs."""
    writer = MetricsWriter(small_disk, 0)
    writer.write(40, {"a/b": 1.0})
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while file.write(bytes(512)):
            pass
    refused = 0
    many = {f"a/{i}": 1.0 for i in range(2_000)}  # more than what is left of a page
    for frames in range(80, 80 + 40 * 40, 40):
        with pytest.raises(OSError, match="No space left"):
            writer.write(frames, many)
        refused += 1
    assert refused == 40
    filler.unlink()
    writer.write(2_000, {"a/b": 2.0})
    writer.close()
    assert read_metrics(small_disk, "a/b") == [(40, 1.0), (2_000, 2.0)]
    assert len(rows_of(small_disk)) == 2, "no half lines"
    events = events_of(small_disk).Scalars("a/b")
    assert [(event.step, event.value) for event in events] == [(40, 1.0), (2_000, 2.0)]


def test_a_line_that_a_crash_broke_is_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"frames": 40, "a/b": 1.0}\n{"frames": 80, "a/b"')
    writer = MetricsWriter(tmp_path, 40)
    writer.write(120, {"a/b": 3.0})
    writer.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["frames"] for line in lines] == [40, 40, 120]
    assert [line.get("session") for line in lines] == [None, 2, None]


def test_a_clock_that_goes_backwards(agent, tmp_path, monkeypatch):
    """Seconds and rates are of a clock that does not; frames are in order."""
    now = [2e9]

    def backwards() -> float:
        now[0] -= 3_600.0
        return now[0]

    monkeypatch.setattr(metrics.time, "time", backwards)
    assert run(fakes.make_learner(agent, tmp_path, 4, {"checkpoint_interval": 0.0})) is True
    rows = rows_of(tmp_path)
    assert [row["frames"] for row in rows] == [40, 80, 120, 160]
    assert all(row["learner/frames_per_second"] > 0 for row in rows)
    assert rows[0]["time"] > rows[-1]["time"], "the clock did go backwards"
    seconds = [row["learner/wall_seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert 0 < results_of(tmp_path)["wall_seconds"] < 600


def test_the_state_of_the_nodes_is_among_the_metrics(agent, tmp_path):
    run(fakes.make_learner(agent, tmp_path, 1))
    (row,) = rows_of(tmp_path)
    assert {name: row[name] for name in fakes.NODE_METRICS} == fakes.NODE_METRICS
