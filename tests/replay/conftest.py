"""Replay in memory and over real Reverb servers, and a hard stop for tests that hang."""

from __future__ import annotations

import dataclasses
import faulthandler
import pathlib
import pickle
import signal
import subprocess
import sys
import types
from typing import NamedTuple

import numpy as np
import pytest
import tree

from bmg.replay import waiting
from bmg.replay.config import ReplayConfig
from bmg.replay.memory import MemoryReplay
from tests.waiting import DEADLINE, Clock

ROOT = pathlib.Path(__file__).parents[2]
HARD_TIMEOUT = 330.0  # seconds: pytest's own limit, which comes first, cannot end C++


class Inner(NamedTuple):
    reward: np.ndarray  # float32 [2]
    first: np.ndarray  # bool [2]


class Unroll(NamedTuple):
    frames: np.ndarray  # uint8 [3, 4, 4, 1]
    inner: Inner
    extras: dict  # logits: float32 [2, 5]; version: int64 []
    index: np.ndarray  # int32 []


@pytest.fixture(autouse=True)
def hard_timeout():
    """Ends the whole run, with a traceback, if one test hangs, inside C++ or not."""
    faulthandler.dump_traceback_later(HARD_TIMEOUT, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def make_unroll():
    def make(index: int) -> Unroll:
        rng = np.random.default_rng(index)
        return Unroll(
            frames=rng.integers(0, 256, (3, 4, 4, 1), np.uint8),
            inner=Inner(
                reward=np.array([np.nan, rng.normal()], np.float32), first=rng.random(2) < 0.5
            ),
            extras={
                "version": np.array(2**40 + index, np.int64),
                "logits": rng.normal(size=(2, 5)).astype(np.float32),
            },
            index=np.array(index, np.int32),
        )

    return make


@pytest.fixture(scope="session")
def signature(make_unroll):
    return make_unroll(0)


@pytest.fixture(scope="session")
def config():
    return ReplayConfig(
        online_capacity=100,
        replay_capacity=100,
        min_replay_size=1,
        max_unconfirmed=2,
        samples_in_flight=2,
        prefetch_batches=1,
        write_timeout=DEADLINE,
        sample_timeout=DEADLINE,
        close_timeout=0.5,
        poll_interval=0.1,
    )


@pytest.fixture
def clock(monkeypatch):
    """The clock of everyone who waits: no wait becomes long or ends but by it."""
    clock = Clock()
    monkeypatch.setattr(waiting, "time", types.SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def patience(monkeypatch):
    """A server that is there is waited for, however slowly it answers."""
    monkeypatch.setattr("bmg.replay.client.INFO_TIMEOUT", int(DEADLINE))


@pytest.fixture
def serve(signature, patience):
    """Starts servers in this process; Reverb then takes a short cut past the network to sample."""
    from bmg.replay.server import Server

    servers = []

    def start(config: ReplayConfig) -> str:
        servers.append(Server(signature, config))
        return f"localhost:{servers[-1].port}"

    yield start
    for server in servers:
        server.stop()


_REMOTE = """
import pickle, sys
from bmg.replay.config import ReplayConfig
from bmg.replay.server import Server
server = None
while True:
    config, leaves = pickle.load(sys.stdin.buffer)
    server = None  # stops the last one
    server = Server(tuple(leaves), ReplayConfig(**config))
    print(server.port, flush=True)
"""


class Remote:
    """A process that runs one server at a time: over the network, and to be killed."""

    def __init__(self, signature):
        self._leaves = tree.flatten(signature)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _REMOTE],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def serve(self, config: ReplayConfig) -> str:
        pickle.dump((dataclasses.asdict(config), self._leaves), self._process.stdin)
        self._process.stdin.flush()
        return f"localhost:{int(self._process.stdout.readline())}"

    def send(self, how: str) -> None:
        """Kills the server without notice (SIGKILL), or freezes it, as a lost network would."""
        self._process.send_signal(getattr(signal, how))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture
def mortal(signature):
    """A remote of this test's own."""
    remote = Remote(signature)
    yield remote
    remote.end()


@pytest.fixture(scope="session")
def shared_remote(signature):
    """A remote for one test after the other: its imports take seconds."""
    remote = Remote(signature)
    yield remote
    remote.end()


def never() -> bool:
    return False


@pytest.fixture(
    params=[
        "memory",
        pytest.param("here", marks=pytest.mark.reverb),
        pytest.param("remote", marks=pytest.mark.reverb),
    ]
)
def make_replay(request, signature):
    """Makes a replay of a configuration; returns a function that gives a handle of it.

    In memory all have the same handle; over Reverb, from a server here and a remote one in turn,
    each has its own.
    """
    # Servers are asked for here, so that they outlive the handles: one that stops while a sampler
    # is open waits for it.
    if request.param != "memory":
        request.getfixturevalue("patience")
    fixture = {"here": "serve", "remote": "shared_remote"}.get(request.param)
    servers = fixture and request.getfixturevalue(fixture)
    handles = []

    def make(config: ReplayConfig, should_stop=never, on_stall=print):
        if request.param == "memory":
            handles.append(MemoryReplay(signature, config, should_stop, 7, on_stall))
            return lambda: handles[0]
        from bmg.replay.remote import RemoteReplay

        address = servers(config) if request.param == "here" else servers.serve(config)

        def handle():
            handles.append(RemoteReplay(address, signature, config, should_stop, on_stall))
            return handles[-1]

        return handle

    yield make
    for handle in handles:
        handle.close()
