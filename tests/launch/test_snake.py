"""`bmg snake` and what it shares with `bmg mrp`: runs, suites, measuring, figures, refusals."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest

from bmg.experiments.multistep import estimators
from bmg.experiments.records import read_csv
from bmg.experiments.runner import Runner
from bmg.launch import signals
from tests.launch.commands import json_of

SMALL = (
    "--environments 3 --rollout-length 4 --channels 2 2 --features 4 --head-hidden 4 "
    "--record-every 24"
).split()
STEPS = 12  # environment steps of an update

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation", "kept_programs")]


def test_a_run_its_files_and_what_is_refused(command, tmp_path):
    code, out, _ = command("snake", *SMALL, "--steps", 8 * STEPS, "--workdir", "run", "--seeds", 2)
    assert code == 0 and '"final_return_mean"' in out
    results = json_of(tmp_path / "run" / "results.json")
    assert results["complete"] and results["steps"] == 8 * STEPS and results["seeds"] == 2
    assert (results["objective"], results["inner_steps"]) == ("n-step", 3)
    steps, columns = read_csv(tmp_path / "run" / "results.csv")
    np.testing.assert_array_equal(steps, [24, 48, 72, 96])
    for name in ("discount", "trace_decay", "critic_weight", "entropy_weight"):
        assert columns[name].shape == (2, 4)
        assert np.all(np.diff(columns[name]) != 0), "it is learned"
    for arguments, words in (
        ("--workdir run", ["run holds a run already; give --resume"]),
        # The step size falls to 0 over the run.
        ("--workdir run --resume --steps 960", ["steps = 96", "not 960"]),
        ("--workdir run --resume --objective bmg", ["objective = 'n-step'", "not 'bmg'"]),
    ):
        line = command.refused("snake", *arguments.split())
        assert all(word in line for word in words), line


def test_every_objective_runs_and_is_drawn(command, tmp_path, pictures):
    """`all` of the reward process, which is quicker; going on leaves what is there."""
    suite = (
        "--steps 640 --seeds 1 --root runs --n-step --mixed 2 --bmg 1 --mixed-bmg".split()
    )  # fmt: skip
    code, _, _ = command("mrp", "all", *suite)
    assert code == 0
    names = {path.parent.name for path in (tmp_path / "runs").glob("*/results.csv")}
    assert names == {"fixed", "mixed-2", "bmg-1"}
    table = tmp_path / "runs" / "bmg-1" / "results.csv"
    before = {path: path.read_bytes() for path in (tmp_path / "runs").glob("*/results.*")}
    assert command("mrp", "all", *suite)[0] == 0
    assert before == {path: path.read_bytes() for path in before} and table in before
    measured = (
        "--steps 4000 --points 2 --draws 2 --estimates 2 --seeds 1 --oracle 2 --n-step 1 --mixed 2 "
        "--bmg --mixed-bmg --workdir measured"
    ).split()
    assert command("mrp", "variance", *measured)[0] == 0
    lines = (tmp_path / "measured" / "estimates.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3 * 10  # points, kinds, states
    code, out, _ = command(
        "mrp", "figures", "--root", "runs", "--variance", "measured", "--output", "docs"
    )
    assert code == 0 and "2-mix" in out and "odd discounts" in out
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"figure_4.png", "figure_5.png"}
    pictures.assert_full("figure_4.png", "figure_5.png")
    line = command.refused("mrp", "figures", "--root", "nowhere")
    assert "no runs in nowhere" in line


def test_a_stopped_measurement_goes_on_as_if_nothing_had_been(command, tmp_path, monkeypatch):
    """Asked to stop between two points; ended while one is measured, as what takes too long is."""
    options = (
        "mrp variance --steps 12000 --points 2 --draws 2 --estimates 2 --seeds 1 --oracle 0 "
        "--n-step 1 --mixed --bmg --mixed-bmg"
    ).split()
    assert command(*options, "--workdir", "whole")[0] == 0
    advance, measure = Runner.advance, estimators.measure
    asked, calls = threading.Event(), {"advance": 0, "measure": 0}

    @contextlib.contextmanager
    def orderly(limit, at_once):
        asked.clear()
        yield asked

    class Ended(BaseException):
        pass

    def advance_and_stop(runner):
        calls["advance"] += 1
        advance(runner)
        if calls["advance"] == 4:
            asked.set()

    def measure_and_end(*arguments):
        calls["measure"] += 1
        if calls["measure"] == 2:
            raise Ended
        measure(*arguments)

    # Chunks of 1,920 steps: the fourth ends at 7,680; points are at 3,000 and 9,000 or after.
    monkeypatch.setattr(signals, "orderly", orderly)
    monkeypatch.setattr(Runner, "advance", advance_and_stop)
    monkeypatch.setattr(estimators, "measure", measure_and_end)
    code, out, _ = command(*options, "--workdir", "parts")
    assert code == 130 and "go on with: bmg mrp variance --workdir parts --resume" in out
    assert calls == {"advance": 4, "measure": 1}
    with pytest.raises(Ended):
        command("mrp", "variance", "--workdir", "parts", "--resume")
    assert calls == {"advance": 5, "measure": 2}
    assert command("mrp", "variance", "--workdir", "parts", "--resume")[0] == 0
    parts, whole = (tmp_path / name / "estimates.csv" for name in ("parts", "whole"))
    assert parts.read_bytes() == whole.read_bytes()
    assert {line.split(",")[1] for line in whole.read_text().splitlines()[1:]} == {"3840", "9600"}


def test_table_1_and_figure_3(command, tmp_path, pictures):
    options = ("--objective", "fixed", "--steps", 4 * STEPS, "--workdir", "runs/fixed")
    assert command("snake", *SMALL, *options)[0] == 0
    measured = "--points 1 --draws 2 --n-step 1 --mixed --bmg --mixed-bmg".split()
    options = (*SMALL, *measured, "--steps", 2 * STEPS, "--workdir", "measured")
    assert command("snake", "variance", *options)[0] == 0
    code, out, _ = command(
        "snake", "figures", "--root", "runs", "--variance", "measured", "--output", "docs"
    )
    assert code == 0
    assert "final return" in out and "n = 1" in out and "signal to noise" in out
    assert (tmp_path / "docs" / "figure_3.png").exists()
    pictures.assert_full("figure_3.png")
