"""Metrics: one flat dict `group/name -> float`, stamped with environment frames.

One process, the learner, writes them; actors and evaluators report to it. Each line goes to
`metrics.jsonl` (for the console, plots and scripts) and to TensorBoard.
"""

from __future__ import annotations

import json
import math
import pathlib
import time

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class MetricsWriter:
    """Appends metrics to `metrics.jsonl` and TensorBoard event files in a run directory."""

    def __init__(self, workdir: pathlib.Path):
        """Opens both; an existing `metrics.jsonl` is continued."""
        self._file = open(workdir / "metrics.jsonl", "a", buffering=1)  # noqa: SIM115
        self._events = EventFileWriter(str(workdir / "tensorboard"))

    def write(self, frames: int, metrics: dict[str, float]) -> None:
        """Writes one line of finite values; what is not finite is left out and counted.

        After `close` nothing is written.

        Raises:
          OSError: the disk is full.
        """
        if self._file.closed:
            return
        finite = {k: float(v) for k, v in metrics.items() if math.isfinite(v)}
        if len(finite) < len(metrics):
            finite["learner/not_finite_metrics"] = float(len(metrics) - len(finite))
        self._file.write(json.dumps({"frames": frames, "time": time.time(), **finite}) + "\n")
        values = [Summary.Value(tag=name, simple_value=x) for name, x in finite.items()]
        self._events.add_event(
            Event(wall_time=time.time(), step=frames, summary=Summary(value=values))
        )

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._events.close()


def read_metrics(workdir: pathlib.Path, name: str) -> list[tuple[int, float]]:
    """(frames, value) of one metric, in order of writing; broken last lines are skipped."""
    points = []
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if name in row:
            points.append((row["frames"], row[name]))
    return points
