"""Runs of a sweep as a SLURM array, by submitit: a run that is preempted or out of time is queued
again and goes on from its newest checkpoint."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from bmg.launch import signals
from bmg.launch.runs import is_complete
from bmg.launch.sweeps.declaration import Run
from bmg.launch.sweeps.job import goes_again, log_of, open_log, start
from bmg.storage.files import found_json, write_json

_JOBS = "jobs.json"  # name of a run -> its SLURM job
_SECONDS_TO_PREEMPTION = 120.0


class Job:
    """What a task of the array does."""

    def __init__(self, root: pathlib.Path, run: Run, retries: int):
        self._root, self._run, self._retries = root, run, retries
        self._process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Runs it to its end.

        Raises:
          RuntimeError: it failed, and once more in each retry.
        """
        with open_log(self._root, self._run) as log:
            for tries in range(self._retries, -1, -1):
                self._process = start(self._run, log)
                code = self._process.wait()
                if is_complete(self._run.config):
                    return
                if code == signals.EXIT_CODE:
                    # SLURM has told everyone to end, and soon tells this process to be queued
                    # again, if it is to be; then `checkpoint` is called, and the sleep ends.
                    time.sleep(_SECONDS_TO_PREEMPTION)
                if not goes_again(code) or not tries:
                    where = log_of(self._root, self._run)
                    raise RuntimeError(f"{self._run.name} failed (exit code {code}), see {where}")

    def checkpoint(self):
        """Called in a signal's handler before the task is queued again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._process.pid, signal.SIGTERM)
                # Not `wait`: the main thread, which this handler interrupts, holds its lock.
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}


def queued(root: pathlib.Path) -> dict[str, str]:
    """Runs that wait or run already, name -> job.

    Raises:
      ValueError: there is no SLURM, or it does not answer; one line.
    """
    if shutil.which("sbatch") is None:
        raise ValueError("no sbatch on this machine; --executor slurm needs a SLURM cluster.")
    if not (known := _submitted(root)):
        return {}
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        raise ValueError(f"squeue does not answer: {said}") from None
    there = set(found.stdout.split())
    return {name: job for name, job in known.items() if job in there}


def submit(
    root: pathlib.Path, runs: Sequence[Run], retries: int, parameters: dict[str, Any]
) -> dict[str, str]:
    """Submits them.

    Args:
      root: folder of the runs, which all nodes see.
      runs: what is missing.
      retries: of each, within its job.
      parameters: of submitit's executor, such as timeout_min and slurm_partition.

    Returns:
      Name -> job.

    Raises:
      ValueError: SLURM or submitit refuses; one line.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    root.mkdir(parents=True, exist_ok=True)
    executor = submitit.AutoExecutor(root.resolve() / "jobs", cluster="slurm")
    try:
        executor.update_parameters(**parameters)
        with executor.batch():
            jobs = [executor.submit(Job(root.resolve(), run, retries)) for run in runs]
    except (FailedJobError, FailedSubmissionError, NameError, TypeError, ValueError) as error:
        raise ValueError(f"SLURM: {' '.join(str(error).split())}") from None
    found = {run.name: job.job_id for run, job in zip(runs, jobs)}
    write_json(root / _JOBS, {**_submitted(root), **found})
    return found


def _submitted(root: pathlib.Path) -> dict[str, str]:
    """Runs that were submitted at any time, name -> job."""
    return found_json(root / _JOBS)
