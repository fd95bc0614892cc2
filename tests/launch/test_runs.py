"""`bmg runs`: what it says of runs of each kind and in each state, from real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from tests.launch import commands
from tests.launch.test_cli import ROW, save_run


def table(command, *arguments) -> dict[str, list[str]]:
    """run -> the other cells of its line."""
    code, out, err = command("runs", *arguments)
    assert code == 0 and err == "", err
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if cells and cells[0]}


def leave(folder, frames, complete=None, state="", **row):
    """A run of 2 M frames that is so far."""
    save_run(folder, frames=2_000_000, seed=3)
    rows = [ROW, {**ROW, "frames": frames, "learner/frames": frames, **row}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
    if complete is not None:
        (folder / "results.json").write_text(json.dumps({"complete": complete, "frames": frames}))
    if state:
        (folder / "nodes").mkdir(exist_ok=True)
        (folder / "nodes" / "learner.json").write_text(json.dumps({"state": state}))


def test_runs_in_every_state(command, tmp_path):
    root = tmp_path / "runs"
    returns = {"training/return": 1.5, "evaluation/return": -2.25}
    leave(root / "complete", 2_000_000, True, "finished", **returns)
    leave(root / "deep" / "stopped", 1_175_360, False, "stopped")
    leave(root / "failed", 999, False, "failed")
    leave(root / "longer", 1_000_000, True)  # complete once, and then given more frames
    leave(root / "young", 60_000)
    two_hours_ago = time.time() - 7_200
    for path in [*(root / "young").iterdir()]:
        os.utime(path, (two_hours_ago, two_hours_ago))
    (root / "no-run").mkdir()
    found = table(command, "runs")
    assert list(found) == ["complete", "deep/stopped", "failed", "longer", "young"]
    what = "catch bmg"
    assert found["complete"][:6] == [what, "3", "2M of 2M", "1.5", "-2.25", "complete"]
    assert found["deep/stopped"][:6] == [what, "3", "1.18M of 2M", "", "", "stopped"]
    assert found["failed"][2] == "999 of 2M" and found["failed"][5] == "failed"
    assert found["longer"][5] == found["young"][5] == "stopped"
    assert found["young"][6] == "2 h 00 min"
    assert table(command, "--folder", "runs/deep") == {"stopped": found["deep/stopped"]}
    assert table(command, "runs/deep/stopped") == {"stopped": found["deep/stopped"]}


def test_a_run_that_runs(command, tmp_path):
    """Another process has its lock; to look takes nothing away from it."""
    leave(tmp_path / "run", 1_000_000, False)
    program = (
        "import pathlib, sys\nfrom bmg.storage.files import owned\n"
        "with owned(pathlib.Path('run')):\n  print('ready', flush=True)\n  sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=commands.environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        assert table(command, "run")["run"][5] == "running"
        process.stdin.close()
        process.wait()
    assert table(command, "run")["run"][5] == "stopped"


def test_seeds_of_one_program_and_experiments(command, tmp_path):
    save_run(tmp_path / "several", frames=2_000_000, seeds=2, runtime="in-graph")
    for seed, value in ((0, 1.0), (1, 4.0)):
        folder = tmp_path / "several" / f"seed-{seed}"
        leave(folder, 500_000, **{"training/return": value})
    experiment = tmp_path / "experiment"
    experiment.mkdir()
    config = {"method": "bmg", "first_seed": 4, "seeds": 3, "steps": 20_000}
    (experiment / "config.json").write_text(json.dumps(config))
    (experiment / "results.json").write_text(json.dumps({"complete": True, "steps": 20_000}))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    found = table(command, ".")
    assert list(found) == ["broken", "experiment", "several"]
    assert found["several"][:5] == ["catch bmg", "0-1", "500k of 2M", "2.5", ""]
    assert found["experiment"][:6] == ["bmg", "4-6", "20k of 20k", "", "", "complete"]
    assert found["broken"][:6] == ["", "", "", "", "", "stopped"]


def test_meta_training_of_a_rule_is_no_agent_and_counts_no_frames(command, tmp_path):
    (tmp_path / "rule").mkdir()
    config = {"objective": "a2c", "rule": {"prediction": "distribution"}, "steps": 20, "seeds": 1}
    (tmp_path / "rule/config.json").write_text(json.dumps({**config, "first_seed": 0}))
    results = {"complete": True, "steps": 20, "counted": "meta-updates"}
    (tmp_path / "rule/results.json").write_text(json.dumps(results))
    found = table(command, ".")
    assert found["rule"][:3] == ["lpg, a2c", "0", "20 of 20 meta-updates"]


def test_the_age_is_that_of_what_the_run_wrote(command, tmp_path):
    """What is made of a run later, in its folder, is no sign of life; a checkpoint is one."""
    leave(tmp_path / "run", 1_000, False, "stopped")
    (tmp_path / "run" / "checkpoints").mkdir()
    hours_ago = time.time() - 7_200
    for path in (tmp_path / "run").rglob("*"):
        os.utime(path, (hours_ago, hours_ago))
    (tmp_path / "run/evaluation.json").write_text("{}")
    (tmp_path / "run/videos").mkdir()
    assert table(command, "run")["run"][6] == "2 h 00 min"
    (tmp_path / "run/checkpoints/1.npz").write_bytes(b"")
    assert table(command, "run")["run"][6] == "0 s"


@pytest.mark.parametrize("arguments", [["nowhere"], ["--folder", "nowhere"], []])
def test_no_runs_are_one_line(command, arguments):
    assert "give a folder of run directories" in command.refused("runs", *arguments)
