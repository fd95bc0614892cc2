"""Nobody waits for ever, in memory or over Reverb: full queues, empty tables, requests to stop."""

import dataclasses

import numpy as np
import pytest

from bmg.replay.memory import MemoryReplay
from tests.replay.test_tables import arrived, write
from tests.waiting import Call, Stop, eventually, waits


def fill(replay, make_unroll, written, count=50):
    """Appends until told to stop; `written` grows with it."""
    for i in range(count):
        if not replay.append(make_unroll(i)):
            return False
        written.append(i)
    return True


def held_back(writing, stop, replay, config, written):
    """Waits until a writer waits for room and nothing is under way any more; not if it never does.

    Over Reverb an unroll more than the queue holds was sent, of one that may be unconfirmed.
    """
    assert config.max_unconfirmed == 1
    count = config.online_capacity + (not isinstance(replay, MemoryReplay))
    eventually(lambda: len(written) >= count)
    return waits(writing, stop, written) and len(written) == count


def test_full_queue_holds_the_writer_back_until_sampled(make_replay, config, make_unroll):
    stop, written = Stop(), []
    handle = make_replay(dataclasses.replace(config, online_capacity=3), stop)
    writing = Call(lambda: fill(handle(), make_unroll, written))
    eventually(lambda: len(written) >= 3)
    assert waits(writing, stop, written)
    assert 3 <= len(written) <= 3 + config.max_unconfirmed
    reader = handle()
    counts = reader.occupancy()
    assert counts["replay/online_size"] == 3
    # A full queue leaves the replay no emptier than itself: its minimum size is in reach.
    assert 3 <= counts["replay/replay_size"] <= len(written)
    online = reader.sample_online(5)
    indices = np.concatenate([next(online).index for _ in range(10)])
    assert writing.result()
    np.testing.assert_array_equal(indices, np.arange(50))


def test_stop_frees_a_blocked_writer(make_replay, config, make_unroll):
    stop, written = Stop(), []
    replay = make_replay(dataclasses.replace(config, online_capacity=2), stop)()
    writing = Call(lambda: fill(replay, make_unroll, written))
    eventually(lambda: len(written) >= 2)
    assert waits(writing, stop, written)
    stop.set()
    assert writing.result() is False
    Call(replay.close).result()
    with pytest.raises(RuntimeError, match="closed"):
        replay.append(make_unroll(0))


@pytest.mark.parametrize("table", ["sample_online", "sample_replay"])
def test_stop_frees_a_starved_sampler(make_replay, config, table):
    stop = Stop()
    replay = make_replay(config, stop)()
    batches = getattr(replay, table)(2)
    sampling = Call(lambda: list(batches))
    assert waits(sampling, stop)
    stop.set()
    assert sampling.result() == []
    Call(replay.close).result()
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


def test_writer_gives_up_with_the_tables_state(make_replay, clock, config, make_unroll):
    config = dataclasses.replace(
        config, online_capacity=2, max_unconfirmed=1, write_timeout=0.5, close_timeout=0.2
    )
    stop, written = Stop(), []
    replay = make_replay(config, stop)()
    writing = Call(lambda: fill(replay, make_unroll, written))
    assert held_back(writing, stop, replay, config, written)
    clock.now += 0.4
    assert waits(writing, stop, written)
    clock.now += 0.2
    with pytest.raises(TimeoutError, match="table online holds 2 of at most 2 unrolls") as caught:
        writing.result()
    assert "learner" in str(caught.value) and "\n" not in str(caught.value)
    replay.close()  # the queue is still full


def test_sampler_gives_up_with_the_tables_state_and_loses_nothing(
    make_replay, clock, config, make_unroll
):
    stop = Stop()
    handle = make_replay(dataclasses.replace(config, sample_timeout=0.5), stop)
    writer, online = handle(), handle().sample_online(3)
    assert fill(writer, make_unroll, [], count=2)  # one short of a batch
    sampling = Call(lambda: next(online))
    eventually(lambda: writer.occupancy()["replay/online_sampled"] == 2)
    clock.now += 0.4
    assert waits(sampling, stop)
    clock.now += 0.2
    with pytest.raises(
        TimeoutError, match="table online holds 0 of at most 100 unrolls, 2 inserted, 2 sampled"
    ) as caught:
        sampling.result()
    assert "actors" in str(caught.value) and "\n" not in str(caught.value)
    assert writer.append(make_unroll(2))
    np.testing.assert_array_equal(next(online).index, [0, 1, 2])


def test_replay_waits_for_its_minimum_size(make_replay, config, make_unroll):
    stop = Stop()
    handle = make_replay(dataclasses.replace(config, min_replay_size=6), stop)
    writer, replayed = handle(), handle().sample_replay(2)
    assert fill(writer, make_unroll, [], count=5)
    arrived(writer, 5)
    sampling = Call(lambda: next(replayed))
    assert waits(sampling, stop)
    assert writer.append(make_unroll(5))
    assert sampling.result().index.shape == (2,)
