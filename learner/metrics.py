"""Metrics: one flat dict `group/name -> float`, stamped with environment frames.

One process, the learner, writes them; actors and evaluators report to it. Each line goes to
`metrics.jsonl` (for the console, plots and scripts) and to TensorBoard. Both are written whole or
not at all, so that a full disk leaves a gap and no broken end, after which TensorBoard would read
nothing. (TensorBoard's own writer of event files writes in a thread, which an error ends; the
writer then waits for it for ever.)
"""

from __future__ import annotations

import io
import json
import math
import os
import pathlib
import socket
import time

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class MetricsWriter:
    """Appends metrics to `metrics.jsonl` and TensorBoard event files in a run directory."""

    def __init__(self, workdir: pathlib.Path, tensorboard: bool = True):
        """Opens both, or `metrics.jsonl` alone; an existing one is continued."""
        lines = workdir / "metrics.jsonl"
        _cut_broken_line(lines)
        self._lines = _Appending(lines)
        self._events = None
        if tensorboard:
            folder = workdir / "tensorboard"
            folder.mkdir(exist_ok=True)
            # The name is what TensorBoard looks for; the process id keeps two of a second apart.
            name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
            self._events = _Appending(folder / name)
        self._closed = False
        self._header = Event(wall_time=time.time(), file_version="brain.Event:2")

    def write(self, frames: int, metrics: dict[str, float]) -> None:
        """Writes one line of finite values; what is not finite is left out and counted.

        After `close` nothing is written.

        Raises:
          OSError: the disk is full.
        """
        if self._closed:
            return
        finite = {k: float(v) for k, v in metrics.items() if math.isfinite(v)}
        if len(finite) < len(metrics):
            finite["learner/not_finite_metrics"] = float(len(metrics) - len(finite))
        now = time.time()
        line = json.dumps({"frames": frames, "time": now, **finite}) + "\n"
        self._lines.append(line.encode())
        if self._events is None:
            return
        values = [Summary.Value(tag=name, simple_value=x) for name, x in finite.items()]
        event = Event(wall_time=now, step=frames, summary=Summary(value=values))
        if self._header is not None:
            self._events.append(_record(self._header))
            self._header = None
        self._events.append(_record(event))

    def close(self) -> None:
        """Closes both."""
        self._closed = True
        self._lines.close()
        if self._events is not None:
            self._events.close()


def _cut_broken_line(path: pathlib.Path) -> None:
    """Removes the end of a line that a process was killed in."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


class _Appending:
    """A file that grows by whole pieces."""

    def __init__(self, path: pathlib.Path):
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._size = self._file.seek(0, os.SEEK_END)

    def append(self, piece: bytes) -> None:
        """Appends all of it, or nothing: then OSError says why."""
        try:
            written = 0
            while written < len(piece):
                written += self._file.write(piece[written:])
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(piece)

    def close(self) -> None:
        self._file.close()


def _record(event: Event) -> bytes:
    """In the format of event files: length, event, and checksums of both."""
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()


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
