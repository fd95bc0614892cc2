"""Runs many lifetimes side by side in one compiled program, over all devices."""

from __future__ import annotations

import functools
import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bmg.experiments.lifetime import Lifetime, State
from bmg.experiments.records import Records
from bmg.meta.side_by_side import SEEDS, SHARDS, make_mesh, side_by_side
from bmg.storage import checkpoint
from bmg.storage.checkpoint import CheckpointError, shown
from bmg.storage.files import reason
from bmg.storage.memory import total_memory

PyTree = Any


def count_cores() -> int:
    """The cores that this process may use; not every system reports which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def use_all_cores(most: int) -> None:
    """Makes JAX see a device for each core, so that lifetimes spread over them.

    Args:
      most: the largest useful number of devices.

    It has to come before JAX is first used. Where there is an accelerator, its devices are taken
    and this changes nothing; a number of devices in the user's XLA_FLAGS is kept.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        count = min(count_cores(), most)
        flags = f"{flags} --xla_force_host_platform_device_count={count}"
        os.environ["XLA_FLAGS"] = flags.strip()


def convolves_slowly(device: jax.Device) -> bool:
    """Whether convolutions are slow there inside loops and with a batch of kernels."""
    return device.platform == "cpu"


class _Progress(NamedTuple):
    """Where a run is. Kept in one attribute: a signal finds both of the same step, or neither."""

    # Of all lifetimes, and of those that only fill a device up: parts that are advanced one after
    # the other, [lifetimes of a part, ...] each.
    state: tuple[Any, ...]
    records: Records


class _Timed(NamedTuple):
    """How long chunks took, but for the first one of each session."""

    steps: int  # of one lifetime
    seconds: float


class Runner:
    """Many lifetimes: their state, what was recorded of them, and their checkpoints."""

    def __init__(
        self,
        lifetime: Lifetime,
        seeds: int,
        first_seed: int,
        stretch: int,
        directory: pathlib.Path | None = None,
        counted: str = "steps",
    ):
        """Starts all lifetimes at their beginning.

        Args:
          lifetime: the agent.
          seeds: how many lifetimes, S.
          first_seed: of the first one.
          stretch: steps that one row of the records averages.
          directory: for checkpoints; None for none.
          counted: what the steps are, as a message names them.

        Raises:
          ValueError: their state does not fit into the memory; one line.
        """
        self.not_saved: list[str] = []
        """What could not be written at the last try, and why."""
        self._lifetime, self._seeds = lifetime, seeds
        self._timed, self._compiled = _Timed(0, 0.0), False
        self._directory, self._counted = directory, counted
        count, shards = _spread(seeds, lifetime.shards, len(jax.devices()))
        self._mesh = make_mesh(jax.devices(), count, shards)
        self.devices = list(self._mesh.devices.flat)
        # Every device takes as many lifetimes; those beyond S are not looked at.
        padded = math.ceil(seeds / count) * count
        self._in_pieces = lifetime.convolves and convolves_slowly(self.devices[0])
        self._one_by_one = self._in_pieces or seeds <= count
        self._part = count if self._one_by_one else padded
        records = Records(lifetime.columns, seeds, lifetime.steps_per_update, stretch)
        keys = jax.vmap(jax.random.PRNGKey)(first_seed + np.arange(padded))
        each = PartitionSpec(SEEDS)
        self._state_specs = State(
            PartitionSpec(SEEDS, SHARDS) if lifetime.spread else each, each, each
        )
        init = self._map(functools.partial(_init, lifetime), each, self._state_specs)
        parts = self._parts(keys)
        _check_room(init.eval_shape(parts[0], None), len(parts), seeds, self.devices)
        self._progress = _Progress(tuple(init(part, None) for part in parts), records)
        self._data = jax.device_put(lifetime.data, NamedSharding(self._mesh, PartitionSpec()))
        chunk = functools.partial(_chunk, lifetime, self.chunk_windows)
        self._chunk = self._map(chunk, self._state_specs, (self._state_specs, each))

    @property
    def records(self) -> Records:
        """What was recorded so far."""
        return self._progress.records

    @property
    def convolves(self) -> bool:
        """Whether its lifetimes do."""
        return self._lifetime.convolves

    @property
    def chunk_steps(self) -> int:
        """Steps of a chunk."""
        return self.chunk_windows * self._window_steps

    @property
    def _window_steps(self) -> int:
        return self._lifetime.updates_per_window * self._lifetime.steps_per_update

    @property
    def chunk_windows(self) -> int:
        """Windows of a chunk."""
        if self._in_pieces:
            return 1
        return max(self._lifetime.chunk_steps // self._window_steps, 1)

    def _parts(self, arrays: Any) -> tuple[Any, ...]:
        """[all lifetimes, ...] -> what is advanced one after the other."""
        starts = range(0, len(jax.tree.leaves(arrays)[0]), self._part)
        return tuple(jax.tree.map(lambda x: x[i : i + self._part], arrays) for i in starts)

    def _map(self, function: Callable, given: PyTree, results: PyTree) -> Callable:
        """`function` of one lifetime and the data -> of those of a part, compiled.

        Args:
          function: of something of a lifetime, and the data.
          given: how the former lies on the devices.
          results: how its results do.
        """
        return side_by_side(
            function, self._mesh, (given, PartitionSpec()), results, self._one_by_one
        )

    def compile(self) -> jax.stages.Compiled:
        """Compiles a chunk before it is first due.

        Returns:
          The program, which counts FLOPs and bytes of one device.
        """
        self._chunk = self._chunk.lower(self._progress.state[0], self._data).compile()
        return self._chunk

    @property
    def steps_per_second(self) -> float | None:
        """Of all lifetimes together, in all sessions, without the first chunk of each, which is
        compiled; None where there is no other one."""
        steps, seconds = self._timed
        return self._seeds * steps / seconds if seconds else None

    def advance(self) -> None:
        """Runs all lifetimes for a chunk."""
        begin = time.perf_counter()
        self._run_chunk()
        if self._compiled:
            steps, seconds = self._timed
            seconds += time.perf_counter() - begin
            self._timed = _Timed(steps + self.chunk_steps, seconds)
        self._compiled = True

    def _run_chunk(self) -> None:
        done = [self._chunk(part, self._data) for part in self._progress.state]
        columns = {
            name: np.concatenate([part[name] for _, part in done])[: self._seeds]
            for name in self._lifetime.columns
        }
        self._progress = _Progress(tuple(state for state, _ in done), self.records.plus(columns))

    def run(
        self,
        steps: int,
        report: Callable[[int], None],
        checkpoint_interval: float = math.inf,
        should_stop: Callable[[], bool] = lambda: False,
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        """Runs until every lifetime has `steps` steps, with checkpoints on the way.

        However it ends, it writes a checkpoint, or `not_saved` has the reason why not.

        Args:
          steps: of each lifetime.
          report: called with the steps so far.
          checkpoint_interval: seconds between checkpoints on the way.
          should_stop: asked after every chunk; True ends it sooner.
          saved: called after each checkpoint on the way.
        """
        saved_at = time.monotonic()
        try:
            while self.records.steps < steps and not should_stop():
                self.advance()
                report(self.records.steps)
                if time.monotonic() - saved_at >= checkpoint_interval:
                    self._try_to_save()
                    saved()
                    saved_at = time.monotonic()
        finally:
            if self.records.steps:
                self._try_to_save()

    def lifetime(self, index: int) -> State:
        """Where one of the lifetimes is, on one of the devices."""
        part, place = divmod(index, self._part)
        device = self.devices[index % len(self.devices)]
        return jax.tree.map(lambda x: jax.device_put(x[place], device), self._progress.state[part])

    def not_finite(self) -> list[int]:
        """Which lifetimes, counted from 0, have a NaN in their state: they learn nothing more."""
        found = np.concatenate([_has_nan(part) for part in self._progress.state])
        return np.flatnonzero(found[: self._seeds]).tolist()

    def _try_to_save(self) -> None:
        """Writes a checkpoint; where it cannot, a line says so, once, and the run goes on."""
        before, self.not_saved = self.not_saved, []
        try:
            self.save()
        except OSError as error:
            name = f"the checkpoint of {self.records.steps:,} {self._counted}"
            self.not_saved = [f"{name} ({reason(error)})"]
        if bool(before) != bool(self.not_saved):
            what = self.not_saved[0] + " cannot be written" if self.not_saved else "written again"
            print(f"checkpoints: {what}; the run goes on", flush=True)

    def save(self) -> None:
        """Writes a checkpoint, where a directory was given."""
        if self._directory is None:
            return
        lifetimes, records = self._all_lifetimes(), self.records
        lifetimes = jax.tree.map(lambda x: x[: self._seeds], lifetimes)
        state = {"lifetimes": lifetimes, "records": records.state()}
        header = {
            "stretches": records.stretches(records.updates), "timed": list(self._timed),
            "identity": dict(self._lifetime.identity),
        }  # fmt: skip
        checkpoint.save(self._directory, records.steps, state, header, keep=2)

    def restore(self) -> list[str]:
        """Resumes from the newest checkpoint that can be read.

        Returns:
          A line for each newer one that could not.

        Raises:
          CheckpointError: none usable; one line.
        """
        lifetimes, records = self._all_lifetimes(), self.records

        def template(header):
            stretches = header.get("stretches")
            if type(stretches) is not int or stretches < 0:
                raise CheckpointError(
                    f"is damaged: stretches in its header is {shown(stretches)}; remove it to use "
                    "an earlier one."
                )
            shape = (self._seeds, stretches)
            sums = {name: jax.ShapeDtypeStruct(shape, np.float64) for name in records.state()}
            sums["updates"] = jax.ShapeDtypeStruct((), np.int64)
            states = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((self._seeds, *x.shape[1:]), x.dtype), lifetimes
            )
            return {"lifetimes": states, "records": sums}

        def check(found):
            updates, stretches = int(found.state["records"]["updates"]), found.header["stretches"]
            steps = updates * self._lifetime.steps_per_update
            if steps != found.number or records.stretches(updates) != stretches:
                raise CheckpointError(
                    f"is damaged: {updates} updates in {stretches} stretches of its records do not "
                    "belong together, or not to its name; remove it to use an earlier one."
                )

        found, problems = checkpoint.load_newest(
            self._directory, template, dict(self._lifetime.identity), check
        )
        timed = found.header.get("timed")
        if isinstance(timed, list) and [type(x) for x in timed] == [int, float]:
            self._timed = _Timed(*timed)
        # Lifetimes that only fill a device up begin anew.
        state = jax.tree.map(
            lambda old, new: np.concatenate([new, old[self._seeds :]]),
            lifetimes,
            found.state["lifetimes"],
        )
        lies = [NamedSharding(self._mesh, spec) for spec in self._state_specs]
        placed = tuple(State(*map(jax.device_put, part, lies)) for part in self._parts(state))
        self._progress = _Progress(placed, records.restored(found.state["records"]))
        return problems

    def _all_lifetimes(self) -> State:
        """Where they are, NumPy arrays with a leading axis."""
        return jax.tree.map(lambda *x: np.concatenate(x), *self._progress.state)


def _check_room(part: State, parts: int, seeds: int, devices: Sequence[jax.Device]) -> None:
    """Refuses lifetimes whose state alone is larger than the memory.

    Args:
      part: shapes of those that are advanced at once, with a leading axis.
      parts: how many of these there are.
      seeds: how many lifetimes were asked for.
      devices: those that they lie on.

    Raises:
      ValueError: one line.
    """
    leaves = jax.tree.leaves(part)
    sizes = [parts * math.prod(x.shape) * x.dtype.itemsize for x in leaves]
    room = _memory_of(devices)
    if room and sum(sizes) > room:
        largest = leaves[np.argmax(sizes)]
        shape = " x ".join(map(str, largest.shape[1:]))
        alone = seeds == 1
        what = "1 lifetime holds" if alone else f"{seeds:,} lifetimes hold"
        raise ValueError(
            f"{what} {sum(sizes) / 2**30:,.1f} GiB (the largest array of each has "
            f"{shape} numbers), and there are {room / 2**30:,.1f} GiB of memory; give smaller "
            f"sizes{'' if alone else ', or fewer seeds'}."
        )


def _memory_of(devices: Sequence[jax.Device]) -> int | None:
    """Bytes of all of them; of a CPU's, those of the machine; None where they are not known."""
    if devices[0].platform == "cpu":
        return total_memory()
    sizes = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    return sum(sizes) if all(sizes) else None


@jax.jit
def _has_nan(part: State) -> jax.Array:
    """Whether there is one in each lifetime of a part."""
    leaves = jax.tree.leaves(part)
    floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    found = [jnp.any(jnp.isnan(x.reshape(len(x), -1)), axis=1) for x in floats]
    return functools.reduce(jnp.logical_or, found, jnp.zeros(len(leaves[0]), bool))


def _spread(seeds: int, shards: int, devices: int) -> tuple[int, int]:
    """How many lifetimes run at once, and on how many devices each: so that none waits for long.

    Args:
      seeds: lifetimes.
      shards: equal pieces of one lifetime.
      devices: there are so many.
    """
    choices = [n for n in range(1, min(shards, devices) + 1) if shards % n == 0]

    def rounds(count: int) -> int:
        return math.ceil(seeds / min(seeds, devices // count)) * (shards // count)

    best = min(choices, key=rounds)
    return min(seeds, devices // best), best


def _init(lifetime: Lifetime, key, data):
    """One lifetime at its beginning, which needs no data."""
    del data
    return lifetime.init(key)


def _chunk(lifetime: Lifetime, windows: int, state, data):
    """Some windows of one lifetime: the state after them, and [updates] of each column."""
    if windows == 1:
        return lifetime.window(state, data)
    state, columns = jax.lax.scan(
        lambda state, _: lifetime.window(state, data), state, length=windows
    )
    return state, {name: x.reshape(-1) for name, x in columns.items()}
