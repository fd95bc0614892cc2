"""The program as Launchpad starts it: processes, or threads of one process for debugging.

Launchpad restarts nothing, so the processes it started are watched here: actors and evaluators that
die are started again with the command and the environment of the old ones, and anything else that
dies ends the run.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO

import absl.flags
import launchpad as lp
import psutil
from launchpad.launch import worker_manager

from bmg.environments.base import EnvironmentSpec
from bmg.launch.config import TrainConfig
from bmg.launch.remote.entrance import open_gate
from bmg.launch.remote.secret import keep
from bmg.launch.runtimes.board import ADDRESS, Board
from bmg.launch.runtimes.processes.program import LEAVE_SECONDS, local_resources, make_program
from bmg.launch.runtimes.restarts import Restarts
from bmg.launch.runtimes.status import (
    ACTOR,
    EVALUATOR,
    GATE,
    acting_nodes,
    failed_nodes,
    is_finished,
    log_file,
    node_names,
    process_of,
)

_ARGUMENTS_SECONDS = 5.0  # within which a process has its arguments
_LONGEST_LOOK = 5.0  # seconds between looks, beyond which the launcher was suspended itself


class Processes:
    """A running Launchpad program, watched by what its nodes say and by their processes."""

    def __init__(
        self,
        config: TrainConfig,
        spec: EnvironmentSpec,
        resume: bool,
        central_inference: bool,
        notify: Callable[[str], None],
    ):
        """Starts all processes (or threads), see `make_program`; `notify` takes lines for the
        console."""
        self.failed: list[str] = []
        self._config, self._notify = config, notify
        self._restarts = Restarts(config.node_restarts)
        self._pulses = {name: _Pulse() for name in acting_nodes(config)}
        if not absl.flags.FLAGS.is_parsed():
            absl.flags.FLAGS(["bmg"])
        secret = keep(config.path) if config.gate_port else None
        before = set(psutil.Process().children())
        self.board, os.environ[ADDRESS] = Board.share(node_names(config))
        self._jobs = config.path / "jobs"
        with (
            _output_to(log_file(config.path, "launch"), config.launch == "local_mp"),
            _temporary_files_in(self._jobs),
        ):
            program, servers = make_program(config, spec, resume, central_inference)
            _keep_signals()
            try:
                self._manager = lp.launch(
                    program,
                    launch_type=config.launch,
                    local_resources=local_resources(config),
                    terminal="current_terminal",
                )
            except RuntimeError as error:
                # Launchpad blames a node where a file cannot be written, as on a full disk.
                if not isinstance(cause := error.__cause__, OSError):
                    raise
                shutil.rmtree(self._jobs, ignore_errors=True)
                cause.filename = cause.filename or str(self._jobs)
                raise cause from None
        started = set(psutil.Process().children()) - before
        try:
            self._wrappers = _wrappers_of(started)
            if config.launch == "local_mp":
                self.failed = [
                    name
                    for name in node_names(config)
                    if name != GATE and name not in self._wrappers
                ]
            self._gate = secret and open_gate(config, *secret, servers, self.board, notify)
        except BaseException:  # Launchpad would wait for them when this process ends
            _end_processes(started, 0.0)
            raise

    def poll(self) -> str:
        """running, finished or failed."""
        statuses = self.board.statuses()
        if is_finished(statuses):
            return "finished"
        if self._config.launch != "local_mp":
            self.failed = failed_nodes(statuses)
            return "failed" if self.failed else "running"
        for name, wrapper in self._wrappers.items():
            if name not in self._restarts.waiting:
                self._look_at(name, wrapper, statuses.get(name, {}))
        if self.failed:
            return "failed"
        for name in self._restarts.due():
            self._pulses[name] = _Pulse()
            self._wrappers[name].start(log_file(self._config.path, "launch"))
        return "running"

    def stop(self) -> bool:
        """Asks every node to leave, waits, and kills what is left; True, all have left."""
        if self._gate:
            self._gate.close(is_finished(self.board.statuses()))
        if self._config.launch == "local_mp":
            _end_processes(self._processes(), LEAVE_SECONDS + 2)
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                self._manager.stop_and_wait()
        shutil.rmtree(self._jobs, ignore_errors=True)
        return True

    def kill(self) -> None:
        """Ends every node at once."""
        if self._config.launch == "local_mp":
            _end_processes(self._processes(), 0.0)
        shutil.rmtree(self._jobs, ignore_errors=True)

    def _processes(self) -> set[psutil.Process]:
        nodes = map(process_of, self.board.statuses().values())
        wrappers = (wrapper.process for wrapper in self._wrappers.values())
        return {process for process in (*nodes, *wrappers) if process is not None}

    def _look_at(self, name: str, wrapper: _Wrapper, status: dict) -> None:
        state, alive = status.get("state"), wrapper.alive()
        if name not in self._pulses:  # learner or replay server
            if not alive or state in ("failed", "stalled"):
                self.failed.append(name)
        elif state == "stalled":
            self.failed.append(name)
        elif not alive:
            self._died(name, status)
        elif state == "failed" and process_of(status):  # it has said its last word
            wrapper.kill()
        elif self._silent(name):
            seconds = self._config.silence_timeout
            self._notify(f"{name} gave no sign of life for {seconds:g} s and is killed")
            wrapper.kill()

    def _died(self, name: str, status: dict) -> None:
        if status and (left := process_of(status)):  # of a script that was killed in its stead
            left.kill()
        reason = status.get("message", "") if status.get("state") == "failed" else ""
        if not self._jobs.exists():  # what a node is started from
            reason = f"{self._config.path} is gone"
        if not self._restarts.died(name):
            self.failed.append(name)
        self._notify(self._restarts.describe(name, reason))

    def _silent(self, name: str) -> bool:
        seconds = self._pulses[name].silent(self.board.beats(name))
        return seconds >= self._config.silence_timeout


class _Pulse:
    """How long a node has given no sign of life, in time in which the launcher itself ran."""

    def __init__(self):
        self._beats, self._seconds, self._last = -1, 0.0, time.monotonic()

    def silent(self, beats: int) -> float:
        """Seconds without a change of the number of signs."""
        now = time.monotonic()
        self._seconds += min(now - self._last, _LONGEST_LOOK)
        self._last = now
        if beats != self._beats:
            self._beats, self._seconds = beats, 0.0
        return self._seconds


class _Wrapper:
    """Launchpad's script around a node's process; it ends with the node."""

    def __init__(self, process: psutil.Process):
        self.process = process
        # A process that has just been started may not have its arguments yet.
        deadline = time.monotonic() + _ARGUMENTS_SECONDS
        while not (command := process.cmdline()) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._command, self._environment = command, process.environ()

    @property
    def node(self) -> str:
        """Whose it is: the script's second argument is `group/index`."""
        group, index = self._command[3].split("/")
        return f"{group}_{index}" if group in (ACTOR, EVALUATOR) else group

    def alive(self) -> bool:
        """Whether the node's process runs."""
        try:
            return self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def start(self, log: pathlib.Path) -> None:
        """Starts the node, which died, once more."""
        self.process.wait(5.0)
        with _appending(log) as output:
            self.process = psutil.Popen(
                self._command, env=self._environment, stdout=output, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        """Kills the node at once."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self.process.children(recursive=True):
                child.kill()


def _wrappers_of(started: set[psutil.Process]) -> dict[str, _Wrapper]:
    """By their nodes' names; without those that have ended already."""
    found = {}
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            wrapper = _Wrapper(process)
            found[wrapper.node] = wrapper
    return found


def _keep_signals() -> None:
    """Has Launchpad leave to this process the signals that `launch.signals` answers. Its own answer
    looks at processes that the same signal may have ended, and fails then."""
    if worker_manager._SIGNAL_HANDLERS is None:
        ours = {number: set() for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        worker_manager._SIGNAL_HANDLERS = ours
        for number in (signal.SIGQUIT, signal.SIGALRM):  # by which it ends what does not leave
            worker_manager._register_signal_dispatcher(number)


def _appending(log: pathlib.Path) -> IO[bytes]:
    """A log to append to, or nowhere to where it cannot be opened: its folder is gone."""
    try:
        return open(log, "ab")
    except OSError:
        return open(os.devnull, "wb")


@contextlib.contextmanager
def _temporary_files_in(folder: pathlib.Path):
    """Launchpad hands its nodes over in temporary files, which must last as long as nodes may start
    again. They go into the run directory, where the next start finds what a kill has left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(folder.resolve())
    try:
        yield
    finally:
        tempfile.tempdir = before


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


def _end_processes(processes: set[psutil.Process], leave_seconds: float) -> None:
    """Terminates nodes and their wrappers; waits for them, and kills what is left."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            # A wrapper ignores the signal; its node may not have said yet that it is there.
            for one in [process, *process.children()]:
                one.terminate()
    _, left = psutil.wait_procs(list(processes), timeout=leave_seconds)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in process.children(recursive=True):
                child.kill()
            process.kill()
    psutil.wait_procs(left, timeout=5)
