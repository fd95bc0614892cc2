"""One run of a sweep as a process of its own: begun, or gone on with where it was begun before."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
from typing import IO

from bmg.launch import signals
from bmg.launch.options import BAD_INPUT
from bmg.launch.sweeps.declaration import Run
from bmg.storage.processes import PROGRAM, child_environment
from bmg.storage.run_directory import config_file


def start(run: Run, log: IO[bytes], cores: set[int] | None = None) -> subprocess.Popen:
    """Starts it; it ends when this process does.

    Args:
      run: which.
      log: what it prints goes there.
      cores: it runs on these alone; None for any.
    """
    again = ["--resume"] if config_file(run.config.path).exists() else []

    def prepare():
        # SLURM sends this one, which is for its job's own process, to all that there are.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        if cores:
            os.sched_setaffinity(0, cores)

    # In a session of its own: Ctrl-C reaches this process, which tells it.
    return subprocess.Popen(
        [*PROGRAM, *run.arguments, *again], stdin=subprocess.DEVNULL, stdout=log,
        stderr=subprocess.STDOUT, env=child_environment(), start_new_session=True,
        preexec_fn=prepare,
    )  # fmt: skip


def goes_again(code: int) -> bool:
    """Whether a run that ended with this code is worth another try."""
    return code not in (0, BAD_INPUT, signals.EXIT_CODE)


def log_of(root: pathlib.Path, run: Run) -> pathlib.Path:
    """What it prints."""
    return root / "logs" / f"{run.name.replace('/', '-')}.log"


def open_log(root: pathlib.Path, run: Run) -> IO[bytes]:
    """To go on with it."""
    path = log_of(root, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")
