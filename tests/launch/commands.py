"""The command: in processes of its own, with deadlines, or in the test's."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import psutil
import pytest

from bmg.launch import cli, preflight, train
from bmg.launch.preflight import look_at_devices
from tests.waiting import DEADLINE

ROOT = pathlib.Path(__file__).resolve().parents[2]
BMG = [
    sys.executable,
    "-c",
    "from bmg.launch.cli import main; main()",
]  # what the `bmg` script does


def environment(optimized: bool = False) -> dict[str, str]:
    """As a user has it, without the devices that tests/conftest.py forces; but where the program is
    not to be optimized, the compiler's costly passes are left out and it starts sooner."""
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return env if optimized else {**env, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


class Run:
    """A running command."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.children: set[psutil.Process] = set()

    def watch(self) -> None:
        """Remembers the descendants that there are now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.children |= set(psutil.Process(self.process.pid).children(recursive=True))

    def wait_for(self, condition, timeout: float = DEADLINE):
        """Waits until condition() is true, and returns it; the run must not end before."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.watch()
            result = condition()
            if result:
                return result
            if self.process.poll() is not None:
                out, err = self.process.communicate(timeout=DEADLINE)
                raise AssertionError(f"ended with {self.process.returncode}:\n{out}\n{err}")
            time.sleep(0.1)
        raise AssertionError(f"not within {timeout} s")

    def finish(self, timeout: float = DEADLINE) -> tuple[int, str, str]:
        """(exit code, stdout, stderr), once it ended by itself."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < deadline:
            self.watch()
            time.sleep(0.2)
        out, err = self.process.communicate(timeout=max(deadline - time.monotonic(), 10.0))
        return self.process.returncode, out, err

    def kill(self) -> None:
        """It and all its descendants, at once."""
        self.watch()
        for child in self.children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def wait_for_the_end_of_all(self, timeout: float = DEADLINE) -> None:
        """Waits until the command, which was killed, and all its descendants are gone."""
        self.process.wait(timeout)
        deadline = time.monotonic() + timeout
        while self.left():
            assert time.monotonic() < deadline, f"{self.left()} are left after {timeout} s"
            time.sleep(0.1)

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends SIGINT to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def left(self) -> list[str]:
        """Descendants that are still there."""
        return [str(child) for child in self.children if alive(child)]


def alive(process: psutil.Process) -> bool:
    """Whether that very process (not another of its number) runs."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def started_as(
    command: Sequence[str], cwd: pathlib.Path, variables: Mapping[str, str]
) -> Iterator[Run]:
    """A program in a session of its own, with an environment of these variables alone; whatever is
    left of it at the end is killed."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    run = Run(process)
    try:
        yield run
    finally:
        run.kill()
        process.communicate(timeout=DEADLINE)


def ends_of(*runs: Run) -> list[tuple[int, str, str]]:
    """What `finish` says of each, of runs that end together: where one fails, the others, which may
    wait for it for long, are ended as well."""
    deadline = time.monotonic() + DEADLINE
    while any(run.process.poll() is None for run in runs) and time.monotonic() < deadline:
        for run in runs:
            run.watch()
        if any(run.process.poll() for run in runs):  # a code that is not 0
            deadline = min(deadline, time.monotonic() + 60.0)
        time.sleep(0.2)
    for run in runs:
        if run.process.poll() is None:
            run.kill()
    return [run.finish() for run in runs]


def started(
    *arguments: str,
    cwd: pathlib.Path,
    optimized: bool = False,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> contextlib.AbstractContextManager[Run]:
    """`bmg` in a session of its own; whatever is left of it at the end is killed."""
    command = [*BMG, *map(str, arguments)]
    return started_as(command, cwd, {**environment(optimized), **variables})


def bmg(
    *arguments: str, cwd: pathlib.Path, timeout: float = DEADLINE, **how
) -> tuple[int, str, str]:
    """Runs `bmg` to its end; asserts that no process is left. (exit code, stdout, stderr)."""
    with started(*arguments, cwd=cwd, **how) as run:
        result = run.finish(timeout)
        assert run.left() == []
    return result


def nodes_of(workdir: pathlib.Path) -> dict[str, dict]:
    """What each node last said of itself."""
    return {path.stem: json.loads(path.read_text()) for path in (workdir / "nodes").glob("*.json")}


def rows_of(workdir: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl so far."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def learner_rows(workdir: pathlib.Path) -> list[dict]:
    """Those of the learner."""
    return [row for row in rows_of(workdir) if "learner/frames" in row]


def json_of(path: pathlib.Path):
    """A JSON file's value."""
    return json.loads(path.read_text())


def checkpoints_of(workdir: pathlib.Path) -> list[str]:
    """Names of the checkpoints, oldest first."""
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


class Command:
    """Runs `bmg` in this process, without the step that starts processes."""

    def __init__(self, monkeypatch, capsys, folder: pathlib.Path):
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.launched: list[tuple] = []
        self.move(folder)
        self.devices = 1  # of the machine that it is run on, CPUs
        monkeypatch.setattr(preflight, "look_at_devices", self._look_at_devices)
        monkeypatch.setattr(train, "supervise", self._supervise)
        # It would execute the test's process again.
        monkeypatch.setattr(train, "isolate", lambda config: "")

    def move(self, folder: pathlib.Path) -> None:
        """Runs in that folder from now on, which is made."""
        folder.mkdir(exist_ok=True)
        self._monkeypatch.chdir(folder)
        self.folder = folder

    def _supervise(self, config, plan, resume, open_network, whole="") -> int:
        self.launched.append((config, plan, resume))
        return 0

    def _look_at_devices(self, platform: str) -> tuple[str, int]:
        return look_at_devices(platform) if platform else ("cpu", self.devices)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        with pytest.raises(SystemExit) as caught:  # --help
            raise SystemExit(cli.run([*map(str, arguments)]))
        out, err = self._capsys.readouterr()
        return caught.value.code or 0, out, err

    def refused(self, *arguments: str) -> str:
        """The one line of an error; nothing was started or written."""
        before = files(self.folder)
        code, out, err = self(*arguments)
        assert code == 2 and self.launched == []
        lines = (out + err).splitlines()
        assert len(lines) == 1 and lines[0].startswith("bmg: "), out + err
        assert files(self.folder) == before
        return lines[0]

    def config(self, *arguments: str):
        """The configuration that a run would be started with."""
        assert self(*arguments)[0] == 0
        return self.launched[-1][0]


def files(folder: pathlib.Path) -> dict[str, bytes | None]:
    """Everything in a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
