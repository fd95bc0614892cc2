"""A directory belongs to one process at a time; what killed ones left in it is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from bmg.storage.files import owned, remove_leftovers, whole_file
from tests.waiting import DEADLINE


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
        "import pathlib, sys, time; from bmg.storage.files import owned\n"
        "with owned(pathlib.Path(sys.argv[1])): print('mine', flush=True); time.sleep(600)"
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
        process.communicate(timeout=DEADLINE)
    with owned(tmp_path):
        pass


def test_what_a_killed_process_left_is_removed(tmp_path):
    """And nothing else, whatever it is called."""
    path = tmp_path / "checkpoints" / "checkpoint_0000000001.npz"
    path.parent.mkdir()
    others = ["notes.tmp", "a.npz.x1.tmp", "1.tmp", "results.json", "a.1.tmp.gz"]
    for name in others:
        (path.parent / name).touch()
    (path.parent / "folder.1.tmp").mkdir()
    (path.parent / "link.1.tmp").symlink_to(path.parent / "results.json")
    before = set(path.parent.iterdir())
    code = (
        "import pathlib, sys, time; from bmg.storage.files import whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(bytes(9999)); print('half', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "half\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=DEADLINE)
    (left,) = set(path.parent.iterdir()) - before
    assert left.name.startswith(path.name) and not path.exists()
    remove_leftovers(path.parent)
    assert set(path.parent.iterdir()) == before
    with whole_file(path) as file:
        file.write(b"whole")
    remove_leftovers(path.parent)
    remove_leftovers(path.parent, tmp_path / "missing")
    assert path.read_bytes() == b"whole"


def test_an_error_has_the_name_that_the_user_knows(tmp_path):
    with pytest.raises(OSError) as caught, whole_file(tmp_path / "missing" / "results.json"):
        pass
    assert caught.value.filename == str(tmp_path / "missing" / "results.json")


def test_a_lock_of_any_bytes_is_a_lock(tmp_path):
    (tmp_path / "lock").write_bytes(b"\xff\xfe")
    with owned(tmp_path):
        (tmp_path / "lock").write_bytes(b"\xff\xfe")
        with pytest.raises(ValueError, match="in use"), owned(tmp_path):
            pass
