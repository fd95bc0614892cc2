"""A directory belongs to one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from storage.files import owned


def test_a_second_owner_is_told_who_the_first_is(tmp_path):
    directory = tmp_path / "runs" / "run"
    with owned(directory):
        with pytest.raises(ValueError, match="in use") as caught, owned(directory):
            pass
        text = str(caught.value)
        assert str(directory) in text and str(os.getpid()) in text and "\n" not in text
        with owned(tmp_path / "runs" / "other"):
            pass
    with owned(directory):
        pass


def test_a_killed_owner_owns_nothing(tmp_path):
    code = (
        "import pathlib, sys, time; from storage.files import owned\n"
        "with owned(pathlib.Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(ValueError, match=f"process {process.pid}"), owned(tmp_path):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    with owned(tmp_path):
        pass
