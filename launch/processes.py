"""The program as Launchpad starts it: processes, or threads of one process for debugging."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import sys

import absl.flags
import launchpad as lp
import psutil

from environments.base import EnvironmentSpec
from launch.config import TrainConfig
from launch.program import LEAVE_SECONDS, local_resources, make_program
from launch.status import failed_nodes, is_finished, log_file, read_statuses


class Processes:
    """A running Launchpad program, watched by its nodes' state files."""

    def __init__(self, config: TrainConfig, spec: EnvironmentSpec, resume: bool):
        """Starts all processes (or threads)."""
        self.failed: list[str] = []
        self._config = config
        if not absl.flags.FLAGS.is_parsed():
            absl.flags.FLAGS(["bmg"])
        before = set(psutil.Process().children())
        with _output_to(log_file(config.path, "launch"), config.launch == "local_mp"):
            self._manager = lp.launch(
                make_program(config, spec, resume),
                launch_type=config.launch,
                local_resources=local_resources(config),
                terminal="current_terminal",
            )
        self._wrappers = set(psutil.Process().children()) - before

    def poll(self) -> str:
        """running, finished or failed."""
        statuses = read_statuses(self._config)
        if is_finished(statuses):
            return "finished"
        self.failed = failed_nodes(statuses)
        if self.failed:
            return "failed"
        if self._config.launch == "local_mp":
            dead = [
                name
                for name, status in statuses.items()
                if status["state"] == "running" and not _alive(status["pid"])
            ]
            if dead or any(not _alive(wrapper.pid) for wrapper in self._wrappers):
                self.failed = dead
                return "failed"
        return "running"

    def stop(self) -> bool:
        """Asks every node to leave, waits, and kills what is left; True, all have left."""
        if self._config.launch == "local_mp":
            _end_processes(
                [status["pid"] for status in read_statuses(self._config).values()],
                [wrapper.pid for wrapper in self._wrappers],
                LEAVE_SECONDS + 5,
            )
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                self._manager.stop_and_wait()
        return True


@contextlib.contextmanager
def _output_to(path: pathlib.Path, redirect: bool):
    """Sends this process's output, and that of the processes it starts, to a file meanwhile."""
    if not redirect:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in (file, *saved):
            os.close(descriptor)


def _end_processes(nodes: list[int], wrappers: list[int], leave_seconds: float) -> None:
    """Terminates the nodes; waits for them and their wrappers, and kills what is left."""
    processes = []
    for pid in {*nodes, *wrappers}:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            # A wrapper ignores the signal; its node may not have said yet that it is there.
            for one in [process, *process.children()]:
                one.terminate()
    _, left = psutil.wait_procs(processes, timeout=leave_seconds)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in process.children(recursive=True):
                child.kill()
            process.kill()
    psutil.wait_procs(left, timeout=5)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
