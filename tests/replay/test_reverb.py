"""Replay over Reverb: what is sent ahead, signatures, servers that are gone."""

import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("bmg.replay.backend", reason="needs Reverb")  # without TensorFlow

from bmg.replay.client import Client
from bmg.replay.interface import ONLINE, REPLAY
from bmg.replay.sampler import Sampler
from bmg.replay.server import Server, make_tables
from bmg.replay.writer import Writer
from tests.ports import free_port
from tests.replay.conftest import never
from tests.replay.test_waiting import fill
from tests.waiting import DEADLINE, Call, Stop, eventually, steadily, waits


@pytest.fixture(params=["here", "remote"])
def address_of(request, patience):
    """Starts a server of a configuration, here and remotely in turn, and returns its address."""
    if request.param == "here":
        return request.getfixturevalue("serve")
    return request.getfixturevalue("shared_remote").serve


@pytest.mark.parametrize("max_unconfirmed", [1, 3])
def test_full_queue_holds_the_writer_back_until_sampled(
    address_of, signature, config, make_unroll, max_unconfirmed
):
    config = dataclasses.replace(config, online_capacity=3, max_unconfirmed=max_unconfirmed)
    address = address_of(config)
    stop, written = Stop(), []
    writer = Writer(address, signature, config, stop)
    writing = Call(lambda: fill(writer, make_unroll, written))
    eventually(lambda: len(written) > 3)
    assert waits(writing, stop, written)
    assert 3 < len(written) <= 3 + max_unconfirmed
    counts = Client(address).occupancy()
    assert counts["replay/online_size"] == 3
    # A full queue leaves the replay no emptier than itself: its minimum size is in reach.
    assert 3 <= counts["replay/replay_size"] <= len(written)
    with Sampler(address, ONLINE, 5, signature, config, never) as online:
        indices = np.concatenate([next(online).index for _ in range(10)])
    assert writing.result()
    writer.close()
    np.testing.assert_array_equal(indices, np.arange(50))


def test_sampler_takes_no_more_than_it_says_ahead(address_of, signature, config, make_unroll):
    address = address_of(config)
    with Writer(address, signature, config, never) as writer:
        assert fill(writer, make_unroll, [], count=40)
    with Sampler(address, ONLINE, 4, signature, config, never) as online:
        next(online)
        taken = 4 + 4 * config.prefetch_batches + config.samples_in_flight
        eventually(lambda: Client(address).occupancy()["replay/online_sampled"] >= taken)
        steadily(lambda: Client(address).occupancy()["replay/online_sampled"] == taken)


def test_another_signature_than_the_servers_is_refused(serve, signature, config):
    address = serve(config)
    other = signature._replace(frames=np.zeros([3, 8, 8, 1], np.uint8))
    message = r"table \w+ has frames uint8\[3, 4, 4, 1\]: must be uint8\[3, 8, 8, 1\]"
    with pytest.raises(ValueError, match=message):
        Writer(address, other, config, never).append(other)
    with pytest.raises(ValueError, match=message):
        next(Sampler(address, ONLINE, 2, other, config, never))


def test_no_replay_table_is_made_without_capacity(signature, config):
    config = dataclasses.replace(config, replay_capacity=0)
    assert [table.name() for table in make_tables(signature, config)] == [ONLINE]


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_dead_server_ends_every_wait(mortal, clock, signature, config, make_unroll, how):
    config = dataclasses.replace(config, write_timeout=1.5, sample_timeout=1.5, close_timeout=0.3)
    address = mortal.serve(config)
    writer = Writer(address, signature, config, never)
    online = Sampler(address, ONLINE, 2, signature, config, never)
    replay = Sampler(address, REPLAY, 2, signature, config, never)
    late = Sampler(address, REPLAY, 2, signature, config, never)
    late_writer = Writer(address, signature, config, never)
    assert fill(writer, make_unroll, [], count=10)
    next(online), next(replay)
    mortal.send(how)
    calls = [
        Call(lambda: fill(writer, make_unroll, [])),
        Call(lambda: list(online)),
        Call(lambda: list(replay)),
        Call(lambda: next(late)),
        Call(lambda: late_writer.append(make_unroll(0))),
        Call(Client(address).occupancy),
    ]

    def time_passes():
        clock.now += 0.1
        return not any(call.running for call in calls)

    eventually(time_passes)
    for call in calls:
        with pytest.raises(TimeoutError, match="gives no answer") as caught:
            call.result()
        assert "\n" not in str(caught.value)
    for closable in (writer, online, replay, late, late_writer):
        Call(closable.close).result()


def test_stop_frees_those_who_wait_for_a_server(signature, config, make_unroll):
    address = f"localhost:{free_port()}"
    stops = [Stop(), Stop()]
    writer = Writer(address, signature, config, stops[0])
    sampler = Sampler(address, ONLINE, 2, signature, config, stops[1])
    calls = [Call(lambda: writer.append(make_unroll(0))), Call(lambda: not list(sampler))]
    assert all(map(waits, calls, stops))
    for stop in stops:
        stop.set()
    assert [call.result() for call in calls] == [False, True]


_FORGETFUL = """
import sys
import numpy as np
from bmg.replay.config import ReplayConfig
from bmg.replay.sampler import Sampler
from bmg.replay.writer import Writer
config = ReplayConfig(online_capacity=2, replay_capacity=0, sample_timeout=0.5, write_timeout=0.5,
                      close_timeout=1.0, poll_interval=0.1)
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
    config = dataclasses.replace(config, online_capacity=2, replay_capacity=0)
    server = Server((np.zeros(3, np.float32),), config)
    done = subprocess.run(
        [sys.executable, "-c", _FORGETFUL, f"localhost:{server.port}"],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    server.stop()
    assert done.stdout.split() == ["timeout"] * 3, done.stderr
    assert done.returncode == 0, done.stderr
