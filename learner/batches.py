"""From samplers to batches on the device, one step ahead of the update."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from bmg.agents.agent import UpdateBatch
from bmg.agents.trajectory import Trajectory


class BatchInfo(NamedTuple):
    """What the host reads off a batch before it goes to the device."""

    episode_returns: np.ndarray  # float32 [E], raw returns of the episodes that ended in it
    versions: np.ndarray  # int32 [B_online], learner updates behind the acting parameters


def read_info(online: Trajectory) -> BatchInfo:
    """Episode returns and parameter versions of the online unrolls."""
    returns = np.asarray(online.episode_return)
    return BatchInfo(returns[~np.isnan(returns)], np.array(online.parameter_version))


class Prefetcher:
    """Assembles and transfers batches in a thread while the previous update runs."""

    def __init__(
        self,
        online: Iterator[Trajectory],
        replay: Iterator[Trajectory],
        num_extra: int,
        shard: Callable[[UpdateBatch], UpdateBatch],
        depth: int,
    ):
        """Starts the thread.

        Args:
          online: batches of fresh unrolls.
          replay: batches of replayed unrolls, each a new draw.
          num_extra: replay batches beside the main one: (K - 1) + (L - 1) + more.
          shard: host batch -> device batch.
          depth: batches that wait on the device.
        """
        self._queue: queue.Queue = queue.Queue(maxsize=max(depth, 1))
        self._stop = threading.Event()
        self.seconds_sampling = 0.0

        def fill():
            try:
                while not self._stop.is_set():
                    start = time.monotonic()
                    fresh = next(online)
                    batch = UpdateBatch(
                        fresh, next(replay), tuple(next(replay) for _ in range(num_extra))
                    )
                    self.seconds_sampling += time.monotonic() - start
                    self._put((shard(batch), read_info(fresh)))
            except StopIteration:
                self._put(None)
            except Exception as error:  # noqa: BLE001 - raised again in the learner's thread
                self._put(error)

        self._thread = threading.Thread(target=fill, name="prefetch", daemon=True)
        self._thread.start()

    def _put(self, item) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def get(self, should_stop: Callable[[], bool]) -> tuple[UpdateBatch, BatchInfo] | None:
        """The next batch, or None when asked to stop or when the samplers ended.

        Raises:
          Exception: whatever a sampler raised.
        """
        while not should_stop():
            try:
                item = self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(item, Exception):
                raise item
            return item
        return None

    def close(self) -> None:
        """Stops the thread."""
        self._stop.set()
        self._thread.join(timeout=5.0)
