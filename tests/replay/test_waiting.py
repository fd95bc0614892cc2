"""Nobody waits for ever: full queues, empty tables, requests to stop, servers that are gone."""

import dataclasses
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import portpicker
import pytest

from replay.client import occupancy
from replay.sampler import Sampler
from replay.server import ONLINE, REPLAY
from replay.writer import Writer


def never():
    return False


def fill(writer, make_unroll, written, count=50):
    """Appends until told to stop; `written` grows with it."""
    for i in range(count):
        if not writer.append(make_unroll(i)):
            return False
        written.append(i)
    return True


@pytest.mark.parametrize("max_unconfirmed", [1, 3])
def test_full_queue_holds_the_writer_back_until_sampled(
        address_of, signature, config, make_unroll, call, eventually, max_unconfirmed):
    config = dataclasses.replace(config, online_capacity=3, max_unconfirmed=max_unconfirmed)
    address = address_of(config)
    written = []
    writer = Writer(address, signature, config, never)
    writing = call(lambda: fill(writer, make_unroll, written))
    eventually(lambda: len(written) > 3)
    time.sleep(0.5)
    assert writing.running
    assert 3 < len(written) <= 3 + max_unconfirmed
    counts = occupancy(address)
    assert counts["replay/online_size"] == 3
    # A full queue leaves the replay no emptier than itself: its minimum size is in reach.
    assert 3 <= counts["replay/replay_size"] <= len(written)
    with Sampler(address, ONLINE, 5, signature, config, never) as online:
        indices = np.concatenate([next(online).index for _ in range(10)])
    assert writing.result(within=10.0)
    writer.close()
    np.testing.assert_array_equal(indices, np.arange(50))


def test_sampler_takes_no_more_than_it_says_ahead(
        address_of, signature, config, make_unroll, eventually):
    address = address_of(config)
    with Writer(address, signature, config, never) as writer:
        assert fill(writer, make_unroll, [], count=40)
    with Sampler(address, ONLINE, 4, signature, config, never) as online:
        next(online)
        taken = 4 + 4 * config.prefetch_batches + config.samples_in_flight
        eventually(lambda: occupancy(address)["replay/online_sampled"] >= taken)
        time.sleep(0.3)
        assert occupancy(address)["replay/online_sampled"] == taken


def test_stop_frees_a_blocked_writer(address_of, signature, config, make_unroll, call, eventually):
    config = dataclasses.replace(config, online_capacity=2)
    stop = threading.Event()
    writer = Writer(address_of(config), signature, config, stop.is_set)
    written = []
    writing = call(lambda: fill(writer, make_unroll, written))
    eventually(lambda: len(written) > 2)
    time.sleep(0.5)
    assert writing.running
    stop.set()
    assert writing.result(within=2.0) is False
    call(writer.close).result(within=2.0)
    with pytest.raises(RuntimeError, match="closed"):
        writer.append(make_unroll(0))


@pytest.mark.parametrize("table", [ONLINE, REPLAY])
def test_stop_frees_a_starved_sampler(address_of, signature, config, call, table):
    stop = threading.Event()
    sampler = Sampler(address_of(config), table, 2, signature, config, stop.is_set)
    sampling = call(lambda: list(sampler))
    time.sleep(0.5)
    assert sampling.running
    stop.set()
    assert sampling.result(within=2.0) == []
    call(sampler.close).result(within=2.0)
    assert list(sampler) == []


def test_writer_gives_up_with_the_tables_state(serve, signature, config, make_unroll):
    config = dataclasses.replace(config, online_capacity=2, write_timeout=0.5, close_timeout=0.2)
    writer = Writer(serve(config), signature, config, never)
    with pytest.raises(TimeoutError, match="table online holds 2 of at most 2 unrolls") as caught:
        fill(writer, make_unroll, [])
    assert "learner" in str(caught.value) and "\n" not in str(caught.value)
    writer.close()  # the queue is still full


def test_sampler_gives_up_with_the_tables_state_and_loses_nothing(
        serve, signature, config, make_unroll):
    config = dataclasses.replace(config, sample_timeout=0.5)
    address = serve(config)
    writer = Writer(address, signature, config, never)
    with Sampler(address, ONLINE, 3, signature, config, never) as online:
        assert fill(writer, make_unroll, [], count=2)  # one short of a batch
        with pytest.raises(TimeoutError, match="table online holds 0 of at most 100 unrolls, "
                                               "2 inserted, 2 sampled") as caught:
            next(online)
        assert "actors" in str(caught.value) and "\n" not in str(caught.value)
        assert writer.append(make_unroll(2))
        np.testing.assert_array_equal(next(online).index, [0, 1, 2])
    writer.close()


def test_replay_waits_for_its_minimum_size(serve, signature, config, make_unroll, call):
    config = dataclasses.replace(config, min_replay_size=6)
    address = serve(config)
    with Writer(address, signature, config, never) as writer, \
            Sampler(address, REPLAY, 2, signature, config, never) as replay:
        assert fill(writer, make_unroll, [], count=5)
        sampling = call(lambda: next(replay))
        time.sleep(0.5)
        assert sampling.running
        assert writer.append(make_unroll(5))
        assert sampling.result(within=5.0).index.shape == (2,)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_dead_server_ends_every_wait(
        mortal, signature, config, make_unroll, call, how):
    config = dataclasses.replace(
        config, write_timeout=1.5, sample_timeout=1.5, close_timeout=0.3)
    address = mortal.serve(config)
    writer = Writer(address, signature, config, never)
    online = Sampler(address, ONLINE, 2, signature, config, never)
    replay = Sampler(address, REPLAY, 2, signature, config, never)
    late = Sampler(address, REPLAY, 2, signature, config, never)
    late_writer = Writer(address, signature, config, never)
    assert fill(writer, make_unroll, [], count=10)
    next(online), next(replay)
    mortal.send(how)
    waits = [
        call(lambda: fill(writer, make_unroll, [])),
        call(lambda: list(online)),
        call(lambda: list(replay)),
        call(lambda: next(late)),
        call(lambda: late_writer.append(make_unroll(0))),
        call(lambda: occupancy(address)),
    ]
    for wait in waits:
        with pytest.raises(TimeoutError, match="gives no answer") as caught:
            wait.result(within=8.0)
        assert "\n" not in str(caught.value)
    for closable in (writer, online, replay, late, late_writer):
        call(closable.close).result(within=2.0)


def test_stop_frees_those_who_wait_for_a_server(
        signature, config, make_unroll, call):
    address = f"localhost:{portpicker.pick_unused_port()}"
    stop = threading.Event()
    writer = Writer(address, signature, config, stop.is_set)
    sampler = Sampler(address, ONLINE, 2, signature, config, stop.is_set)
    waits = [call(lambda: writer.append(make_unroll(0))), call(lambda: not list(sampler))]
    time.sleep(0.5)
    stop.set()
    assert [wait.result(within=3.0) for wait in waits] == [False, True]


_FORGETFUL = """
import sys
import numpy as np
from replay.config import ReplayConfig
from replay.sampler import Sampler
from replay.writer import Writer
config = ReplayConfig(online_capacity=2, replay_capacity=0, sample_timeout=0.5, write_timeout=0.5,
                      close_timeout=0.1, poll_interval=0.1)
signature = (np.zeros(3, np.float32),)
for make in (
    lambda: next(Sampler(sys.argv[1], "online", 2, signature, config, lambda: False)),
    lambda: [writer.append(signature) for _ in range(9)],
):
    writer = Writer(sys.argv[1], signature, config, lambda: False)
    try:
        make()
    except TimeoutError:
        print("timeout")
reader = Sampler(sys.argv[1], "online", 50, signature, config, lambda: False)
try:
    next(reader)
except TimeoutError:
    print("timeout")
"""


def test_process_that_closes_nothing_exits(config):
    from replay.backend import reverb
    from replay.server import make_tables

    config = dataclasses.replace(config, online_capacity=2, replay_capacity=0)
    server = reverb.Server(make_tables((np.zeros(3, np.float32),), config), port=None)
    done = subprocess.run(
        [sys.executable, "-c", _FORGETFUL, f"localhost:{server.port}"],
        cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True, timeout=40)
    server.stop()
    assert done.stdout.split() == ["timeout"] * 3, done.stderr
    assert done.returncode == 0, done.stderr
