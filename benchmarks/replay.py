"""The replay path alone at the paper's frame size: recorded Pong into Reverb and out again as the
learner's batches. No emulator, no policy and no update beside it.

    recorded unrolls ──► writer's process ──► server's process ──► reader's process
                                              online, replay       Prefetcher, batches dropped

What an update of the paper reads (BMG Table 2, with K = 1 and L = 4):

    6 fresh unrolls + 12 replayed ones + 3 · 12 more for the target's steps = 54 unrolls
    54 unrolls · 24 frames (20 steps, the first one and 3 below it in the stack) · 210 · 160 · 3 B
        = 131 MB, raw

What it needs: a day for 200 M frames, of which an update learns 6 · 20 · 4 = 480 (each fresh step
is four frames of the game), so 200 M / 86,400 s / 480 = 4.82 updates per second, or 630 MB/s.

Reverb compresses each column of an unroll with snappy; its interface offers no way to switch that
off. In the reader a thread of Reverb's own receives, decompresses and copies one unroll after the
other; a thread of Python copies it twice, once under the interpreter's lock.

Milliseconds are time on a core for one update, which other work on the machine changes little:
of the reader's process (with all that is in it), the server's, all writers', and of the reader's
busiest thread. However many cores there are, no more than 1000 / busiest_thread_ms updates per
second can be had.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import psutil

from bmg.actors.inference import Actions, Request
from bmg.actors.rollout import Rollout
from bmg.agents.trajectory import Trajectory
from bmg.benchmarks.config import BenchmarkConfig
from bmg.environments.atari import PAPER, AtariConfig
from bmg.environments.factory import make
from bmg.learner.batches import Prefetcher
from bmg.replay.config import ReplayConfig
from bmg.replay.interface import Replay
from bmg.replay.memory import MemoryReplay
from bmg.storage.fields import Count, Few, Nodes, Seconds

_DAY = 86_400.0
_FRAMES = 200_000_000  # of the paper's run
_START = 240.0  # seconds that a process may take to start, and the first batch to come
_WARM_UP = 3  # updates before the measurement
_ENVS = 24  # emulators that record
# Of glibc's: freed blocks of an unroll's size are kept, and not taken anew from the system, page
# by page, each time.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "1073741824"}


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Measure the replay path alone, as the program has it and with one thing changed at a time."""

    seconds: Seconds = 10.0
    """That each row is measured for; a quick one takes 4 at most and leaves rows out."""
    unrolls: Count = 96
    """Different ones that are recorded, of 2.4 MB each, and written over and over."""
    game: str = "pong"
    """Whose frames; they differ in how well they compress."""
    writers: Nodes = 1
    """Processes that write."""
    online_batch: Count = 6
    """Fresh unrolls of an update. BMG Table 2."""
    replay_batch: Count = 12
    """Replayed unrolls of each batch of an update. BMG Table 2."""
    extra_batches: Few = 3
    """Replay batches of an update beside the main one: (K - 1) + (L - 1)."""
    unroll_length: Count = 20
    """Steps of an unroll. BMG Table 2."""
    replay_capacity: Count = 500
    """Unrolls in the replay; the paper's 10,000 are 1.8 GB of compressed Pong in the server, and
    24 GB in one process's memory."""
    atari: AtariConfig = PAPER
    """The frames."""
    only: tuple[str, ...] = ()
    """Rows to measure, by their beginnings, such as noise; none for all."""


class Case(NamedTuple):
    """One way to have the replay."""

    what: str
    place: str = "remote"  # or "local": the server in the reader's process, or "memory", "copies"
    streams: int = 1  # samplers of the replay, read in turns
    changes: dict = {}  # of ReplayConfig
    environment: dict = {}  # variables of the reader's process
    noise: bool = False  # in place of the frames


CASES = (
    Case("as the program has it"),
    Case("1 unroll in flight", changes={"samples_in_flight": 1}),
    Case("24 unrolls in flight", changes={"samples_in_flight": 24}),
    Case("3 batches ahead", changes={"prefetch_batches": 3}),
    Case("2 streams", streams=2),
    Case("4 streams", streams=4),
    Case("memory kept", environment=_KEEP_MEMORY),
    Case("memory kept, 2 streams", streams=2, environment=_KEEP_MEMORY),
    Case("noise, which does not compress", noise=True),
    Case("server in the reader's process", place="local"),
    Case("in one process's memory", place="memory"),
    Case("copies alone", place="copies"),
)
QUICK = ("as the program has it", "2 streams", "noise", "in one process's memory")


def needed(config: Config) -> float:
    """Updates per second with which the paper's frames take a day."""
    frames = config.online_batch * config.unroll_length * config.atari.action_repeat
    return _FRAMES / _DAY / frames


def update_bytes(config: Config, signature: Trajectory) -> int:
    """Raw bytes that an update reads."""
    unroll = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in signature)
    return unroll * (config.online_batch + config.replay_batch * (1 + config.extra_batches))


def measure(config: Config) -> Iterator[dict]:
    """A row for each way to have the replay.

    Raises:
        ValueError: `only` names no row; one line.
    """
    names = config.only or (QUICK if config.quick else ("",))
    cases = [case for case in CASES if case.what.startswith(tuple(names))]
    if not cases:
        told = "; ".join(case.what for case in CASES)
        raise ValueError(f"no row begins with {' or '.join(names)}; there are: {told}")
    with tempfile.TemporaryDirectory() as folder:
        record(config, pathlib.Path(folder))
        for case in cases:
            yield {"what": case.what, **_measure(case, config, folder)}


def record(config: Config, folder: pathlib.Path) -> None:
    """Writes different unrolls of random play, one file for each field: arrays `[N, ...]`."""
    rng = np.random.default_rng(0)
    environment = make(config.game, _ENVS, 0, 0, config.atari, num_threads=0)

    def ask(request: Request) -> Callable[[], Actions]:
        shape = (len(request.age), environment.spec.num_actions)
        logits = rng.normal(size=shape).astype(np.float32)
        return lambda: Actions(rng.integers(shape[1], size=shape[0], dtype=np.int32), logits)

    rollout = Rollout([environment], ask, config.unroll_length, jax.random.PRNGKey(0))
    # Not one after the other: more of the game is seen.
    collected = [
        rollout.collect(0, time.perf_counter) for _ in range(4 * -(-config.unrolls // _ENVS))
    ][3::4]
    environment.close()
    for name, *parts in zip(Trajectory._fields, *collected):
        np.save(folder / f"{name}.npy", np.concatenate(parts)[: config.unrolls])


def load(folder: str | pathlib.Path) -> Trajectory:
    """What `record` wrote, from the files as it is read."""
    return Trajectory(
        *(np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in Trajectory._fields)
    )


def signature_of(recorded: Trajectory) -> Trajectory:
    """Shapes and dtypes of one of the unrolls."""
    return Trajectory(*(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in recorded))


def _replay_config(case: Case, config: Config) -> ReplayConfig:
    smallest = min(ReplayConfig.min_replay_size, config.replay_capacity)
    sizes = ReplayConfig(
        replay_capacity=config.replay_capacity, min_replay_size=smallest,
        write_timeout=_START, sample_timeout=_START,
    )  # fmt: skip
    return dataclasses.replace(sizes, **case.changes)


def _measure(case: Case, config: Config, folder: str) -> dict:
    """Starts the processes of one case and ends them."""
    seconds = min(config.seconds, 4.0) if config.quick else config.seconds
    with _processes() as start:
        pids, address = {}, None
        if case.place == "remote":
            pids["server"], connection = start(_serve, case, config, folder)
            address = _receive(connection, _START)
        _, connection = start(
            _read, case, config, folder, address, seconds, environment=case.environment
        )
        if case.place == "local":
            address = _receive(connection, _START)
        for index in range(config.writers if address else 0):
            pids[f"writer {index}"], _ = start(_write, case, config, folder, address, index)
        connection.send(pids)
        row = _receive(connection, 2 * _START + 3 * seconds)
    row["of_needed"] = row["updates_per_second"] / needed(config)
    return row


@contextlib.contextmanager
def _processes():
    """Gives a function that starts a process with a pipe; ends all, the newest first.

    A process reads the end of its pipe as a request to stop, so that none outlives this one.
    """
    context = multiprocessing.get_context("spawn")
    started = []

    def start(target, *arguments, environment: dict | None = None):
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        before = dict(os.environ)
        os.environ.update(environment or {})
        try:
            process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()
        started.append((process, ours))
        return process.pid, ours

    try:
        yield start
    finally:
        # The server last: one that stops while a sampler is open waits for it.
        for process, connection in reversed(started):
            connection.close()
            for end in (lambda: None, process.terminate, process.kill):
                end()
                process.join(5.0)
                if process.exitcode is not None:
                    break


def _receive(connection, seconds: float):
    if not connection.poll(seconds):
        raise TimeoutError(f"a process of the benchmark gave no answer within {seconds:g} s")
    try:
        return connection.recv()
    except EOFError:
        raise RuntimeError("a process of the benchmark ended early; see above") from None


# What runs in the processes. Anything in the pipe, or its end, asks them to stop.


def _server(case: Case, config: Config, recorded: Trajectory):
    from bmg.replay.server import Server

    return Server(signature_of(recorded), _replay_config(case, config))


def _serve(connection, case: Case, config: Config, folder: str) -> None:
    server = _server(case, config, load(folder))
    connection.send(f"localhost:{server.port}")
    connection.poll(None)  # ends with the parent at the latest
    server.stop()


def _open(address: str, case: Case, config: Config, recorded: Trajectory, should_stop) -> Replay:
    from bmg.replay.remote import RemoteReplay

    signature = signature_of(recorded)
    return RemoteReplay(address, signature, _replay_config(case, config), should_stop)


def _write(connection, case: Case, config: Config, folder: str, address: str, index: int) -> None:
    recorded = load(folder)
    if case.noise:
        rng = np.random.default_rng(index)
        noise = rng.integers(256, size=recorded.frames.shape, dtype=np.uint8)
        recorded = recorded._replace(frames=noise)
    replay = _open(address, case, config, recorded, connection.poll)
    _append_all(replay, recorded, index)
    replay.close()


def _append_all(replay: Replay, recorded: Trajectory, index: int) -> None:
    """Writes over and over until asked to stop; writers begin at different unrolls."""
    number = len(recorded.action)
    for i in itertools.count(index * number // 2):
        if not replay.append(Trajectory(*(field[i % number] for field in recorded))):
            return


def _read(
    connection, case: Case, config: Config, folder: str, address: str | None, seconds: float
) -> None:
    recorded = load(folder)
    server = None
    if case.place == "local":
        server = _server(case, config, recorded)
        address = f"localhost:{server.port}"
        connection.send(address)
    pids = _receive(connection, _START)
    with _batches(connection.poll, case, config, recorded, address) as (online, replayed):
        prefetcher = Prefetcher(online, replayed, config.extra_batches, lambda batch: batch, 1)
        row = _watch(lambda: prefetcher.get(connection.poll), pids, seconds)
        prefetcher.close()
    connection.send(row)
    if server:
        connection.poll(_START)  # the writers go first
        server.stop()


@contextlib.contextmanager
def _batches(should_stop, case: Case, config: Config, recorded: Trajectory, address: str | None):
    """Iterators over online and replay batches, from wherever the case has them."""
    if case.place == "copies":
        yield _copies(recorded, config.online_batch), _copies(recorded, config.replay_batch)
        return
    writers = []
    if case.place == "memory":
        sizes = _replay_config(case, config)
        replay = MemoryReplay(signature_of(recorded), sizes, should_stop, 0)
        for index in range(config.writers):
            arguments = (replay, recorded, index)
            writers.append(threading.Thread(target=_append_all, args=arguments, daemon=True))
            writers[-1].start()
    else:
        replay = _open(address, case, config, recorded, should_stop)
    streams = [replay.sample_replay(config.replay_batch) for _ in range(case.streams)]
    try:
        yield replay.sample_online(config.online_batch), map(next, itertools.cycle(streams))
    finally:
        replay.close()
        for writer in writers:
            writer.join(5.0)


def _copies(recorded: Trajectory, batch_size: int) -> Iterator[Trajectory]:
    """Batches of recorded unrolls, one copy each: what any replay does at the least."""
    rng = np.random.default_rng(0)
    while True:
        drawn = rng.integers(len(recorded.action), size=batch_size)
        yield Trajectory(*(field[drawn] for field in recorded))


def _watch(get: Callable, pids: dict[str, int], seconds: float) -> dict:
    """Takes batches for a while, as the learner does, with an eye on everyone's time on a core."""
    for _ in range(_WARM_UP):
        batch = get()
    before, start = _times(pids), time.perf_counter()
    updates = read = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        batch = get()  # the last one is let go of here: the learner holds one as well
        if batch is None:
            raise RuntimeError("asked to stop while measuring")
        updates += 1
        read += sum(array.nbytes for array in jax.tree.leaves(batch[0]))
    spent = {
        name: 1000 * (used - before.get(name, 0.0)) / updates for name, used in _times(pids).items()
    }
    return {
        "updates_per_second": updates / elapsed,
        "megabytes_per_second": read / elapsed / 1e6,
        "of_needed": 0.0,
        "reader_ms": spent["reader"],
        "server_ms": spent.get("server", 0.0),
        "writers_ms": sum(used for name, used in spent.items() if "writer" in str(name)),
        "busiest_thread_ms": max(used for name, used in spent.items() if isinstance(name, int)),
    }


def _times(pids: dict[str, int]) -> dict[str | int, float]:
    """Seconds on a core so far, by process, and of this one's threads, by their numbers."""
    times: dict[str | int, float] = {}
    for name, pid in {**pids, "reader": os.getpid()}.items():
        used = psutil.Process(pid).cpu_times()
        times[name] = used.user + used.system
    for thread in psutil.Process().threads():
        times[thread.id] = thread.user_time + thread.system_time
    return times
