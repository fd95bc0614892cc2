"""`bmg train` on Catch as a program of its own, watched from outside alone: state files, metrics,
checkpoints, exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import IO

import psutil

from bmg.storage.processes import PROGRAM, child_environment
from bmg.storage.rows import read_rows

PATIENCE = 240.0  # seconds for what works in the end, however busy the machine is
LEAVE = 30.0  # seconds within which a run has to end
_OPTIONS = (
    "train --game catch --frames 2000000000 --learner.log-interval 0.25 "
    "--learner.checkpoint-interval 2 --evaluator.interval 2 --evaluator.episodes 10"
).split()


class Broken(AssertionError):
    """A promise was not kept."""


class Program:
    """`bmg train` in a session of its own."""

    def __init__(
        self,
        workdir: pathlib.Path,
        *options: str,
        prefix: Sequence[str] = (),
        variables: Mapping[str, str] = MappingProxyType({}),
        output: IO | None = None,
    ):
        """Starts it.

        Args:
          workdir: run directory.
          options: beside those of all runs here.
          prefix: a command that executes it, such as nohup.
          variables: of its environment, beside this process's.
          output: where it prints to; None for a file that `output` reads.
        """
        self.workdir = workdir
        self._started = time.time()
        command = [*PROGRAM, *_OPTIONS]
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*prefix, *command, "--workdir", str(workdir), *options],
            stdin=subprocess.DEVNULL, stdout=output or self._output, stderr=subprocess.STDOUT,
            start_new_session=True, env={**child_environment(), **variables},
        )  # fmt: skip
        self._known: set[psutil.Process] = set()

    @property
    def pid(self) -> int:
        """The launcher's."""
        return self._process.pid

    @property
    def output(self) -> str:
        """What it has printed."""
        self._output.seek(0)
        return self._output.read()

    def rows(self) -> list[dict]:
        """The learner's lines of metrics since this program started."""
        path = self.workdir / "metrics.jsonl"
        rows = read_rows(path) if path.exists() else []
        return [r for r in rows if "learner/updates" in r and r["time"] >= self._started]

    @property
    def updates(self) -> int:
        """Of the learner, by the newest line."""
        return int(rows[-1]["learner/updates"]) if (rows := self.rows()) else 0

    @property
    def frames_per_update(self) -> int:
        """Environment frames."""
        row = self.rows()[-1]
        return int(row["learner/frames"] / row["learner/updates"])

    def checkpoints(self) -> list[int]:
        """Updates of each checkpoint."""
        files = (self.workdir / "checkpoints").glob("checkpoint_*.npz")
        return sorted(int(re.findall(r"\d+", path.name)[0]) for path in files)

    def status(self, node: str) -> dict:
        """What a node last said of itself."""
        return json.loads((self.workdir / "nodes" / f"{node}.json").read_text())

    def wait(self, condition: Callable[[], object], what: str) -> float:
        """Seconds until the condition held.

        Raises:
          Broken: it did not in time, or the program ended.
        """
        start = time.monotonic()
        while time.monotonic() - start < PATIENCE:
            ended = self._process.poll() is not None
            with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
                if not ended:
                    self._known |= set(psutil.Process(self.pid).children(recursive=True))
                if condition():
                    return time.monotonic() - start
            if ended:
                raise Broken(f"the run ended before {what}:\n{self.output}")
            time.sleep(0.1)
        raise Broken(f"{what}: not within {PATIENCE:g} s:\n{self.output}")

    def learning(self, checkpoints: int = 1) -> None:
        """Waits until it learns and has written so many checkpoints."""
        self.wait(lambda: len(self.checkpoints()) >= checkpoints, "first checkpoints")
        self.more_updates(2)

    def more_updates(self, number: int) -> float:
        """Seconds until it has made so many updates more."""
        goal = self.updates + number
        return self.wait(lambda: self.updates >= goal, f"{number} more updates")

    def kill(self, node: str, number: int = signal.SIGKILL) -> dict:
        """Sends a node a signal; what it had said of itself."""
        status = self.status(node)
        os.kill(status["pid"], number)
        return status

    def runs_anew(self, node: str, before: dict) -> Callable[[], bool]:
        """A condition: the node is another process than before."""
        return lambda: self.status(node)["pid"] != before["pid"]

    def rejoined(self, node: str, before: dict) -> Callable[[], bool]:
        """A condition: the node is another process than before, and at work: it gave signs of life
        after it said that it runs."""
        path, first = self.workdir / "nodes" / f"{node}.json", []

        def holds() -> bool:
            if self.status(node)["pid"] == before["pid"]:
                return False
            first.append(path.stat().st_mtime_ns)
            return first[-1] != first[0]

        return holds

    def end(self, limit: float = LEAVE) -> tuple[int, float]:
        """(exit code, seconds) once it has ended by itself with all its processes.

        Raises:
          Broken: it, or one of its processes, is still there.
        """
        start = time.monotonic()
        try:
            code = self._process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Broken(f"the run has not ended within {limit:g} s:\n{self.output}") from None
        left = [p.pid for p in self._known if p.is_running() and p.status() != "zombie"]
        if left:
            raise Broken(f"processes {left} were left behind")
        return code, time.monotonic() - start

    def left_alone(self, limit: float = LEAVE) -> float:
        """After the launcher was killed: seconds until the nodes have left.

        Raises:
          Broken: some are still there.
        """
        start = time.monotonic()
        self._process.wait(10)
        while any(p.is_running() and p.status() != "zombie" for p in self._known):
            if time.monotonic() - start > limit:
                raise Broken(f"nodes have not left within {limit:g} s")
            time.sleep(0.1)
        return time.monotonic() - start

    def close(self) -> None:
        """Kills whatever is left."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._known |= set(psutil.Process(self.pid).children(recursive=True))
        for process in self._known:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(30)
        self._output.close()


class Start:
    """Starts programs in one folder, and ends them all."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._programs: list[Program] = []

    def __call__(self, *options: str, workdir: pathlib.Path | None = None, **how) -> Program:
        program = Program(workdir or self.folder / "run", *options, **how)
        self._programs.append(program)
        return program

    def close(self) -> None:
        """Ends what is left."""
        for program in self._programs:
            program.close()
