"""`bmg few-shot`: a run, its curves, going on, evaluation, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bmg.experiments.few_shot import experiment
from bmg.experiments.records import read_csv
from tests.launch.commands import environment, files, json_of
from tests.waiting import DEADLINE

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation", "kept_programs")]
SMALL = (
    "few-shot --objective maml --inner-steps 1 --ways 2 --shots 1 --queries 1 --meta-batch 2 "
    "--filters 2 --seeds 2 --record-every 2 --evaluate-every 4 --evaluation-tasks 6 "
    "--evaluation-steps 2"
).split()


def curves(workdir, seed: int) -> dict[str, list[tuple[int, float]]]:
    """Scalars as TensorBoard reads them."""
    found = EventAccumulator(str(workdir / "tensorboard" / f"seed-{seed}"))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_a_run_its_curves_going_on_and_evaluation(command, monkeypatch, tmp_path):
    assert command(*SMALL, "--workdir", "run", "--steps", 8)[0] == 0
    code, _, _ = command("few-shot", "--resume", "--workdir", "run", "--steps", 12)
    assert code == 0
    assert command(*SMALL, "--workdir", "whole", "--steps", 12)[0] == 0
    (steps, resumed), (_, whole) = (
        read_csv(tmp_path / name / "results.csv") for name in ("run", "whole")
    )
    np.testing.assert_array_equal(steps, [2, 4, 6, 8, 10, 12])
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)
    for seed in range(2):
        drawn = curves(tmp_path / "run", seed)
        assert [step for step, _ in drawn["query_accuracy"]] == [2, 4, 6, 8, 10, 12]
        assert [step for step, _ in drawn["test_accuracy"]] == [4, 8, 12]
        found = [value for _, value in drawn["test_accuracy"]]
        np.testing.assert_allclose(found, 2 * whole["test_accuracy"][seed, 1::2], rtol=1e-4)
        assert "evaluations" not in drawn

    results = json_of(tmp_path / "run" / "results.json")
    options = "few-shot evaluate --workdir run --tasks 6 --steps 2".split()
    read, load = [], experiment.load
    monkeypatch.setattr(experiment, "load", lambda config: read.append(config) or load(config))
    code, out, _ = command(*options)
    assert code == 0 and len(read) == 1
    rows = [line.split() for line in out.splitlines() if "±" in line]
    assert len(rows) == 2 and "2 seeds:" in out
    # The tasks are those of the run's own evaluations.
    mean = np.mean([float(row[5]) for row in rows])
    np.testing.assert_allclose(mean, 100 * results["test_accuracy_mean"], atol=0.01)
    code, out, _ = command(*options, "--initialisation", "last", "--classes", "train")
    assert code == 0 and out.count(" 12 ") == 2
    line = command.refused(*options, "--shots", "20")
    assert "20 shots and 5 queries" in line


INTERRUPTED = """
import os, signal, sys, time
from bmg.launch import cli

def fsync(descriptor):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

os.fsync = fsync
cli.main()
"""


def test_ctrl_c_while_images_are_kept_leaves_none(tmp_path):
    options = "few-shot --shots 1 --queries 1 --evaluation-queries 1 --data.images-per-class 2"
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *options.split(), "--data.cache", "cache"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert list((tmp_path / "cache").iterdir()) == [] and not (tmp_path / "runs").exists()


def test_what_is_refused_leaves_nothing_behind(command, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    before = files(tmp_path)
    for arguments, words in (
        ("--inner-steps 0", ["inner", "0"]),
        ("--shots 16", ["16 shots and 5 queries", "train split", "20 images"]),
        ("--ways 115", ["115 classes", "validation split", "114"]),
        ("--data.source folder", ["--data.path"]),
        ("--data.source folder --data.path empty", ["empty"]),
        ("--data.source mini-imagenet --data.path nowhere", ["nowhere"]),
    ):
        line = command.refused("few-shot", "--workdir", "run", *arguments.split())
        assert all(word in line for word in words), line
        assert files(tmp_path) == before, arguments
    line = command.refused("few-shot", "evaluate", "--workdir", "run")
    assert "no run in run" in line


def test_a_run_that_was_not_evaluated_has_no_best_initialisation(command):
    assert command(*SMALL, "--workdir", "run", "--steps", 2)[0] == 0
    line = command.refused("few-shot", "evaluate", "--workdir", "run")
    assert "no evaluation of seed 0 in run yet; give --initialisation last" in line
