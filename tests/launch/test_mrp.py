"""`bmg mrp`: a run, its files, going on, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from bmg.experiments.records import read_csv
from tests.launch.commands import json_of

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation", "kept_programs")]
SMALL = "mrp --seeds 2 --inner-steps 2 --estimates 2 --batch-size 4 --record-every 400".split()
STEPS = 40  # environment steps of an update: four episodes of ten


def test_a_run_its_files_and_going_on(command, tmp_path):
    code, out, _ = command(*SMALL, "--workdir", "run", "--steps", 20 * STEPS)
    assert code == 0 and '"discounts"' in out
    results = json_of(tmp_path / "run" / "results.json")
    assert results["complete"] and results["steps"] == 20 * STEPS and results["seeds"] == 2
    assert results["objective"] == "n-step" and results["inner_steps"] == 2
    steps, columns = read_csv(tmp_path / "run" / "results.csv")
    np.testing.assert_array_equal(steps, [400, 800])
    assert columns["value_error"].shape == (2, 2)
    last = [columns[f"discount_{i}"][:, -1].mean() for i in range(10)]
    np.testing.assert_allclose(results["discounts"], last, rtol=1e-4)
    assert len(set(last)) == 10, "every state has a discount of its own"

    code, _, _ = command("mrp", "--resume", "--workdir", "run", "--steps", 60 * STEPS)
    assert code == 0
    more, further = read_csv(tmp_path / "run" / "results.csv")
    assert more[-1] >= 60 * STEPS
    for name, values in columns.items():
        np.testing.assert_allclose(further[name][:, :2], values)


def test_what_is_refused_leaves_everything_as_it_was(command, tmp_path):
    assert command(*SMALL, "--workdir", "run", "--steps", STEPS)[0] == 0
    for arguments, words in (
        ("--accumulative-trace 1 --objective bmg", ["--accumulative-trace", "n-step and mixed"]),
        ("--workdir run", ["run holds a run already; give --resume"]),
        ("--workdir run --resume --inner-steps 3", ["inner_steps = 2", "not 3"]),
        ("--workdir nowhere --resume", ["no run to resume in nowhere"]),
    ):
        line = command.refused("mrp", "--seeds", 2, *arguments.split())
        assert all(word in line for word in words), line
