"""Runs of a sweep on this machine, several at the same time, each with cores of its own."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple

from bmg.launch import signals
from bmg.launch.console import duration
from bmg.launch.runs import is_complete
from bmg.launch.sweeps.declaration import Run
from bmg.launch.sweeps.job import goes_again, log_of, open_log, start
from bmg.storage.run_directory import config_file

_LOOK = 0.2  # seconds between looks at the processes


class _Started(NamedTuple):
    """A process, and what belongs to it."""

    run: Run
    process: subprocess.Popen
    log: IO[bytes]
    slot: int
    tries: int  # that are left after this one
    begin: float  # time.monotonic


def slots_of(parallel: int, cores: int) -> list[set[int] | None]:
    """The cores of each run that may go on at the same time; None where there are too few, or the
    system pins nothing."""
    if not hasattr(os, "sched_getaffinity"):
        return [None] * parallel
    there = sorted(os.sched_getaffinity(0))
    cores = cores or len(there) // parallel
    if not cores or cores * parallel > len(there):
        return [None] * parallel
    return [set(there[i * cores : (i + 1) * cores]) for i in range(parallel)]


def run_all(
    root: pathlib.Path,
    runs: Sequence[Run],
    slots: Sequence[set[int] | None],
    retries: int,
    at_once: Callable[[], None],
) -> tuple[list[str], bool]:
    """Runs them, one after the other in each slot.

    Args:
      root: folder of the runs.
      runs: what is missing.
      slots: cores of each that runs at the same time; None for any.
      retries: of each.
      at_once: called before this process is ended by a second signal.

    Returns:
      Names of those that failed; whether it was stopped before it was through.
    """
    waiting = [(run, retries) for run in reversed(runs)]  # the next one last
    free = list(reversed(range(len(slots))))
    started: list[_Started] = []
    failed: list[str] = []
    done, told = 0, False
    with signals.orderly(at_once=at_once) as asked:
        try:
            while started or (waiting and not asked.is_set()):
                while free and waiting and not asked.is_set():
                    run, tries = waiting.pop()
                    started.append(_start(root, run, tries, free.pop(), slots))
                    print(f"{run.name}: starts", flush=True)
                if asked.is_set() and not told:
                    told = True
                    print("stopping: each run writes a checkpoint", flush=True)
                    for each in started:
                        each.process.send_signal(signal.SIGTERM)
                for each in [x for x in started if x.process.poll() is not None]:
                    started.remove(each)
                    free.append(each.slot)
                    each.log.close()
                    code, name = each.process.returncode, each.run.name
                    took = duration(time.monotonic() - each.begin)
                    if is_complete(each.run.config):
                        done += 1
                        print(f"{name}: complete after {took} ({done} of {len(runs)})", flush=True)
                    elif asked.is_set():
                        began = config_file(each.run.config.path).exists()
                        print(f"{name}: {'stopped' if began else 'not begun'}", flush=True)
                    elif each.tries and goes_again(code):
                        left = f"{each.tries} tries left"
                        print(f"{name}: failed (exit code {code}), goes on; {left}", flush=True)
                        waiting.append((each.run, each.tries - 1))
                    else:
                        failed.append(name)
                        where = log_of(root, each.run)
                        print(f"{name}: failed (exit code {code}), see {where}", flush=True)
                time.sleep(_LOOK)
        finally:  # an error of this process's own
            for each in started:
                each.process.terminate()
                each.log.close()
        return failed, asked.is_set() and done + len(failed) < len(runs)


def _start(root, run: Run, tries: int, slot: int, slots) -> _Started:
    log = open_log(root, run)
    return _Started(run, start(run, log, slots[slot]), log, slot, tries, time.monotonic())
