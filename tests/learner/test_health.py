"""A meta-learner that stands still is spoken of once, and one that moves is not."""

from __future__ import annotations

import pytest

from learner.health import MetaLearnerWatch


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
