"""The actors' side: one unroll in, one write, an item in each table."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bmg.replay.backend import DeadlineExceededError
from bmg.replay.client import Client
from bmg.replay.config import ReplayConfig
from bmg.replay.interface import ONLINE, no_room, print_line
from bmg.replay.server import table_names
from bmg.replay.signature import Signature
from bmg.replay.waiting import Wait


class Writer:
    """Writes whole unrolls, and is held back while the online queue is full.

    An unroll is one Reverb timestep and one chunk: it is sent once, and both tables' items point to
    it. Not for use by several threads at once.

    Args:
        server: `host:port`.
        signature: (nested) structure of objects with `.shape` and `.dtype` of one unroll.
        config: sizes and deadlines, the same as the server's.
        should_stop: asked every `config.poll_interval` seconds (once a second or so while there is
            no server yet); True frees a writer that waits.
        on_stall: takes a line about a wait of more than `config.stall_after` seconds.
    """

    def __init__(
        self,
        server: str,
        signature: Any,
        config: ReplayConfig,
        should_stop: Callable[[], bool],
        on_stall: Callable[[str], None] = print_line,
    ):
        self._client = Client(server)
        self._signature = Signature(signature)
        self._config = config
        self._should_stop = should_stop
        self._on_stall = on_stall
        self._tables = table_names(config)
        self._writer = None
        self._closed = False

    def append(self, unroll: Any) -> bool:
        """Writes one unroll, after waiting for room; the arrays may be reused afterwards.

        Returns:
            True if it was written, False if asked to stop while waiting: then it was not.

        Raises:
            ValueError: the unroll is not of the signature, or the server's tables are not.
            TimeoutError: no room within `config.write_timeout` seconds. All in one line.
            RuntimeError: closed before, or Reverb's own error.
        """
        if self._closed:
            raise RuntimeError("append to a closed replay writer: make a new one")
        arrays = self._signature.flatten(unroll)
        if self._writer is None and not self._connect():
            return False
        if not self._wait():
            return False
        self._writer.append(arrays)
        step = [column[-1] for column in self._writer.history]
        for table in self._tables:
            self._writer.create_item(table, priority=1.0, trajectory=step)
        return True

    def close(self) -> None:
        """Closes after at most `config.close_timeout` seconds; unrolls not taken by then are lost.

        Gives up waiting at once when asked to stop. May be called twice.
        """
        if self._writer is not None and not self._closed:
            try:
                deadline = time.monotonic() + self._config.close_timeout
                while (left := deadline - time.monotonic()) > 0:
                    seconds = min(self._config.poll_interval, left)
                    if self._flush(0, seconds) or self._should_stop():
                        break
            except RuntimeError:
                pass  # the stream is broken: nothing more can be delivered
            self._writer.close()  # drops what is unconfirmed, does not wait
        self._closed = True

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _connect(self) -> bool:
        wait = self._new_wait()
        if not self._client.connect(self._tables, self._signature, wait, self._should_stop):
            return False
        self._writer = self._client.writer()
        return True

    def _wait(self) -> bool:
        """Waits until one more unroll may be sent; False if asked to stop."""
        # Reverb counts items. Behind a full queue an unroll has one or both of its items
        # unconfirmed: the online one always, so that unconfirmed unrolls are never more than items.
        wait = self._new_wait()
        while not self._flush(self._config.max_unconfirmed - 1, wait.seconds):
            if self._should_stop():
                return False
            if wait.over():
                raise no_room(self._config.write_timeout, self._client.describe(ONLINE))
        return True

    def _new_wait(self) -> Wait:
        config = self._config

        def stalled(seconds: float) -> None:
            self._on_stall(str(no_room(seconds, self._client.describe(ONLINE))))

        return Wait(config.write_timeout, config.poll_interval, config.stall_after, stalled)

    def _flush(self, unconfirmed: int, seconds: float) -> bool:
        """Waits so long at most; True if so few items remain."""
        try:
            self._writer.flush(unconfirmed, max(int(1000 * seconds), 1))
        except DeadlineExceededError:
            return False
        return True
