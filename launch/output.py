"""Standard output and error that outlive their readers."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class _Output(io.TextIOBase):
    """A stream that drops what nobody takes: its reader has gone away (`| head`), the terminal was
    closed, the disk is full. Whoever writes goes on."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        with contextlib.suppress(AttributeError, OSError, ValueError):  # an encoding without "κ"
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.abandon()
        except OSError:  # a full disk may have room again
            pass

    def abandon(self) -> None:
        """Nobody reads any more: also what the stream still holds goes nowhere."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def finish(self) -> None:
        """Writes what is left, or drops it: the interpreter would end with a complaint."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self.abandon()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:
        return self._stream.encoding

    @property
    def errors(self) -> str | None:
        return self._stream.errors

    @property
    def buffer(self):
        return self._stream.buffer


def _open_descriptors() -> None:
    """Opens those of the three that were closed when the command was started (`>&-`): else the next
    file would be taken for standard output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


@contextlib.contextmanager
def unbreakable() -> Iterator[None]:
    """Within the block, prints do not fail."""
    _open_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Output, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Output):
                stream.finish()
        sys.stdout, sys.stderr = before
