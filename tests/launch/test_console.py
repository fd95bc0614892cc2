"""The console of a run whose metrics.jsonl is replaced, removed or no such file."""

from __future__ import annotations

import itertools
import json
import math
import os
import pathlib

import pytest

from bmg.launch import console
from bmg.launch.console import RunConsole, closing_lines, progress_line
from bmg.learner.metrics import MetricsWriter
from tests.launch.test_cli import ROW
from tests.tables import named


def text_of(*frames: int) -> str:
    """Lines of the learner at those frames."""
    rows = [{**ROW, "frames": at, "learner/frames": at} for at in frames]
    return "".join(json.dumps(row) + "\n" for row in rows)


def session(frames: int, number: int) -> str:
    """The line of a session that goes on from there."""
    return json.dumps({"frames": frames, "session": number}) + "\n"


def replace(path: pathlib.Path, text: str) -> None:
    """As a learner does that abandons rows: under another name first."""
    path.with_name("new").write_text(text)
    os.replace(path.with_name("new"), path)


RESULTS = {
    "frames": 20_000, "wall_seconds": 300.0, "training_return": 1.25, "evaluation_return": 2_000.4,
    "human_normalized_score": 0.275,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "seeds", "lines"),
    [
        (
            {}, ["runs/it"],
            ["complete: 20,000 frames in 5 min | training 1.25 | evaluation 2,000 (28 % human)",
             "runs/it/results.json | bmg plot runs/it | "
             "bmg evaluate --workdir runs/it --video play.gif"],
        ),
        (
            {"human_normalized_score": None}, ["my runs/seed-0", "my runs/seed-1"],
            ["complete: 20,000 frames x 2 seeds in 5 min | training 1.25 | evaluation 2,000",
             "my runs/results.json | bmg plot 'my runs' | "
             "bmg evaluate --workdir 'my runs/seed-0' --video play.gif"],
        ),
        (
            dict.fromkeys(["training_return", "evaluation_return", "human_normalized_score"]),
            ["it"],
            ["complete: 20,000 frames in 5 min",
             "it/results.json | bmg plot it | bmg evaluate --workdir it --video play.gif"],
        ),
    ],
)  # fmt: skip
def test_a_complete_run_says_what_came_of_it_and_what_can_be_done_with_it(changes, seeds, lines):
    assert closing_lines(RESULTS | changes, list(map(pathlib.Path, seeds))).splitlines() == lines


def last_line(shown: RunConsole, capsys) -> str:
    """What stays on screen."""
    shown.close()
    return capsys.readouterr().out.strip()


KEPT = [
    "",
    text_of(10_000),
    # Longer than before, so that its size tells nothing.
    text_of(*range(10_000, 100_000, 10_000)),
    text_of(90_000) + session(80_000, 2) + text_of(85_000),
]


def test_a_file_that_is_replaced_is_read_from_its_newest_session(tmp_path, capsys):
    """Whether somebody looked in between, or everything happened between two looks."""
    for number, (looks, kept) in enumerate(itertools.product([False, True], KEPT)):
        with named(looks, kept):
            path = tmp_path / str(number) / "metrics.jsonl"
            path.parent.mkdir()
            path.write_text(text_of(10_000, 20_000, 150_000))
            shown = RunConsole(path.parent, 200_000)
            replace(path, kept + session(10_000, 3))
            if looks:
                shown.refresh()
                assert shown._latest == {}
            with open(path, "a") as file:
                file.write(text_of(20_000, 30_000))
            assert last_line(shown, capsys).startswith("30,000 of 200,000 frames")


@pytest.mark.parametrize("looks", [False, True])
def test_nothing_of_an_abandoned_stretch_is_shown(tmp_path, capsys, looks):
    """The real writer: it moves rows away, then has nothing to say for a while."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(text_of(10_000, 20_000, 150_000) + '{"frames": 160000, "learner/fr')
    shown = RunConsole(tmp_path, 200_000)
    writer = MetricsWriter(tmp_path, 10_000, tensorboard=False)
    if looks:
        shown.refresh()
    assert shown._latest == {}
    writer.write(10_000, {"evaluation/return": 1.0})
    shown.refresh()
    assert shown._latest.keys() == {"frames", "time", "evaluation/return"}
    writer.write(20_000, {**ROW, "learner/frames": 20_000})
    writer.close()
    assert last_line(shown, capsys).startswith("20,000 of 200,000 frames")


def test_a_line_that_was_cut_is_no_reason_to_show_the_others(tmp_path, capsys):
    """On a full disk the writer cuts a broken line, and cannot say that a session starts."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(text_of(10_000) + "half a line")
    shown = RunConsole(tmp_path, 200_000)
    path.write_text(text_of(10_000))
    shown.refresh()
    assert last_line(shown, capsys) == ""


def test_a_file_that_is_removed_and_made_again(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(tmp_path, 0, tensorboard=False, notify=lambda line: None)
    writer.write(10_000, ROW)
    shown = RunConsole(tmp_path, 200_000)
    for frames in (20_000, 30_000):
        path.unlink()
        shown.refresh()
        writer.write(frames, {**ROW, "learner/frames": frames})
        shown.refresh()
        assert shown._latest["learner/frames"] == frames
    writer.close()
    assert last_line(shown, capsys).startswith("30,000 of 200,000 frames")


def test_a_file_that_cannot_be_read(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").mkdir()
    shown = RunConsole(tmp_path, 200_000)
    shown.refresh()
    assert last_line(shown, capsys) == ""


def test_lines_that_are_no_rows_are_skipped(tmp_path, capsys):
    shown = RunConsole(tmp_path, 200_000)
    junk = b'5\n[]\nnull\n\xff\xfe\n{"frames": "1"}\n' + b"[" * 100_000 + b"\n"
    (tmp_path / "metrics.jsonl").write_bytes(junk + text_of(30_000).encode() + junk)
    shown.refresh()
    assert last_line(shown, capsys).startswith("30,000 of 200,000 frames")


LIVE_LINES = [
    (
        {"learner/frames": 100, "learner/frames_per_second": 50.0},
        "100 of 200 frames (50 %) | 50 frames/s | 2 s left",
    ),
    (
        {"learner/frames": -1e300, "learner/frames_per_second": 0, "evaluation/return": 1.0},
        "0 of 200 frames (0 %) | 0 frames/s | evaluation 1.00 | 55555555 h 33 min left",
    ),
    (
        {"learner/frames": 10**300, "learner/frames_per_second": 1, "policy_lag/mean": 1},
        "200 of 200 frames (100 %) | 1 frames/s | lag 1.0 | last evaluation",
    ),
    (
        {"learner/frames": 100, "learner/frames_per_second": 50.0, "nodes/remote_actors": 3.0},
        "100 of 200 frames (50 %) | 50 frames/s | actors elsewhere 3 | 2 s left",
    ),
]


def test_the_live_line_of_whatever_is_there():
    for row, line in LIVE_LINES:
        with named(line):
            assert progress_line(row, 200, 1.0) == line


@pytest.mark.parametrize(("seeds", "several"), [(1, ""), (3, " x 3 seeds")])
def test_a_plain_line_of_lifetimes(capsys, seeds, several):
    with console.StepsConsole(2_000, seeds, "run", "meta-updates") as shown:
        shown.update(10)
        shown._printed = -math.inf  # the last line was long ago
        shown.update(1_000)
    assert f"run: 1,000 of 2,000 meta-updates{several} | " in capsys.readouterr().out
