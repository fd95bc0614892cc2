"""What is written, what is held, and what comes back: of replay in memory and over Reverb."""

import dataclasses

import numpy as np
import pytest
import tree

from tests.waiting import Call, eventually


def write(replay, unrolls):
    for unroll in unrolls:
        assert replay.append(unroll)


def arrived(replay, count):
    """Waits until so many unrolls are in both tables: over Reverb a few are still on their way."""
    tables = ("replay/online_inserted", "replay/replay_inserted")
    eventually(lambda: all(replay.occupancy()[name] == count for name in tables))


def counts_of(replay, online, replayed):
    """Occupancy from (size, inserted, sampled) of each table."""
    names = ("size", "inserted", "sampled")
    tables = {"online": online, "replay": replayed}
    return {
        f"replay/{table}_{name}": value
        for table, values in tables.items()
        for name, value in zip(names, values)
    }


def test_one_write_serves_both_tables(make_replay, config, make_unroll):
    handle = make_replay(config)
    write(handle(), [make_unroll(i) for i in range(8)])
    reader = handle()
    arrived(reader, 8)
    assert reader.occupancy() == counts_of(reader, (8, 8, 0), (8, 8, 0))
    batch = next(reader.sample_online(8))
    again = next(reader.sample_replay(8))
    for row, index in enumerate(again.index):
        tree.map_structure(
            lambda a, b: np.testing.assert_array_equal(a[row], b[index]), again, batch
        )
    counts = reader.occupancy()
    assert counts["replay/online_size"] == 0
    assert counts["replay/online_sampled"] == 8
    assert counts["replay/replay_size"] == 8
    assert counts["replay/replay_sampled"] >= 8


def test_structure_dtypes_and_values_come_back_exactly(make_replay, signature, config, make_unroll):
    replay = make_replay(config)()
    unrolls = [make_unroll(i) for i in range(3)]
    write(replay, unrolls)
    batch = next(replay.sample_online(3))
    assert type(batch) is type(signature)
    assert type(batch.inner) is type(signature.inner)
    expected = tree.map_structure(lambda *rows: np.stack(rows), *unrolls)

    def same(given, wanted):
        assert type(given) is np.ndarray
        assert given.dtype == wanted.dtype
        np.testing.assert_array_equal(given, wanted)

    tree.map_structure(same, batch, expected)
    replayed = next(replay.sample_replay(2))
    tree.map_structure(
        lambda *arrays: same(arrays[0], np.stack(arrays[1:])),
        replayed,
        *(unrolls[i] for i in replayed.index),
    )


def test_arrays_belong_to_the_caller(make_replay, config, make_unroll):
    """Those that were appended, and those of a batch."""
    replay = make_replay(config)()
    unroll = make_unroll(0)
    for value in range(10):
        unroll.frames[:] = value
        assert replay.append(unroll)
        unroll.frames[:] = 255
    online, replayed = replay.sample_online(5), replay.sample_replay(50)
    for values in (range(5), range(5, 10)):
        frames = next(online).frames
        np.testing.assert_array_equal(
            frames, np.broadcast_to(np.reshape(values, (5, 1, 1, 1, 1)), frames.shape)
        )
        frames[:] = 77
    for _ in range(3):
        frames = next(replayed).frames
        assert frames.max() < 10
        frames[:] = 88


@pytest.mark.parametrize("batch_size", [1, 7])
def test_online_gives_each_unroll_once_and_in_order(make_replay, config, make_unroll, batch_size):
    # The queue is far smaller than what goes through it: writer and sampler take turns.
    handle = make_replay(dataclasses.replace(config, online_capacity=5))
    count = 20 * batch_size
    writing = Call(lambda: write(handle(), [make_unroll(i) for i in range(count)]))
    online = handle().sample_online(batch_size)
    indices = np.concatenate([next(online).index for _ in range(20)])
    writing.result()
    np.testing.assert_array_equal(indices, np.arange(count))


def test_two_writers_interleave_and_each_keeps_its_order(make_replay, config, make_unroll):
    handle = make_replay(dataclasses.replace(config, online_capacity=4))
    starts = (0, 1_000)
    writing = [
        Call(lambda start=start: write(handle(), [make_unroll(start + i) for i in range(30)]))
        for start in starts
    ]
    online = handle().sample_online(6)
    indices = np.concatenate([next(online).index for _ in range(10)])
    for writer in writing:
        writer.result()
    for start in starts:
        own = indices[(indices >= start) & (indices < start + 1_000)]
        np.testing.assert_array_equal(own, start + np.arange(30))


def test_replay_drops_the_oldest(make_replay, config, make_unroll):
    replay = make_replay(dataclasses.replace(config, replay_capacity=5))()
    write(replay, [make_unroll(i) for i in range(12)])
    arrived(replay, 12)
    assert replay.occupancy()["replay/replay_size"] == 5
    replayed = replay.sample_replay(50)
    indices = np.concatenate([next(replayed).index for _ in range(6)])
    # 300 draws miss one of five unrolls with probability 5 * 0.8 ** 300.
    assert set(indices) == {7, 8, 9, 10, 11}


def test_replay_follows_what_is_written_meanwhile(make_replay, config, make_unroll):
    handle = make_replay(dataclasses.replace(config, replay_capacity=5))
    writer = handle()
    write(writer, [make_unroll(i) for i in range(5)])
    replayed = handle().sample_replay(4)
    next(replayed)
    write(writer, [make_unroll(i) for i in range(5, 10)])
    arrived(writer, 10)
    ahead = config.samples_in_flight + config.prefetch_batches * 4
    for _ in range(-(-ahead // 4)):  # drawn before the new ones came, where anything is
        next(replayed)
    indices = np.concatenate([next(replayed).index for _ in range(20)])
    assert set(indices) == {5, 6, 7, 8, 9}


def test_replay_draws_uniformly_and_afresh(make_replay, config, make_unroll):
    size, batch_size, batches = 50, 16, 250
    replay = make_replay(config)()
    write(replay, [make_unroll(i) for i in range(size)])
    arrived(replay, size)
    replayed = replay.sample_replay(batch_size)
    draws = np.stack([next(replayed).index for _ in range(batches)])  # [batches, batch_size]
    counts = np.bincount(draws.ravel(), minlength=size)
    expected = draws.size / size
    # Chi-square with 49 degrees of freedom lies outside of 16..105 once in 100,000 times; drawing
    # without replacement gives nearly 0, and any favourite gives more.
    assert 16 < np.sum((counts - expected) ** 2 / expected) < 105
    # Independent draws: equal neighbours, and equal places in successive batches, once in 50.
    flat = draws.ravel()
    for lag in (1, 2, batch_size):
        repeats = np.mean(flat[lag:] == flat[:-lag])
        assert repeats == pytest.approx(1 / size, abs=0.012)


def test_no_replay_table_without_capacity(make_replay, config, make_unroll):
    replay = make_replay(dataclasses.replace(config, replay_capacity=0))()
    write(replay, [make_unroll(i) for i in range(3)])
    assert set(replay.occupancy()) == {
        "replay/online_size",
        "replay/online_inserted",
        "replay/online_sampled",
    }
    np.testing.assert_array_equal(next(replay.sample_online(3)).index, [0, 1, 2])
    with pytest.raises(ValueError, match="has no table replay, only online"):
        next(replay.sample_replay(3))


def test_wrong_unrolls_are_refused_in_one_line(make_replay, config, make_unroll):
    replay = make_replay(config)()
    good = make_unroll(0)
    cases = [
        (
            good._replace(frames=good.frames[:2]),
            r"unroll has frames uint8\[2, 4, 4, 1\]: must be uint8\[3, 4, 4, 1\]",
        ),
        (
            good._replace(inner=good.inner._replace(reward=np.zeros(2))),
            r"unroll has inner.reward float64\[2\]: must be float32\[2\]",
        ),
        (good._replace(index=0), r"unroll has index int64\[\]: must be int32\[\]"),
        (tuple(good), "unroll is a tuple of .*: must be a Unroll of frames, inner.reward"),
        (
            good._replace(extras={"version": good.extras["version"]}),
            "unroll is a .*: must be a Unroll of .*, extras.logits, extras.version",
        ),
    ]
    for unroll, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            replay.append(unroll)
        assert "\n" not in str(caught.value)
    assert replay.append(good)  # a refused unroll leaves nothing behind
    assert len(next(replay.sample_online(1)).index) == 1
    assert replay.occupancy()["replay/online_inserted"] == 1


def test_batches_of_nothing_are_refused(make_replay, config):
    replay = make_replay(config)()
    for sample in (replay.sample_online, replay.sample_replay):
        with pytest.raises(ValueError, match="batch_size=0: must be at least 1"):
            sample(0)
