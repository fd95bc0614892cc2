"""An experiment that the package does not know has everything that its own have."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import re
import shutil
import types

import numpy as np
import pytest

from bmg.experiments.records import read_csv
from bmg.launch import cli, experiment
from tests.examples.loading import load
from tests.launch.commands import json_of

quadratic = load("quadratic")
NAME = quadratic.EXPERIMENT.command


def best_rate(inner_steps: int) -> float:
    """The minimum of the closed form: c (1 - rate c)^(2 K), on a grid."""
    rates, c = np.linspace(0.0, 1.5, 1501), quadratic.CURVATURES.astype(np.float64)
    losses = [np.mean(c * (1 - rate * c) ** (2 * inner_steps)) for rate in rates]
    return rates[np.argmin(losses)]


def test_it_costs_at_most_sixty_lines_beside_its_algorithm():
    text = pathlib.Path(quadratic.__file__).read_text()
    begin, algorithm, rest = (
        text.index(words) for words in ("from __future__", "# The algorithm.", "# What makes an")
    )
    lines = (text[begin:algorithm] + text[rest:]).splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 60


def test_a_run_and_a_longer_one(command, tmp_path):
    code, out, _ = command(NAME, "--steps", 100, "--seeds", 3, "--workdir", "run")
    assert code == 0
    result = json_of(tmp_path / "run" / "results.json")
    assert result == json.loads(out[out.index("{") :])
    assert (result["steps"], result["counted"], result["complete"]) == (100, "meta-batches", True)
    steps, columns = read_csv(tmp_path / "run" / "results.csv")
    np.testing.assert_array_equal(steps, np.arange(10, 101, 10))
    assert columns["rate"].shape == (3, 10) and len(set(columns["loss"][:, 0])) == 3
    assert command(NAME, "--resume", "--workdir", "run", "--steps", 600)[0] == 0
    assert command(NAME, "--steps", 600, "--seeds", 3, "--workdir", "whole")[0] == 0
    longer, whole = (tmp_path / name / "results.csv" for name in ("run", "whole"))
    assert longer.read_bytes() == whole.read_bytes()
    found = read_csv(whole)[1]["rate"][:, -1]
    np.testing.assert_allclose(found, best_rate(2), atol=0.04)


def test_what_it_counts_has_its_name(command, tmp_path, monkeypatch):
    """In console, results and errors."""
    from bmg.launch import console
    from bmg.storage import checkpoint

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    # A clock by which every chunk takes long: each is a line.
    clock = itertools.count(0.0, 100.0)
    monkeypatch.setattr(console, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", full)
        code, out, err = command(NAME, "--steps", 200, "--seeds", 2, "--workdir", "run")
    assert code == 1 and "the checkpoint of 200 meta-batches" in err
    found = re.findall(r"run: ([\d,]+) of 200 meta-batches x 2 seeds \| [\d,]+ meta-batches/s", out)
    assert found and found[-1] == "200"
    assert "environment steps" not in out + err
    _, out, _ = command(NAME, "--resume", "--workdir", "run", "--steps", 300)
    assert "no checkpoint in run: the run begins at 0 meta-batches again" in out


def test_all_its_methods_and_their_figure(command, tmp_path, pictures, monkeypatch):
    for name in ("XLA_FLAGS", "JAX_PLATFORMS", "BMG_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    code, out, _ = command(NAME, "all", "--seeds", 2, "--steps", 600)
    assert code == 0
    assert "XLA_FLAGS" in os.environ and "environment:" not in out, "the run's own, not the user's"
    folder = tmp_path / "runs" / "quadratic"
    before = {path: path.read_bytes() for path in folder.glob("*/results.*")}
    assert {path.parent.name for path in before} == {"k1", "k2"} and len(before) == 4
    assert command(NAME, "all", "--seeds", 2, "--steps", 600)[0] == 0
    assert before == {path: path.read_bytes() for path in before}, "complete ones are left alone"
    code, out, _ = command(NAME, "figures")
    assert code == 0 and "runs/quadratic/figures/rates.png" in out
    rates = {row[0]: float(row[1]) for row in re.findall(r"(k\d) +│ +([\d.]+)", out)}
    assert rates == {f"k{k}": pytest.approx(best_rate(k), abs=0.04) for k in (1, 2)}
    (panel,) = pictures["rates.png"]
    assert set(panel.lines) == {"k1", "k2"}
    assert "no runs in nowhere" in command.refused(NAME, "figures", "--root", "nowhere")
    # One that cannot be read does not keep the others from being drawn.
    for broken, text in (("config.json", "[]"), ("results.csv", "seed,step\n")):
        shutil.copytree(folder / "k2", folder / "copy", dirs_exist_ok=True)
        (folder / "copy" / broken).write_text(text)
        code, out, _ = command(NAME, "figures")
        (line,) = (line for line in out.splitlines() if "left out" in line)
        assert code == 0 and line.startswith(f"runs/quadratic/copy/{broken}") and "rates.png" in out
    for name in ("k1", "k2"):
        shutil.rmtree(folder / name)
    assert "copy/results.csv is no table" in command.refused(NAME, "figures")


def test_it_has_no_command_that_it_does_not_declare(command):
    assert "'variance' belongs to no option" in command.refused(NAME, "variance")
    assert "--inner-steps is 0" in command.refused(NAME, "--inner-steps", 0)
    code, out, _ = command(NAME, "--help")
    assert code == 0 and f"bmg {NAME} all" in out and f"bmg {NAME} variance" not in out
    assert "--inner-steps" in out


def test_what_is_no_experiment_is_one_line(command):
    for name, words in [
        ("nothing.of.that.kind:EXPERIMENT", "cannot be imported: No module named 'nothing'"),
        ("quadratic:NOTHING", "cannot be imported: module"),
        ("bmg.meta.core:unroll", "is a function; give an Experiment"),
        ("bmg.experiments.mrp:EXPERIMENT.config", "is not of the form package.module:name"),
        *((x, "is not of the form") for x in (":", "a:", ":b", "..:x", ".a:b", "a b:c", "\0:x")),
    ]:
        assert words in command.refused(name, "--steps", 5), name


def test_the_packages_own_are_found_by_their_commands():
    """Each declaration's command is the word that it is found by."""
    found = {
        word: experiment.find(target)
        for word, (target, _) in cli._COMMANDS.items()
        if ":" in target
    }
    assert found.keys() == {"two-colors", "mrp", "snake", "few-shot", "lpg"}
    for word, declaration in found.items():
        assert declaration.command == word
        offered = declaration.functions
        wanted = {
            "make_lifetime": True, "summarise": True, "suite": declaration.suite is not None,
            "draw": declaration.figures is not None,
            "make_estimate": declaration.variance is not None,
        }  # fmt: skip
        assert {name: hasattr(offered, name) for name in wanted} == wanted
