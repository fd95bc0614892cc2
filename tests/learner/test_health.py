"""A meta-learner that stands still is spoken of once, and one that moves is not."""

from __future__ import annotations

import dataclasses

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bmg.learner import health
from bmg.learner.health import MetaLearnerWatch
from tests.learner import fakes


def lines(rows) -> list[str]:
    """What is said of rows of (updates, share of whole steps, largest move)."""
    watch = MetaLearnerWatch()
    found = [watch.look(n, {"meta/step_share": x, "meta/update_size": y}) for n, x, y in rows]
    return [line for line in found if line]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(n, 1e-4, 1e-7) for n in range(0, 5_000, 100)], ["hardly moved for 1,000", "0.01 %"]),
        ([(n, 0.3, 0.0) for n in range(0, 5_000, 100)], ["did not change in float32", "1,000"]),
        ([(0, 1e-4, 1e-7), (4_000, 1e-4, 1e-7)], ["for 4,000 updates"]),
    ],
)
def test_it_is_said_once_after_a_thousand_updates(rows, words):
    (line,) = lines(rows)
    assert all(word in line for word in [*words, "--agent.meta.matching-reduction sum"])


@pytest.mark.parametrize(
    "rows",
    [
        [(n, 0.02, 1e-5) for n in range(0, 9_000, 100)],
        [(n, 1e-4, 1e-7) for n in range(0, 1_000, 100)],  # not for long enough
        [(n, 0.5 if n % 900 == 0 else 1e-4, 1e-6) for n in range(0, 9_000, 100)],
    ],
)
def test_of_what_moves_now_and_then_nothing_is_said(rows):
    assert lines(rows) == []


def test_an_agent_without_meta_parameters_has_nothing_to_watch():
    watch = MetaLearnerWatch()
    assert [watch.look(n, {"learner/updates": n}) for n in (0, 9_000)] == ["", ""]


def test_a_run_tells_it_in_the_console_and_in_tensorboard(tmp_path, monkeypatch):
    """Adam's epsilon is a million times the meta-gradient."""
    meta = dataclasses.replace(fakes.AGENT.meta, epsilon=1e6)
    agent = fakes.make_agent(dataclasses.replace(fakes.AGENT, meta=meta))
    monkeypatch.setattr(health, "_FROZEN_UPDATES", 3)
    said = []
    assert fakes.run(fakes.make_learner(agent, tmp_path, 8, notify=said.append))
    (line,) = [line for line in said if "meta-parameters" in line]
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0})
    (text,) = events.Reload().Tensors("meta/warning")
    assert text.tensor_proto.string_val == [line.encode()]
    rows = fakes.rows_of(tmp_path)
    assert text.step in [row["frames"] for row in rows[1:-1]]
