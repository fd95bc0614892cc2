"""Replay in this process's memory: for actors and a learner that are threads of one process."""

from __future__ import annotations

import collections
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from bmg.replay.config import ReplayConfig
from bmg.replay.interface import (
    ONLINE,
    REPLAY,
    check_batch_size,
    no_batch,
    no_room,
    no_table,
    print_line,
    table_metrics,
    table_state,
)
from bmg.replay.signature import Signature
from bmg.replay.waiting import Wait

_SHARE_OF_FREE = 0.8  # of the free memory, which a replay may take; the rest is for the program


class MemoryReplay:
    """`interface.Replay` for the threads of one process.

    Unrolls are kept as they are written, single frames and all, in one array per leaf; a batch is
    one copy of its unrolls. The arrays' pages are taken as they are filled.

    Args:
        signature: (nested) structure of objects with `.shape` and `.dtype` of one unroll.
        config: sizes and deadlines; `max_unconfirmed`, `samples_in_flight`, `prefetch_batches` and
            `close_timeout` are unread: nothing is under way between two processes.
        should_stop: asked every `config.poll_interval` seconds by everyone who waits.
        seed: of the draws.
        on_stall: takes a line about each wait of more than `config.stall_after` seconds.
    """

    def __init__(
        self,
        signature: Any,
        config: ReplayConfig,
        should_stop: Callable[[], bool],
        seed: int,
        on_stall: Callable[[str], None] = print_line,
    ):
        self._signature = Signature(signature)
        self._config = config
        self._should_stop = should_stop
        self._on_stall = on_stall
        self._rng = np.random.default_rng(seed)
        self._changed = threading.Condition()  # guards all that follows
        self._queue: collections.deque[list[np.ndarray]] = collections.deque()
        self._ring = [
            np.empty((config.replay_capacity, *shape), dtype)
            for shape, dtype in zip(self._signature.shapes, self._signature.dtypes)
        ]
        self._inserted = 0
        self._sampled = {ONLINE: 0, REPLAY: 0}
        self._closed = False

    def append(self, unroll: Any) -> bool:
        """See `interface.Replay.append`."""
        arrays = [np.array(array) for array in self._signature.flatten(unroll)]
        with self._changed:
            if self._closed:
                raise RuntimeError("append to a closed replay: make a new one")
            wait = self._new_wait(self._config.write_timeout, no_room, ONLINE)
            if not self._wait(lambda: len(self._queue) < self._config.online_capacity, wait):
                if self._stopping():
                    return False
                raise no_room(self._config.write_timeout, self._state(ONLINE))
            if self._config.replay_capacity:
                slot = self._inserted % self._config.replay_capacity
                for column, array in zip(self._ring, arrays):
                    column[slot] = array
            self._queue.append(arrays)
            self._inserted += 1
            self._changed.notify_all()
        return True

    def sample_online(self, batch_size: int) -> _Batches:
        """See `interface.Replay.sample_online`."""
        check_batch_size(batch_size)
        taken: list[list[np.ndarray]] = []  # outlives a timeout, so that nothing is lost

        def next_batch():
            wait = self._new_wait(self._config.sample_timeout, no_batch, ONLINE)
            while len(taken) < batch_size:  # one by one: the queue may be smaller than a batch
                unroll = self._pop(wait)
                if unroll is None:
                    return None
                taken.append(unroll)
            batch = [np.stack(arrays) for arrays in zip(*taken)]
            taken.clear()
            return self._signature.unflatten(batch)

        return _Batches(next_batch)

    def sample_replay(self, batch_size: int) -> _Batches:
        """See `interface.Replay.sample_replay`.

        Raises:
            ValueError: the configuration has no replay; one line.
        """
        check_batch_size(batch_size)
        if not self._config.replay_capacity:
            raise no_table("this process's memory", REPLAY, [ONLINE])

        def next_batch():
            wait = self._new_wait(self._config.sample_timeout, no_batch, REPLAY)
            batch = self._draw(batch_size, wait)
            return None if batch is None else self._signature.unflatten(batch)

        return _Batches(next_batch)

    def occupancy(self) -> dict[str, int]:
        """See `interface.Replay.occupancy`."""
        metrics = {}
        with self._changed:
            for name, size in self._sizes().items():
                metrics |= table_metrics(name, size, self._inserted, self._sampled[name])
        return metrics

    def close(self) -> None:
        """Ends every wait, as a request to stop does."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _pop(self, wait: Wait) -> list[np.ndarray] | None:
        """The queue's oldest unroll; None when asked to stop."""
        with self._changed:
            if not self._wait(lambda: self._queue, wait):
                return self._nothing(ONLINE)
            self._sampled[ONLINE] += 1
            self._changed.notify_all()
            return self._queue.popleft()

    def _draw(self, batch_size: int, wait: Wait) -> list[np.ndarray] | None:
        """A batch from the replay; None when asked to stop."""
        with self._changed:
            enough = self._config.min_replay_size
            if not self._wait(lambda: self._sizes()[REPLAY] >= enough, wait):
                return self._nothing(REPLAY)
            self._sampled[REPLAY] += batch_size
            drawn = self._rng.integers(self._sizes()[REPLAY], size=batch_size)
            return [column[drawn] for column in self._ring]

    def _nothing(self, name: str) -> None:
        """What a sampler that waited in vain does: it ends, or it raises."""
        if not self._stopping():
            raise no_batch(self._config.sample_timeout, self._state(name))

    def _sizes(self) -> dict[str, int]:
        sizes = {ONLINE: len(self._queue)}
        if self._config.replay_capacity:
            sizes[REPLAY] = min(self._inserted, self._config.replay_capacity)
        return sizes

    def _stopping(self) -> bool:
        return self._closed or self._should_stop()

    def _new_wait(self, limit: float, error: Callable[[float, str], TimeoutError], name: str):
        def stalled(seconds: float) -> None:
            self._on_stall(str(error(seconds, self._state(name))))

        return Wait(limit, self._config.poll_interval, self._config.stall_after, stalled)

    def _wait(self, condition: Callable[[], Any], wait: Wait) -> bool:
        """Waits until a condition holds; False when asked to stop first, or when it is over."""
        while not self._stopping():
            if condition():
                return True
            if wait.over():
                return False
            self._changed.wait(wait.seconds)
        return False

    def _state(self, name: str) -> str:
        capacity = {ONLINE: self._config.online_capacity, REPLAY: self._config.replay_capacity}
        return table_state(
            name, self._sizes()[name], capacity[name], self._inserted, self._sampled[name]
        )


class _Batches:
    """Iterates over batches; a timeout does not end it, as it would a generator."""

    def __init__(self, next_batch: Callable[[], Any]):
        self._next_batch = next_batch

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Any:
        batch = self._next_batch()
        if batch is None:
            raise StopIteration
        return batch


def memory_needed(signature: Any, config: ReplayConfig) -> int:
    """Bytes of a replay and its queue, both full."""
    return _unroll_bytes(signature) * (config.replay_capacity + config.online_capacity)


def check_memory(signature: Any, config: ReplayConfig, free: int | None = None) -> None:
    """Refuses a replay that does not fit in memory.

    Args:
        signature: of one unroll.
        config: sizes.
        free: bytes of free memory; None looks.

    Raises:
        ValueError: in one line, with the size that would fit.
    """
    free = free_memory() if free is None else free
    needed, allowed = memory_needed(signature, config), int(_SHARE_OF_FREE * free)
    if needed > allowed:
        fits = max(allowed // _unroll_bytes(signature) - config.online_capacity, 0)
        raise ValueError(
            f"replay_capacity {config.replay_capacity:,} needs {needed / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free: give --replay.replay-capacity {fits} or less, or "
            "smaller frames."
        )


def free_memory() -> int:
    """Bytes that this process may still take, of the machine's and of its control group's."""
    free = psutil.virtual_memory().available
    group = pathlib.Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no control groups here, or no limit ("max")
        return free


def _unroll_bytes(signature: Any) -> int:
    checked = Signature(signature)
    return sum(
        int(np.prod(shape)) * dtype.itemsize for shape, dtype in zip(checked.shapes, checked.dtypes)
    )
