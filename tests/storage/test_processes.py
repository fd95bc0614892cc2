"""Processes by name: the same one, whatever the clock does, and never a later one of its number."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from bmg.storage import processes
from bmg.storage.processes import is_running, name_of, stamp
from tests.tables import named


def test_a_process_runs_until_it_has_ended():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        name = name_of(child.pid)
        assert is_running(name) and name != name_of(os.getpid())
        assert name == name_of(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not is_running(name), "a zombie runs no more"
    assert not is_running(name) and stamp(child.pid) is None


def test_another_process_of_the_same_number_is_another():
    pid, _, began = name_of(os.getpid()).partition("/")
    assert is_running(f"{pid}/{began}")
    assert not is_running(f"{pid}/{began}0")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the clock of Linux is meant")
def test_a_step_of_the_clock_changes_nothing(monkeypatch):
    name = name_of(os.getpid())
    monkeypatch.setattr(psutil, "boot_time", lambda: time.time() - 3_600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() + 3_600)
    assert is_running(name)


X = ["", "/", "x/y", "5", "-1/x", "9" * 30 + "/x", "²/x", "1/None"]


def test_what_is_no_name_runs_not():
    for name in X:
        with named(name):
            assert not is_running(name)


def test_a_child_knows_whom_it_must_not_outlive():
    before = dict(os.environ)
    mine = {processes.PARENT: name_of(os.getpid())}
    assert processes.child_environment() == {**before, **mine}
    assert os.environ == before
