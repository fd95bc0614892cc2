"""What a benchmark shows while it measures, before its table."""

from __future__ import annotations

import subprocess
from unittest import mock

import pytest

from bmg.benchmarks import hosts, in_graph, inference, layers, pipeline, runtimes, system
from bmg.benchmarks.progress import turns

ROWS = [
    {"layers": "dqn", "frames": 1234, "ms": 5.678, "none": None, "note": "many words " * 20},
    {"layers": "resnet", "frames": 2, "ms": 1.0, "none": None, "note": ""},
]
LINE = "dqn, frames 1,234, ms 5.68, many words many words "


def test_each_row_is_shown_before_the_next_one_is_measured(command, monkeypatch):
    def measure(config):
        yield ROWS[0]
        print("measures the next one")
        yield ROWS[1]

    monkeypatch.setattr(layers, "measure", measure)
    code, out, err = command("benchmark", "layers")
    first, between, second, *table = out.splitlines()
    assert code == 0 and err == "" and first.startswith(LINE) and len(first) <= 100
    assert between == "measures the next one" and second == "resnet, frames 2, ms 1"
    assert "layers" in table[1] and "dqn" in table[3]
    assert command("--quiet", "benchmark", "layers") == (0, "", "")


def test_rows_that_come_together_are_shown_in_the_table_alone(command, monkeypatch):
    monkeypatch.setattr(layers, "measure", lambda config: ROWS)
    code, out, _ = command("benchmark", "layers")
    assert code == 0 and LINE not in out and out.count("dqn") == 1


def test_turns_are_counted(capsys):
    for _ in turns(2):
        print("a turn")
    assert capsys.readouterr().out == "a turn\nturn 1 of 2\na turn\nturn 2 of 2\n"


NAMES = "frames_per_second updates_per_second first_update_seconds peak_bytes occupancy"
MEASURED = dict.fromkeys(NAMES.split(), 2000.0)


@pytest.mark.parametrize(
    "benchmark, lines",
    [
        (hosts, {"run 1 of 2, alone", "run 2 of 2, alone"}),  # its rows come one after another
        (in_graph, {"bmg, local-threads", "bmg, in-graph", "impala, in-graph, 8 seeds"}),
        (inference, {"actor", "server", "server, one split"}),
        (pipeline, {"pipeline"}),
        (runtimes, {"launchpad", "local-threads"}),
    ],
)
def test_each_run_is_shown(benchmark, lines, monkeypatch, capsys):
    """The program is not run here."""
    monkeypatch.setattr(subprocess, "Popen", mock.MagicMock())
    monkeypatch.setattr(system, "_watch", lambda *_: MEASURED)
    monkeypatch.setattr(pipeline, "bare_environment", lambda seconds: 1.0)
    assert list(benchmark.measure(benchmark.Config(quick=True)))
    assert {f"{line}: 2,000 frames/s" for line in lines} <= set(capsys.readouterr().out.split("\n"))
