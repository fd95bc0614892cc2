"""The learner's side: batches of unrolls, made up in the background."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from bmg.replay.backend import pybind
from bmg.replay.client import Client
from bmg.replay.config import ReplayConfig
from bmg.replay.interface import check_batch_size, no_batch, print_line
from bmg.replay.signature import Signature
from bmg.replay.waiting import Wait


class Sampler:
    """Iterates over batches of one table; ends when asked to stop.

        server ──► samples_in_flight unrolls ──► prefetch_batches batches ──► next()
                   (Reverb's thread)             (a thread here: one copy per unroll)

    At most `samples_in_flight + prefetch_batches * batch_size` unrolls are taken ahead of time. On
    the online queue that adds to the policy lag. From the replay each unroll is drawn anew,
    uniformly over what it holds at that moment and with replacement.

    One Reverb sampler lasts for life: dropping one loses what it has in flight, and from the online
    queue that cannot be had again. So a table should have one `Sampler`, kept while the learner is.

    Why not reverb.TrajectoryDataset: it costs more time per unroll, after a timeout it drops what
    it holds, and while a server is gone it waits for ever.

    Args:
        server: `host:port`.
        table: `interface.ONLINE` or `interface.REPLAY`.
        batch_size: unrolls in a batch.
        signature: (nested) structure of objects with `.shape` and `.dtype` of one unroll.
        config: sizes and deadlines, the same as the server's.
        should_stop: asked every `config.poll_interval` seconds (once a second or so while there is
            no server yet); True ends the iteration.
        on_stall: takes a line about a wait of more than `config.stall_after` seconds.
    """

    def __init__(
        self,
        server: str,
        table: str,
        batch_size: int,
        signature: Any,
        config: ReplayConfig,
        should_stop: Callable[[], bool],
        on_stall: Callable[[str], None] = print_line,
    ):
        check_batch_size(batch_size)
        self._client = Client(server)
        self._table = table
        self._signature = Signature(signature)
        self._config = config
        self._should_stop = should_stop
        self._on_stall = on_stall
        self._reader = _Reader(self._client, table, batch_size, self._signature, config)
        self._connected = False
        # The thread knows only the reader, so that a forgotten sampler is collected, or closed at
        # exit: a thread inside Reverb then would otherwise outlive the interpreter.
        self._finalizer = weakref.finalize(self, self._reader.close)

    def __iter__(self) -> Sampler:
        return self

    def __next__(self) -> Any:
        """Returns one batch: the signature's structure of arrays `[batch_size, ...]`, the caller's.

        Raises:
            StopIteration: asked to stop, or closed.
            TimeoutError: no batch within `config.sample_timeout` seconds, with the table's state.
                A later call waits anew, nothing is lost.
            ValueError: the server has no such table, or of another signature. All in one line.
            RuntimeError: Reverb's own error.
        """
        if not self._finalizer.alive or self._should_stop():
            raise StopIteration
        wait = Wait(
            self._config.sample_timeout,
            self._config.poll_interval,
            self._config.stall_after,
            self._stalled,
        )
        if not self._connected:
            if not self._client.connect([self._table], self._signature, wait, self._should_stop):
                raise StopIteration
            self._reader.start()
            self._connected = True
        while True:
            batch = self._reader.get(wait.seconds)
            if batch is not None:
                return self._signature.unflatten(batch)
            if self._should_stop():
                raise StopIteration
            if wait.over():
                raise self._no_batch(self._config.sample_timeout)

    def _stalled(self, seconds: float) -> None:
        self._on_stall(str(self._no_batch(seconds)))

    def _no_batch(self, seconds: float) -> TimeoutError:
        return no_batch(seconds, self._client.describe(self._table))

    def close(self) -> None:
        """Stops reading, within `config.close_timeout` seconds; what was read ahead is lost.

        May be called twice.
        """
        self._finalizer()

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Reader:
    """The thread that reads unrolls and makes up batches, as lists of arrays `[B, ...]`."""

    def __init__(
        self,
        client: Client,
        table: str,
        batch_size: int,
        signature: Signature,
        config: ReplayConfig,
    ):
        self._client = client
        self._table = table
        self._batch_size = batch_size
        self._signature = signature
        self._samples_in_flight = config.samples_in_flight
        self._close_timeout = config.close_timeout
        self._slots = threading.Semaphore(config.prefetch_batches)
        self._batches = queue.Queue()  # bounded by the slots, which are taken BEFORE reading
        self._lock = threading.Lock()
        self._sampler = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"sample-{table}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def get(self, seconds: float) -> list[np.ndarray] | None:
        """Returns the next batch, or None if there is none in time; raises what the thread did."""
        try:
            batch = self._batches.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(batch, Exception):
            self._batches.put(batch)  # the thread is gone: the next call gets it as well
            raise RuntimeError(f"sampling {self._table}: {str(batch).splitlines()[0]}") from batch
        self._slots.release()
        return batch

    def close(self) -> None:
        with self._lock:
            self._closed = True
            sampler = self._sampler
        self._slots.release()
        if sampler is not None:
            # Frees the thread that waits in Reverb. At once over the network; in the server's own
            # process Reverb looks only every 3 s, which nobody needs to wait for.
            deadline = time.monotonic() + self._close_timeout
            closing = threading.Thread(target=sampler.Close, daemon=True)
            closing.start()
            closing.join(self._close_timeout)
            # Still inside Reverb when the interpreter ends, it would abort the process.
            if self._thread is not threading.current_thread():
                self._thread.join(max(deadline - time.monotonic(), 0.0))

    def _run(self) -> None:
        try:
            # Here and not in the constructor: it blocks if the server went away meanwhile.
            sampler = self._client.sampler(self._table, self._samples_in_flight)
            with self._lock:
                self._sampler = sampler
                if self._closed:
                    sampler.Close()
            while True:
                self._slots.acquire()
                if self._closed:  # during a read that still got what it waited for
                    return
                self._batches.put(self._read_batch(sampler))
        except Exception as error:  # noqa: BLE001 - for the caller's thread; after a close nobody looks
            self._batches.put(error)

    def _read_batch(self, sampler: pybind.Sampler) -> list[np.ndarray]:
        batch = [
            np.empty((self._batch_size, *shape), dtype)
            for shape, dtype in zip(self._signature.shapes, self._signature.dtypes)
        ]
        for i in range(self._batch_size):
            # Four scalars of information (key, probability, table size, priority), then the leaves.
            unroll = sampler.GetNextTrajectory()[4:]
            for column, array in zip(batch, unroll):
                column[i] = array
        return batch
