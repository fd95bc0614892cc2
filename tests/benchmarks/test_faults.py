"""Real programs on Catch, broken in every way that takes seconds: what is promised is kept."""

from __future__ import annotations

import os

import pytest

from benchmarks import faults
from tests.launch.commands import environment

pytestmark = [pytest.mark.slow, pytest.mark.launchpad]

# `bmg benchmark faults` tries the others as well.
QUICK = [
    "actor-killed", "learner-killed-restarts", "replay-killed", "launcher-killed",
    "checkpoint-truncated", "disk-full",
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
    assert 0 <= row["recovery_seconds"] < 60
    assert row["frames_lost"] >= 0


def test_a_broken_promise_is_told(monkeypatch):
    def breaks(start):
        raise faults.Broken("nothing happened")

    monkeypatch.setitem(faults.FAULTS, "actor-killed", ("goes on", breaks))
    (row,) = faults.measure(faults.Config(only=("actor-killed",)))
    assert row["kept"] is False and row["happened"] == "nothing happened"


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="actor-killed"):
        list(faults.measure(faults.Config(only=("actor-kill",))))
