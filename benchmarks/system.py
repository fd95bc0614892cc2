"""Runs of the real program, measured from outside: what `pipeline` and `impala` share."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import psutil

from bmg.benchmarks.progress import show
from bmg.storage.processes import child_environment
from bmg.storage.rows import read_rows


def run_and_measure(
    arguments: list[str],
    seconds: float,
    command: Sequence[str] = ("train",),
    core: int | None = None,
    folder: str = "",
    name: str = "",
) -> dict[str, float]:
    """Runs `bmg train` for a while and stops it.

    Args:
      arguments: options of `bmg train`; the frames must outlast the measurement.
      seconds: to measure for, from a few seconds after the first update.
      command: another command with these options, such as `pod local`.
      core: the one that it runs on; None for all.
      folder: of the run directory that has the metrics, such as that of one of several seeds.
      name: for a line that shows what was measured; empty for none.

    Returns:
      updates and environment frames per second, policy lag in updates, the share of its time in
      which the learner waits for data, seconds from the command to the first update, peak memory of
      all processes in bytes, occupancy of the inference server's batches (NaN without one).

    Raises:
      RuntimeError: the run ended before it could be measured; its output is in the message.
    """
    with tempfile.TemporaryDirectory() as temporary:
        workdir = pathlib.Path(temporary) / "run"
        pinned = "" if core is None else f"import os; os.sched_setaffinity(0, [{core}]); "
        program = [
            sys.executable,
            "-c",
            f"{pinned}from bmg.launch.cli import main; main()",
            *command,
        ]
        program += ["--workdir", str(workdir), "--learner.log-interval", "1.0", *arguments]
        start = time.monotonic()
        process = subprocess.Popen(
            program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=child_environment()
        )
        _running.add(process)
        try:
            found = _watch(process, workdir / folder / "metrics.jsonl", start, seconds)
            if name:
                show(f"{name}: {found['frames_per_second']:,.0f} frames/s")
            return found
        finally:
            _running.remove(process)
            process.terminate()
            process.wait(timeout=60)


_running: set[subprocess.Popen] = set()


def end_all() -> None:
    """Ends what is measured at present, also by other threads, which then raise RuntimeError."""
    for process in list(_running):
        process.terminate()


def _watch(process, metrics: pathlib.Path, start: float, seconds: float) -> dict[str, float]:
    rows: list[dict] = []
    peak, first, settled = 0, None, 5.0
    while first is None or time.monotonic() < first + settled + seconds:
        if process.poll() is not None:
            raise RuntimeError(f"the run ended early:\n{process.stdout.read().decode()}")
        time.sleep(0.5)
        peak = max(peak, memory_of(process.pid))
        rows = read_rows(metrics) if metrics.exists() else []
        rows = [row for row in rows if "learner/frames" in row]
        if rows and first is None:
            first = time.monotonic()
    steady = [row for row in rows if row["time"] > rows[0]["time"] + settled]
    elapsed = steady[-1]["time"] - steady[0]["time"]
    updates = steady[-1]["learner/updates"] - steady[0]["learner/updates"]
    return {
        "updates_per_second": updates / elapsed,
        "frames_per_second": (steady[-1]["frames"] - steady[0]["frames"]) / elapsed,
        "policy_lag": float(np.mean([row.get("policy_lag/mean", np.nan) for row in steady])),
        "learner_waiting": float(
            np.mean([row.get("learner_time/waiting", np.nan) for row in steady])
        ),
        "first_update_seconds": first - start,
        "peak_bytes": float(peak),
        "occupancy": float(np.mean([row.get("inference/occupancy", np.nan) for row in steady])),
    }


def memory_of(pid: int) -> int:
    """Memory of a process and its descendants, in bytes; shared pages are counted once where the
    system tells (PSS, on Linux)."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            try:
                memory = process.memory_full_info()
                total += getattr(memory, "pss", memory.rss)
            except psutil.Error:
                continue
    except psutil.Error:
        pass
    return total
