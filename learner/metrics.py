"""Metrics: one flat dict `group/name -> float`, stamped with environment frames.

One process, the learner, writes them; actors and evaluators report to it. Each line goes to
`metrics.jsonl` (for the console, plots and scripts) and to TensorBoard. Both are written whole or
not at all, so that a full disk leaves a gap and no broken end, after which TensorBoard would read
nothing. (TensorBoard's own writer of event files writes in a thread, which an error ends; the
writer then waits for it for ever.)

A learner that goes on from F frames abandons what stands beyond them: such rows move to
`metrics.abandoned.jsonl`, and leave the event files. A TensorBoard that has read them already drops
them at the START of the new file; its faster reader, which knows no START, when it is started anew.

    metrics.jsonl                 40  80  120 | goes on from 80 |  40  80  session  120  160
    metrics.abandoned.jsonl                   |                 |  120
    event files                   40  80  120 |                 |  40  80;  START at 81  120  160
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import pathlib
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar import metadata as scalar
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from bmg.learner.dashboard import description_of, description_of_run, opening, tag_of
from bmg.storage.files import whole_file
from bmg.storage.rows import METRICS, in_force, parse_row, read_rows

ABANDONED = "metrics.abandoned.jsonl"


class MetricsWriter:
    """Appends metrics to `metrics.jsonl` and TensorBoard event files in a run directory."""

    def __init__(
        self,
        workdir: pathlib.Path,
        frames: int,
        tensorboard: bool = True,
        notify: Callable[[str], None] = print,
        settings: Mapping[str, Any] | None = None,
    ):
        """Starts a session; what an earlier one wrote is continued.

        Args:
          workdir: the run directory.
          frames: environment frames that the learner goes on from; rows beyond them are abandoned.
          tensorboard: whether event files are written, beside `metrics.jsonl`.
          notify: takes a line where the disk is full at the start, or where files were removed.
          settings: `group.name` -> JSON value, what the run is, for TensorBoard.
        """
        self._notify = notify
        self._described: set[str] = set()
        self._closed = False
        path = workdir / METRICS
        header, missing, problem = _begin_session(path, frames)
        self._files = [_Appending(lambda _: _without_broken_line(path), header, missing)]
        if tensorboard:
            shown = opening(workdir.name, settings or {})
            self._files.append(_event_file(workdir / "tensorboard", frames, shown))
        for file in self._files:
            try:
                file.append(b"")
            except OSError as error:
                problem = problem or error
        if problem:
            notify(f"{path} stays as it is: {problem}; the run goes on")

    def write(self, frames: int, metrics: dict[str, float]) -> None:
        """Writes one line of finite values; what is not finite is left out and counted.

        Files that were removed meanwhile are made again. After `close` nothing is written.

        Raises:
          OSError: the disk is full.
        """
        if self._closed:
            return
        if gone := [file for file in self._files if file.is_gone()]:
            names = " and ".join(str(file.path) for file in gone)
            self._notify(f"{names} had been removed while the run went on; made again from here on")
            for file in gone:
                file.start_again()
            self._described.clear()
        finite = _finite(metrics)
        if len(finite) < len(metrics):
            finite["learner/not_finite_metrics"] = float(len(metrics) - len(finite))
        now = time.time()
        values = [self._value(name, x) for name, x in finite.items()]
        pieces = [_line({"frames": frames, "time": now, **finite}), _scalars(frames, now, values)]
        for file, piece in zip(self._files, pieces):
            file.append(piece)
        self._described |= finite.keys()

    def _value(self, name: str, value: float) -> Summary.Value:
        """With what it is, the first time."""
        text = "" if name in self._described else description_of(name)
        return _value(tag_of(name), value, text)

    def write_text(self, frames: int, name: str, text: str) -> None:
        """Puts a text into TensorBoard, where event files are written.

        Raises:
          OSError: the disk is full.
        """
        if not self._closed:
            for file in self._files[1:]:
                file.append(_summary(frames, text_pb(name, text)))

    def close(self) -> None:
        """Closes both."""
        self._closed = True
        for file in self._files:
            file.close()


class EventWriter:
    """Appends to TensorBoard's event files in a folder, each piece whole or not at all."""

    def __init__(self, folder: pathlib.Path, step: int, descriptions: Mapping[str, str]):
        """What stands beyond `step`, which the run goes on from, is taken out.

        Args:
          folder: of the files.
          step: see above.
          descriptions: of scalars, see `dashboard.description_of`.
        """
        self._file = _event_file(folder, step)
        self._tags: set[str] = set()
        self._descriptions, self._described = descriptions, set[str]()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes those that are finite.

        Raises:
          OSError: the disk is full.
        """
        if self._file.is_gone():
            self._file.start_again()
            self._described.clear()
        finite = _finite(values)
        self._tags |= finite.keys()
        if finite:
            shown = [self._value(name, x) for name, x in finite.items()]
            self._file.append(_scalars(step, time.time(), shown))
            self._described |= finite.keys()

    def _value(self, name: str, value: float) -> Summary.Value:
        text = "" if name in self._described else description_of(name, self._descriptions)
        return _value(name, value, text)

    def add(self, step: int, summary: Summary) -> None:
        """Writes any summary.

        Raises:
          OSError: the disk is full.
        """
        self._file.append(_summary(step, summary))

    def describe(self, step: int, name: str, settings: Mapping[str, Any]) -> None:
        """Writes what the run is, see `dashboard.description_of_run`, beside the newest values of
        what was written so far.

        Raises:
          OSError: the disk is full.
        """
        for summary in description_of_run(name, settings, sorted(self._tags)):
            self.add(step, summary)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _begin_session(path: pathlib.Path, frames: int) -> tuple[bytes, bytes, OSError | None]:
    """Moves what is abandoned out of `metrics.jsonl`.

    Returns:
      The row that marks the session; what of it still has to be written, which is nothing where it
      stands in the file and where the session is the first one; why nothing could be moved.
    """
    lines = []
    if path.exists():
        with open(_without_broken_line(path), "rb") as file:
            lines = file.readlines()
    rows = [parse_row(line) for line in lines]
    first = not any(rows)
    before = max((int(row["session"]) for row in rows if row and "session" in row), default=1)
    session = {"frames": frames, "time": time.time(), "session": 1 if first else before + 1}
    header = _line(session)
    if first:
        return header, b"", None
    counts = in_force([*rows, session])
    kept = [line for line, counts_on in zip(lines, counts) if counts_on]
    gone = [line for line, counts_on in zip(lines, counts) if not counts_on]
    if not gone:
        return header, header, None
    try:
        _set_apart(path, gone, b"".join(kept) + header)
    except OSError as error:
        return header, header, error
    return header, b"", None


def _set_apart(path: pathlib.Path, gone: list[bytes], kept: bytes) -> None:
    """Appends lines to the abandoned ones and leaves `kept` in their file, or changes nothing."""
    apart = _without_broken_line(path.with_name(ABANDONED))
    before = os.stat(path)
    with open(apart, "a+b", buffering=0) as file:
        file.seek(0)
        known = set(file.readlines())  # a start may have been killed between the two files
        size = file.tell()
        try:
            _write_all(file, b"".join(line for line in gone if line not in known))
            os.fsync(file.fileno())
            with whole_file(path) as whole:
                whole.write(kept)
        except OSError:
            if os.path.samestat(before, os.stat(path)):
                file.truncate(size)
            raise


def _without_broken_line(path: pathlib.Path) -> pathlib.Path:
    """The path, after the end of a line that a process was killed in is cut off."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
    return path


def _next_event_file(folder: pathlib.Path, previous: pathlib.Path | None) -> pathlib.Path:
    """One whose name sorts after all others, whatever the clock says: TensorBoard reads them in
    that order. The name is what TensorBoard looks for."""
    paths = [*folder.glob("*tfevents*"), *([previous] if previous else [])]
    newest = max((path.name for path in paths), default="")
    start, end = "events.out.tfevents", f"{socket.gethostname()}.{os.getpid()}"
    name = f"{start}.{int(time.time()):010d}.{end}"
    if name > newest:
        return folder / name
    if not (found := re.match(rf"{re.escape(start)}\.(\d+)\.", newest)):
        return folder / f"{newest}.0"
    digits = found[1]
    later = str(int(digits) + 1).zfill(len(digits))
    if len(later) > len(digits):  # after 99 comes 990, as 100 would sort before it
        later = digits + "0"
    return folder / f"{start}.{later}.{end}"


class _Appending:
    """A file that grows by whole pieces."""

    def __init__(
        self,
        choose: Callable[[pathlib.Path | None], pathlib.Path],
        header: bytes,
        missing: bytes,
    ):
        """It is opened when something is appended.

        Args:
          choose: previous path, or None -> path.
          header: what it begins with, where it is made again.
          missing: what has to come before the first piece.
        """
        self.path: pathlib.Path | None = None
        self._choose, self._header, self._missing = choose, header, missing
        self._file: IO[bytes] | None = None
        self._size = 0

    def is_gone(self) -> bool:
        """Whether the file that was opened was removed, replaced or cut since."""
        if self._file is None:
            return False
        opened = os.fstat(self._file.fileno())
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return True
        return not os.path.samestat(opened, found) or opened.st_size < self._size

    def start_again(self) -> None:
        """The next piece comes into a new file, after the header."""
        self.close()
        self._file, self._missing = None, self._header

    def append(self, piece: bytes) -> None:
        """Appends all of it, or nothing: then OSError says why."""
        if self._file is None:
            self.path = self._choose(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        size = self._file.seek(0, os.SEEK_END)
        try:
            _write_all(self._file, self._missing + piece)
        except OSError:
            self._file.truncate(size)
            raise
        self._size = size + len(self._missing + piece)
        self._missing = b""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _write_all(file: IO[bytes], piece: bytes) -> None:
    """To a file without a buffer, which may take a part at a time."""
    written = 0
    while written < len(piece):
        written += file.write(piece[written:])


def _line(row: dict[str, float]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _event_file(folder: pathlib.Path, step: int, opening: Sequence[Summary] = ()) -> _Appending:
    """The next one, without what stands beyond `step` in those before."""
    with contextlib.suppress(OSError):  # a full disk: START does most of it
        _forget(folder, step)
    header = _event_header(step) + b"".join(_summary(step, summary) for summary in opening)
    return _Appending(functools.partial(_next_event_file, folder), header, header)


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: float(x) for name, x in values.items() if math.isfinite(x)}


def _value(tag: str, value: float, description: str) -> Summary.Value:
    """With a description, where there is one."""
    metadata = scalar.create_summary_metadata("", description) if description else None
    return Summary.Value(tag=tag, simple_value=value, metadata=metadata)


def _scalars(step: int, now: float, values: list[Summary.Value]) -> bytes:
    return _record(Event(wall_time=now, step=step, summary=Summary(value=values)))


def _summary(step: int, summary: Summary) -> bytes:
    return _record(Event(wall_time=time.time(), step=step, summary=summary))


def _event_header(frames: int) -> bytes:
    """Of an event file: TensorBoard drops what it has read from this step on."""
    now = time.time()
    start = Event(wall_time=now, step=frames + 1, session_log=SessionLog(status=SessionLog.START))
    # It heeds the start of a session from this version on.
    return _record(Event(wall_time=now, file_version="brain.Event:2")) + _record(start)


def _forget(folder: pathlib.Path, frames: int) -> None:
    """Takes points beyond some frames out of event files, each of which is replaced whole."""
    for path in folder.glob("*tfevents*"):
        records = list(_records(path.read_bytes()))
        kept = [x for x, event in records if event.step <= frames or not event.HasField("summary")]
        if len(kept) < len(records):
            with whole_file(path) as file:
                file.write(b"".join(kept))


def _records(content: bytes) -> Iterator[tuple[bytes, Event]]:
    """The records of an event file, as they stand there and read, up to one that is broken."""
    position = 0
    while position + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        end = position + 12 + length + 4
        try:
            event = Event.FromString(content[position + 12 : end - 4])
        except DecodeError:
            return
        if end > len(content):
            return
        yield content[position:end], event
        position = end


def _record(event: Event) -> bytes:
    """In the format of event files: length, event, and checksums of both."""
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()


def read_metrics(workdir: pathlib.Path, name: str) -> list[tuple[float, float]]:
    """(frames, value) of one metric, by frames, without what was abandoned; evaluators of one run
    may finish in another order than they began in.

    Raises:
      OSError: there is no `metrics.jsonl`, or it cannot be read.
    """
    rows = read_rows(workdir / METRICS)
    points = [(row["frames"], row[name]) for row in rows if name in row]
    return sorted(points, key=lambda point: point[0])
