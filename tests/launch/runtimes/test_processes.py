"""The processes of a run, as far as no process is needed."""

from __future__ import annotations

import dataclasses
import errno
import os

import pytest

from bmg.environments.factory import make_spec
from bmg.launch.presets import PRESETS

pytestmark = pytest.mark.launchpad


def test_a_disk_that_is_full_at_the_start_is_no_fault_of_the_nodes(tmp_path, monkeypatch):
    from launchpad.launch import serialization

    from bmg.launch.runtimes.processes.watch import Processes

    def dump(functions, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(serialization.cloudpickle, "dump", dump)
    (tmp_path / "logs").mkdir()
    config = dataclasses.replace(PRESETS["local"]("catch"), workdir=str(tmp_path))
    spec = make_spec(config.game, config.atari, config.game_options)
    with pytest.raises(OSError, match="No space left") as caught:
        Processes(config, spec, False, False, print)
    assert caught.value.filename == str(tmp_path / "jobs")
    assert not (tmp_path / "jobs").exists()
