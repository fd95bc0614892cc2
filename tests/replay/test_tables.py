"""What is written, what is held, and what comes back."""

import dataclasses

import numpy as np
import pytest
import tree

from replay.client import occupancy
from replay.sampler import Sampler
from replay.server import ONLINE, REPLAY, make_tables
from replay.writer import Writer


def never():
    return False


def write(address, signature, config, unrolls):
    with Writer(address, signature, config, never) as writer:
        for unroll in unrolls:
            assert writer.append(unroll)


def test_one_write_serves_both_tables(address_of, signature, config, make_unroll):
    address = address_of(config)
    write(address, signature, config, [make_unroll(i) for i in range(8)])
    counts = occupancy(address)
    assert counts == {
        "replay/online_size": 8, "replay/online_inserted": 8, "replay/online_sampled": 0,
        "replay/replay_size": 8, "replay/replay_inserted": 8, "replay/replay_sampled": 0,
    }
    with Sampler(address, ONLINE, 8, signature, config, never) as online:
        batch = next(online)
    with Sampler(address, REPLAY, 8, signature, config, never) as replay:
        again = next(replay)
    for row, index in enumerate(again.index):
        tree.map_structure(lambda a, b: np.testing.assert_array_equal(a[row], b[index]),
                           again, batch)
    counts = occupancy(address)
    assert counts["replay/online_size"] == 0
    assert counts["replay/online_sampled"] == 8
    assert counts["replay/replay_size"] == 8
    assert counts["replay/replay_sampled"] >= 8


def test_structure_dtypes_and_values_come_back_exactly(serve, signature, config, make_unroll):
    address = serve(config)
    unrolls = [make_unroll(i) for i in range(3)]
    write(address, signature, config, unrolls)
    with Sampler(address, ONLINE, 3, signature, config, never) as online:
        batch = next(online)
    assert type(batch) is type(signature)
    assert type(batch.inner) is type(signature.inner)
    expected = tree.map_structure(lambda *rows: np.stack(rows), *unrolls)

    def same(given, wanted):
        assert type(given) is np.ndarray
        assert given.dtype == wanted.dtype
        np.testing.assert_array_equal(given, wanted)

    tree.map_structure(same, batch, expected)


def test_arrays_may_be_reused_after_append(serve, signature, config, make_unroll):
    address = serve(config)
    unroll = make_unroll(0)
    with Writer(address, signature, config, never) as writer:
        for value in range(10):
            unroll.frames[:] = value
            assert writer.append(unroll)
            unroll.frames[:] = 255
    with Sampler(address, ONLINE, 10, signature, config, never) as online:
        frames = next(online).frames
    np.testing.assert_array_equal(
        frames, np.broadcast_to(np.arange(10).reshape(10, 1, 1, 1, 1), frames.shape))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_online_gives_each_unroll_once_and_in_order(
        address_of, signature, config, make_unroll, call, batch_size):
    # The queue is far smaller than what goes through it: writer and sampler take turns.
    config = dataclasses.replace(config, online_capacity=5)
    address = address_of(config)
    count = 20 * batch_size
    writing = call(
        lambda: write(address, signature, config, [make_unroll(i) for i in range(count)]))
    with Sampler(address, ONLINE, batch_size, signature, config, never) as online:
        indices = np.concatenate([next(online).index for _ in range(20)])
    writing.result(within=10.0)
    np.testing.assert_array_equal(indices, np.arange(count))


def test_two_writers_interleave_and_each_keeps_its_order(
        serve, signature, config, make_unroll, call):
    config = dataclasses.replace(config, online_capacity=4)
    address = serve(config)
    starts = (0, 1_000)
    writing = [
        call(lambda start=start: write(address, signature, config,
                                       [make_unroll(start + i) for i in range(30)]))
        for start in starts
    ]
    with Sampler(address, ONLINE, 6, signature, config, never) as online:
        indices = np.concatenate([next(online).index for _ in range(10)])
    for writer in writing:
        writer.result(within=10.0)
    for start in starts:
        own = indices[(indices >= start) & (indices < start + 1_000)]
        np.testing.assert_array_equal(own, start + np.arange(30))


def test_replay_drops_the_oldest(serve, signature, config, make_unroll):
    config = dataclasses.replace(config, replay_capacity=5)
    address = serve(config)
    write(address, signature, config, [make_unroll(i) for i in range(12)])
    assert occupancy(address)["replay/replay_size"] == 5
    with Sampler(address, REPLAY, 50, signature, config, never) as replay:
        indices = np.concatenate([next(replay).index for _ in range(6)])
    # 300 draws miss one of five unrolls with probability 5 * 0.8 ** 300.
    assert set(indices) == {7, 8, 9, 10, 11}


def test_replay_follows_what_is_written_meanwhile(serve, signature, config, make_unroll):
    config = dataclasses.replace(config, replay_capacity=5)
    address = serve(config)
    with Writer(address, signature, config, never) as writer:
        for i in range(5):
            writer.append(make_unroll(i))
        with Sampler(address, REPLAY, 4, signature, config, never) as replay:
            next(replay)
            for i in range(5, 10):
                writer.append(make_unroll(i))
            writer.close()
            ahead = config.samples_in_flight + config.prefetch_batches * 4
            for _ in range(-(-ahead // 4)):  # drawn before the new ones came
                next(replay)
            indices = np.concatenate([next(replay).index for _ in range(20)])
    assert set(indices) == {5, 6, 7, 8, 9}


def test_replay_draws_uniformly_and_afresh(address_of, signature, config, make_unroll):
    size, batch_size, batches = 50, 16, 250
    address = address_of(config)
    write(address, signature, config, [make_unroll(i) for i in range(size)])
    with Sampler(address, REPLAY, batch_size, signature, config, never) as replay:
        draws = np.stack([next(replay).index for _ in range(batches)])  # [batches, batch_size]
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


def test_no_replay_table_without_capacity(serve, signature, config, make_unroll):
    config = dataclasses.replace(config, replay_capacity=0)
    assert [table.name for table in make_tables(signature, config)] == [ONLINE]
    address = serve(config)
    write(address, signature, config, [make_unroll(i) for i in range(3)])
    assert set(occupancy(address)) == {
        "replay/online_size", "replay/online_inserted", "replay/online_sampled"}
    with Sampler(address, ONLINE, 3, signature, config, never) as online:
        np.testing.assert_array_equal(next(online).index, [0, 1, 2])
    with pytest.raises(ValueError, match="has no table replay, only online"):
        next(Sampler(address, REPLAY, 3, signature, config, never))


def test_wrong_unrolls_are_refused_in_one_line(serve, signature, config, make_unroll):
    address = serve(config)
    good = make_unroll(0)
    cases = [
        (good._replace(frames=good.frames[:2]),
         r"unroll has frames uint8\[2, 4, 4, 1\]: must be uint8\[3, 4, 4, 1\]"),
        (good._replace(inner=good.inner._replace(reward=np.zeros(2))),
         r"unroll has inner.reward float64\[2\]: must be float32\[2\]"),
        (good._replace(index=0), r"unroll has index int64\[\]: must be int32\[\]"),
        (tuple(good), "unroll is a tuple of .*: must be a Unroll of frames, inner.reward"),
        (good._replace(extras={"version": good.extras["version"]}),
         "unroll is a .*: must be a Unroll of .*, extras.logits, extras.version"),
    ]
    with Writer(address, signature, config, never) as writer:
        for unroll, message in cases:
            with pytest.raises(ValueError, match=message) as caught:
                writer.append(unroll)
            assert "\n" not in str(caught.value)
        assert writer.append(good)  # a refused unroll leaves nothing behind
    assert occupancy(address)["replay/online_inserted"] == 1


def test_another_signature_than_the_servers_is_refused(serve, signature, config):
    address = serve(config)
    other = signature._replace(frames=np.zeros([3, 8, 8, 1], np.uint8))
    message = r"table \w+ has frames uint8\[3, 4, 4, 1\]: must be uint8\[3, 8, 8, 1\]"
    with pytest.raises(ValueError, match=message):
        Writer(address, other, config, never).append(other)
    with pytest.raises(ValueError, match=message):
        next(Sampler(address, ONLINE, 2, other, config, never))
