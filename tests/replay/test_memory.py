"""Replay in memory: what it takes, what is refused, threads, the same draws from the same seed."""

import dataclasses
import threading

import numpy as np
import pytest

from bmg.actors.rollout import trajectory_signature
from bmg.environments import atari
from bmg.replay.config import ReplayConfig
from bmg.replay.memory import MemoryReplay, check_memory, free_memory, memory_needed
from tests.replay.conftest import never
from tests.waiting import DEADLINE

PAPERS = ReplayConfig(online_capacity=8, replay_capacity=10_000, min_replay_size=8)


def signature_of(config):
    return trajectory_signature(atari.make_spec("pong", config), 20)


def test_the_papers_replay_of_grey_frames_fits_in_two_gibibytes():
    signature = signature_of(atari.LIGHT)
    # 24 frames of 84 x 84, and a little: no frame is kept four times.
    frames = 24 * 84 * 84 * 10_008
    assert frames < memory_needed(signature, PAPERS) < 1.01 * frames < 2 * 2**30
    check_memory(signature, PAPERS, free=2**31)


def test_a_replay_that_does_not_fit_is_refused_with_the_size_that_would():
    signature, free = signature_of(atari.PAPER), 16 * 10**9
    with pytest.raises(ValueError, match=r"replay_capacity 10,000 needs 24\.\d GB .* 16\.0") as e:
        check_memory(signature, PAPERS, free)
    line = str(e.value)
    assert "\n" not in line
    fits = int(line.split("--replay.replay-capacity ")[1].split()[0])
    assert 4_000 < fits < 6_000
    check_memory(signature, dataclasses.replace(PAPERS, replay_capacity=fits), free)
    with pytest.raises(ValueError):
        check_memory(signature, dataclasses.replace(PAPERS, replay_capacity=fits + 1), free)


def test_free_memory_is_some_of_the_machines():
    import psutil

    assert 0 < free_memory() <= psutil.virtual_memory().total


def test_memory_is_taken_as_it_is_filled(signature, config):
    """Two gigabytes are set aside, and two unrolls of 64 megabytes written."""
    import psutil

    big = signature._replace(frames=np.zeros((64, 1024, 1024, 1), np.uint8))
    before = psutil.Process().memory_info().rss
    replay = MemoryReplay(big, dataclasses.replace(config, replay_capacity=32), never, 0)
    for _ in range(2):
        assert replay.append(big)
    assert psutil.Process().memory_info().rss - before < 8 * big.frames.nbytes


def test_the_same_seed_draws_the_same(signature, config, make_unroll):
    def draws(seed):
        replay = MemoryReplay(signature, config, never, seed)
        for i in range(20):
            replay.append(make_unroll(i))
        replayed = replay.sample_replay(10)
        return np.concatenate([next(replayed).index for _ in range(5)])

    np.testing.assert_array_equal(draws(3), draws(3))
    assert (draws(3) != draws(4)).any()


def test_many_threads_lose_and_double_nothing(signature, config, make_unroll):
    """Four writers, two readers of the queue and one of the replay; the queue is nearly always full
    or empty."""
    config = dataclasses.replace(config, online_capacity=3, replay_capacity=40)
    replay, per_writer = MemoryReplay(signature, config, never, 0), 100
    read: list[list[int]] = [[], []]

    def write(start):
        for i in range(start, start + per_writer):
            assert replay.append(make_unroll(i))

    def consume(indices):
        online = replay.sample_online(5)
        for _ in range(4 * per_writer // 2 // 5):
            indices.extend(next(online).index)

    def look():
        replayed = replay.sample_replay(6)
        for _ in range(200):
            batch = next(replayed)
            for row, index in enumerate(batch.index):  # no unroll is half of one, half of another
                np.testing.assert_array_equal(batch.frames[row], make_unroll(int(index)).frames)

    failures: list[BaseException] = []

    def guarded(function, *arguments):
        try:
            function(*arguments)
        except BaseException as error:  # noqa: BLE001 - looked at in the test
            failures.append(error)

    jobs = [(write, 1_000 * i) for i in range(4)] + [(consume, read[i]) for i in range(2)]
    threads = [threading.Thread(target=guarded, args=job, daemon=True) for job in [*jobs, (look,)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not failures and not any(thread.is_alive() for thread in threads)
    expected = sorted(1_000 * w + i for w in range(4) for i in range(per_writer))
    assert sorted(read[0] + read[1]) == expected
    assert replay.occupancy()["replay/online_sampled"] == 400
