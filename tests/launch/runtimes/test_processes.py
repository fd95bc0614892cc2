"""The processes of a run, as far as no process is needed."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal

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


def test_a_node_that_is_gone_at_once_has_failed(tmp_path, monkeypatch):
    """As after a signal to all processes while they start: there is nothing to be read of it."""
    from bmg.launch.runtimes.processes import watch

    class Gone(watch._Wrapper):
        def __init__(self, process):
            super().__init__(process)
            if self.node == "actor_0":
                process.kill()
                process.wait()
                process.environ()

    monkeypatch.setattr(watch, "_Wrapper", Gone)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    (tmp_path / "logs").mkdir()
    config = dataclasses.replace(PRESETS["local"]("catch"), workdir=str(tmp_path))
    spec = make_spec(config.game, config.atari, config.game_options)
    processes = watch.Processes(config, spec, False, False, print)
    try:
        assert processes.poll() == "failed" and processes.failed == ["actor_0"]
        after = {number: signal.getsignal(number) for number in before}
        assert after == before, "Launchpad leaves them alone"
    finally:
        processes.kill()
