"""Nobody waits for ever, in memory or over Reverb: full queues, empty tables, requests to stop."""

import dataclasses
import threading
import time

import numpy as np
import pytest

from tests.replay.test_tables import write
from tests.waiting import Call, eventually


def fill(replay, make_unroll, written, count=50):
    """Appends until told to stop; `written` grows with it."""
    for i in range(count):
        if not replay.append(make_unroll(i)):
            return False
        written.append(i)
    return True


def test_full_queue_holds_the_writer_back_until_sampled(make_replay, config, make_unroll):
    handle = make_replay(dataclasses.replace(config, online_capacity=3))
    written = []
    writing = Call(lambda: fill(handle(), make_unroll, written))
    eventually(lambda: len(written) >= 3)
    time.sleep(0.5)
    assert writing.running
    assert 3 <= len(written) <= 3 + config.max_unconfirmed
    reader = handle()
    counts = reader.occupancy()
    assert counts["replay/online_size"] == 3
    # A full queue leaves the replay no emptier than itself: its minimum size is in reach.
    assert 3 <= counts["replay/replay_size"] <= len(written)
    online = reader.sample_online(5)
    indices = np.concatenate([next(online).index for _ in range(10)])
    assert writing.result(within=10.0)
    np.testing.assert_array_equal(indices, np.arange(50))


def test_stop_frees_a_blocked_writer(make_replay, config, make_unroll):
    stop = threading.Event()
    replay = make_replay(dataclasses.replace(config, online_capacity=2), stop.is_set)()
    written = []
    writing = Call(lambda: fill(replay, make_unroll, written))
    eventually(lambda: len(written) >= 2)
    time.sleep(0.5)
    assert writing.running
    stop.set()
    assert writing.result(within=2.0) is False
    Call(replay.close).result(within=2.0)
    with pytest.raises(RuntimeError, match="closed"):
        replay.append(make_unroll(0))


@pytest.mark.parametrize("table", ["sample_online", "sample_replay"])
def test_stop_frees_a_starved_sampler(make_replay, config, table):
    stop = threading.Event()
    replay = make_replay(config, stop.is_set)()
    batches = getattr(replay, table)(2)
    sampling = Call(lambda: list(batches))
    time.sleep(0.5)
    assert sampling.running
    stop.set()
    assert sampling.result(within=2.0) == []
    Call(replay.close).result(within=2.0)
    assert list(batches) == []


@pytest.mark.parametrize("table", ["sample_online", "sample_replay"])
def test_a_closed_replay_gives_nothing_more(make_replay, config, make_unroll, table):
    handle = make_replay(config)
    write(handle(), [make_unroll(i) for i in range(4)])
    reader = handle()
    batches = getattr(reader, table)(2)
    assert next(batches).index.shape == (2,)
    reader.close()
    reader.close()
    assert list(batches) == []


def test_writer_gives_up_with_the_tables_state(make_replay, config, make_unroll):
    config = dataclasses.replace(config, online_capacity=2, write_timeout=0.5, close_timeout=0.2)
    replay = make_replay(config)()
    with pytest.raises(TimeoutError, match="table online holds 2 of at most 2 unrolls") as caught:
        fill(replay, make_unroll, [])
    assert "learner" in str(caught.value) and "\n" not in str(caught.value)
    replay.close()  # the queue is still full


def test_sampler_gives_up_with_the_tables_state_and_loses_nothing(
        make_replay, config, make_unroll):
    handle = make_replay(dataclasses.replace(config, sample_timeout=0.5))
    writer, online = handle(), handle().sample_online(3)
    assert fill(writer, make_unroll, [], count=2)  # one short of a batch
    with pytest.raises(TimeoutError, match="table online holds 0 of at most 100 unrolls, "
                                           "2 inserted, 2 sampled") as caught:
        next(online)
    assert "actors" in str(caught.value) and "\n" not in str(caught.value)
    assert writer.append(make_unroll(2))
    np.testing.assert_array_equal(next(online).index, [0, 1, 2])


def test_replay_waits_for_its_minimum_size(make_replay, config, make_unroll):
    handle = make_replay(dataclasses.replace(config, min_replay_size=6))
    writer, replayed = handle(), handle().sample_replay(2)
    assert fill(writer, make_unroll, [], count=5)
    sampling = Call(lambda: next(replayed))
    time.sleep(0.5)
    assert sampling.running
    assert writer.append(make_unroll(5))
    assert sampling.result(within=5.0).index.shape == (2,)
