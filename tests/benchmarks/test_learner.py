"""`bmg benchmark learner`: which updates are measured, and what is told of them."""

from __future__ import annotations

import csv
import math

import pytest

from bmg.agents.config import NetworkConfig
from bmg.benchmarks import learner
from bmg.benchmarks.learner import Case, Config

pytestmark = pytest.mark.usefixtures("quick_compilation")
ASKED = {
    "algorithm", "network", "K", "L", "seconds", "flops", "peak_bytes", "time_over_impala",
    "flops_over_impala", "differentiation",
}  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """Networks and frames that compile in seconds."""
    tiny = NetworkConfig(torso="mlp", features=8, head_hidden=())
    monkeypatch.setattr(learner, "NETWORKS", {"1x": tiny, "2x": tiny})
    monkeypatch.setattr(learner, "FRAMES", {"light": (6, 6, 1)})
    monkeypatch.setattr(learner, "_LENGTH", 3)
    monkeypatch.setattr(learner, "product_rate", lambda precision: 1e9)


def test_every_horizon_is_measured():
    chosen = learner.cases(Config())
    assert len(set(chosen)) == len(chosen)
    mixed = {case[:3] for case in chosen if case.differentiation == "mixed"}
    assert mixed == {
        ("stacx", 1, 0), ("stacx", 2, 0), ("stacx", 4, 0), ("stacx", 8, 0),
        ("bmg", 1, 1), ("bmg", 2, 1), ("bmg", 4, 1), ("bmg", 8, 1),
        ("bmg", 1, 2), ("bmg", 1, 4), ("bmg", 1, 8),
    }  # fmt: skip
    plain = {case[:3] for case in chosen if case.differentiation == "plain"}
    assert plain == {("stacx", 1, 0), ("stacx", 2, 0), ("bmg", 1, 1), ("bmg", 2, 1)}


@pytest.mark.heavy
def test_the_rows(small, tmp_path, pictures):
    """Each as it is done, in the file too; more steps are more work."""
    config = Config(networks=("1x",), horizons=(2,), plain=(), seconds=0.01, output=str(tmp_path))
    rows = []
    for row in learner.measure(config):
        rows.append(row)
        with open(tmp_path / "learner.csv", newline="") as file:
            assert [list(r.values()) for r in csv.DictReader(file)] == [
                [str(value) for value in r.values()] for r in rows
            ]
    assert [tuple(row[name] for name in Case._fields) for row in rows] == [
        learner.IMPALA, *learner.cases(config)
    ]  # fmt: skip
    assert all(ASKED <= set(row) for row in rows)
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 for row in rows)
    work = {(row["algorithm"], row["K"], row["L"]): row["flops_over_impala"] for row in rows}
    assert work["impala", 1, 0] == 1
    assert 2 < work["stacx", 2, 0] < work["bmg", 2, 1] and 2 < work["bmg", 1, 2]
    for row in rows:
        assert math.isclose(row["share_of_product_rate"], row["flops"] / row["seconds"] / 1e9)
    assert (tmp_path / "learner.png").exists()
    pictures.assert_full("learner.png")


def instant(case, network, frame):
    """Updates that take no time, except that BMG's with more than one step do not fit in memory."""
    if case.algorithm == "bmg" and case.K > 1:
        raise learner.jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    return learner.Update(lambda: 0.5, 1e9, 10**6, 1.0)


def test_quick_is_the_smallest_network_with_one_step(small, monkeypatch):
    monkeypatch.setattr(learner, "compile_update", instant)
    rows = list(learner.measure(Config(quick=True)))
    assert [(row["network"], row["algorithm"], row["K"], row["L"]) for row in rows] == [
        ("1x", "impala", 1, 0), ("1x", "stacx", 1, 0), ("1x", "bmg", 1, 1)
    ]  # fmt: skip
    assert [row["time_over_impala"] for row in rows] == [1, 1, 1]


def test_what_does_not_fit_is_told_and_left_out(small, monkeypatch, capsys):
    monkeypatch.setattr(learner, "compile_update", instant)
    config = Config(networks=("1x", "2x"), horizons=(2,), plain=(), seconds=0.0)
    rows = list(learner.measure(config))
    assert [(row["network"], row["algorithm"], row["K"], row["L"]) for row in rows] == [
        (network, *case)
        for network in ("1x", "2x")
        for case in (("impala", 1, 0), ("stacx", 2, 0), ("bmg", 1, 2))
    ]
    told = capsys.readouterr().out
    assert told.count("out of memory") == 2 and "1x" in told and "2x" in told


def test_the_figure_has_a_column_for_each_network_and_a_curve_for_each_rule(tmp_path, pictures):
    rows = [
        {
            **case._asdict(), "network": network, "time_over_impala": 2.0 * case.K + case.L,
            "peak_bytes": 1e9 * case.K,
        }
        for network in ("1x", "2x")
        for case in [learner.IMPALA, *learner.cases(Config(plain=(2,)))]
    ]  # fmt: skip
    learner.draw(rows, tmp_path / "learner.png")
    time_1x, time_2x, memory_1x, _ = pictures["learner.png"]
    assert (time_1x.title, time_2x.title) == ("1x", "2x")
    curves = {label: points.tolist() for label, points in time_1x.lines.items()}
    assert curves["STACX, H = K"] == [[1, 2], [2, 4], [4, 8], [8, 16]]
    assert curves["BMG, H = L, K = 1"] == [[1, 3], [2, 4], [4, 6], [8, 10]]
    assert curves["BMG, H = K, L = 1, reverse over reverse"] == [[2, 5]]
    memory = {label: points.tolist() for label, points in memory_1x.lines.items()}
    assert memory["BMG, H = K, L = 1"] == [[1, 1], [2, 2], [4, 4], [8, 8]]
