"""Real programs on Catch, broken in every way that takes seconds: what is promised is kept."""

from __future__ import annotations

import math
import os
import signal

import pytest

from bmg.benchmarks import faults
from tests.launch.commands import environment, started

# A fault waits for several things one after the other, each for `PATIENCE` at most.
pytestmark = [pytest.mark.slow, pytest.mark.launchpad, pytest.mark.timeout(900)]

# `bmg benchmark faults` tries the others as well.
QUICK = [
    "actor-killed", "learner-killed-restarts", "replay-killed", "launcher-killed", "hung-up",
    "reader-gone", "checkpoint-bit-flipped", "disk-full", "disk-stays-full",
    "disk-stays-full-threads",
]  # fmt: skip


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    """Of the programs: as `commands.environment` says."""
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", QUICK)
def test_a_promise_is_kept(name):
    row = faults.try_fault(name)
    if row["happened"].startswith("not tried"):
        pytest.skip(row["happened"])
    assert row["kept"], row["happened"]
    assert math.isfinite(row["recovery_seconds"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_benchmark_that_is_ended_ends_what_it_started(tmp_path, number):
    """Also where it is killed, and cannot do anything about it."""
    command = "benchmark faults --only actor-killed".split()
    # A killed one leaves its temporary folder.
    with started(*command, cwd=tmp_path, variables={"TMPDIR": str(tmp_path)}) as run:
        run.wait_for(lambda: len(run.children) >= 6)  # the launcher and its nodes
        run.process.send_signal(number)
        run.wait_for_the_end_of_all()
        assert run.process.returncode == (130 if number == signal.SIGTERM else -number)


def test_a_broken_promise_is_told(monkeypatch):
    def breaks(start):
        raise faults.Broken("nothing happened")

    monkeypatch.setitem(faults.FAULTS, "actor-killed", ("goes on", breaks))
    (row,) = faults.measure(faults.Config(only=("actor-killed",)))
    assert row["kept"] is False and row["happened"] == "nothing happened"


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="actor-killed"):
        list(faults.measure(faults.Config(only=("actor-kill",))))
