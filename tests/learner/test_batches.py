"""The prefetcher: batches in order, made of fresh draws, and a thread that ends."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from bmg.agents.agent import UpdateBatch
from bmg.learner.batches import Prefetcher, read_info
from tests.learner import fakes
from tests.waiting import DEADLINE, eventually, steadily


def never() -> bool:
    return False


def numbered(start: int, size: int):
    """Batches whose parameter_version says which draw they are."""
    return (fakes.trajectories(0, size, version=start + i) for i in itertools.count())


def identity(batch):
    return batch


@pytest.fixture
def make():
    prefetchers = []

    def make(online, replay, num_extra=0, shard=identity, depth=1) -> Prefetcher:
        prefetchers.append(Prefetcher(online, replay, num_extra, shard, depth))
        return prefetchers[-1]

    yield make
    for prefetcher in prefetchers:
        prefetcher.close()


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("num_extra", [0, 1, 3])
def test_batches_come_in_order_and_no_draw_is_used_twice(make, depth, num_extra):
    prefetcher = make(numbered(0, 2), numbered(100, 4), num_extra, depth=depth)
    draws = itertools.count(100)
    for i in range(5):
        batch, info = prefetcher.get(never)
        assert isinstance(batch, UpdateBatch) and len(batch.extra) == num_extra
        np.testing.assert_array_equal(batch.online.parameter_version, [i, i])
        np.testing.assert_array_equal(info.versions, [i, i])
        for part in (batch.replay, *batch.extra):
            np.testing.assert_array_equal(part.parameter_version, [next(draws)] * 4)


def test_what_the_host_reads_is_of_the_online_data():
    online = fakes.trajectories(0, 3, version=8)
    online.episode_return[1, 0], online.episode_return[2, 4] = 5.0, -2.0
    info = read_info(online)
    np.testing.assert_array_equal(info.episode_returns, [5.0, -2.0])
    np.testing.assert_array_equal(info.versions, [8, 8, 8])
    assert read_info(fakes.trajectories(0, 3)).episode_returns.shape == (0,)


def test_batches_are_sharded_in_the_background(make):
    threads = []

    def shard(batch):
        threads.append(threading.current_thread())
        return batch._replace(extra="sharded")

    batch, _ = make(numbered(0, 2), numbered(0, 4), shard=shard).get(never)
    assert batch.extra == "sharded" and threads[0] is not threading.current_thread()


def test_no_more_than_its_depth_is_taken_ahead(make):
    taken = []

    def online():
        for i, batch in enumerate(numbered(0, 2)):
            taken.append(i)
            yield batch

    prefetcher = make(online(), numbered(0, 4), depth=2)
    prefetcher.get(never)
    # One was given, two wait, one more is in the thread's hands.
    eventually(lambda: len(taken) >= 4)
    steadily(lambda: len(taken) == 4)


def test_the_end_of_a_sampler_ends_the_batches(make):
    prefetcher = make(itertools.islice(numbered(0, 2), 2), numbered(0, 4))
    assert prefetcher.get(never) is not None
    assert prefetcher.get(never) is not None
    assert prefetcher.get(never) is None


def test_errors_come_after_the_batches_before_them(make):
    def replay():
        yield fakes.trajectories(0, 4)
        raise ConnectionError("the server is gone")

    prefetcher = make(numbered(0, 2), replay())
    assert prefetcher.get(never) is not None
    with pytest.raises(ConnectionError, match="the server is gone"):
        prefetcher.get(never)


def test_an_error_of_the_device_is_raised(make):
    def shard(batch):
        raise ValueError("cannot be split")

    with pytest.raises(ValueError, match="cannot be split"):
        make(numbered(0, 2), numbered(0, 4), shard=shard).get(never)


def test_get_ends_when_asked_to_stop(make):
    release = threading.Event()

    def online():
        release.wait(DEADLINE)
        yield from numbered(0, 2)

    asked = itertools.count()
    prefetcher = make(online(), numbered(0, 4))
    try:
        assert prefetcher.get(lambda: next(asked) >= 2) is None
    finally:
        release.set()


def test_closing_ends_the_thread_though_its_queue_is_full(make):
    taken, before = [], set(threading.enumerate())

    def online():
        for batch in numbered(0, 2):
            taken.append(batch)
            yield batch

    prefetcher = make(online(), numbered(0, 4), depth=1)
    (thread,) = set(threading.enumerate()) - before
    prefetcher.get(never)
    eventually(lambda: len(taken) == 3)  # by now the queue is full again
    assert thread.is_alive()
    prefetcher.close()
    eventually(lambda: not thread.is_alive())
