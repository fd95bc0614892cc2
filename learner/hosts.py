"""Several hosts that learn together: the same updates, each from its own actors' experience.

    host 0   actors ──► replay ──┬─ one update on all devices, ──► checkpoints, TensorBoard,
    host 1   actors ──► replay ──┤  gradients and metrics cross    results (host 0)
    ...                          ┘

Before each update the hosts agree that all of them go on: whoever was asked to stop, or has no more
data, says so, and all leave after the same update. A host that does not answer ends the others.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bmg.learner.batches import BatchInfo
from bmg.learner.config import HostsConfig
from bmg.storage.fields import Mistake, host_and_port

_MESSAGE_BYTES = 2**16  # of what a host tells the others at the start
_GO_ON = "go on with --resume, on as many hosts as there are"


class HostLeft(RuntimeError):
    """Another host was asked to stop, so this one stops as well."""


class HostMissing(RuntimeError):
    """Another host is gone without a word."""


class HostsDiffer(RuntimeError):
    """Hosts hold different states."""


def check_port(config: HostsConfig) -> None:
    """Refuses a coordinator's port that is taken, on the host that opens it.

    Raises:
      ValueError: one line.
    """
    if config.count == 1 or config.index:
        return
    _, port = host_and_port(config.coordinator)
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a run that has just ended
        try:
            one.bind(("", port))
        except OSError as error:
            raise ValueError(
                f"port {port} of --hosts.coordinator cannot be opened here ({error.strerror}); "
                "give another one on all hosts."
            ) from None


def join(config: HostsConfig, identity: dict[str, Any]) -> None:
    """Connects the hosts of a run, before JAX is used for anything else.

    Args:
      config: which host this is, and where host 0 waits for the others.
      identity: what must be the same on all hosts; JSON.

    Raises:
      TimeoutError: some hosts did not come in time; one line.
      Mistake: they run other code, or another configuration; one line that names a difference.
    """
    if config.count == 1:
        return
    # The CPU backend has no collectives of its own; others do not read it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    on_signal = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.count,
            config.index,
            initialization_timeout=int(config.start_timeout),
            cluster_detection_method="deactivate",
        )
    except Exception as error:  # noqa: BLE001 - JAX raises several kinds
        raise TimeoutError(
            f"host {config.index} did not find all {config.count} hosts at {config.coordinator} "
            f"within {config.start_timeout:g} s: {str(error).splitlines()[0]}"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_signal)  # which JAX has taken for itself
    _check_identity(identity)


def _check_identity(identity: dict[str, Any]) -> None:
    from jax.experimental import multihost_utils

    everyone = multihost_utils.process_allgather(_padded(identity))
    first = json.loads(everyone[0].tobytes())
    for index, row in enumerate(everyone):
        other = json.loads(row.tobytes())
        for name in sorted({*first, *other}):
            if first.get(name) != other.get(name):
                raise Mistake(
                    f"host {index} has {name} = {other.get(name)!r}, host 0 {first.get(name)!r}; "
                    "start all hosts with the same code and options."
                )


def _padded(value: Any) -> np.ndarray:
    """A JSON value as bytes, as many for all: uint8 [64 Ki]."""
    text = json.dumps(value).encode()
    if len(text) > _MESSAGE_BYTES:
        raise ValueError(f"{len(text)} bytes of JSON for the other hosts; {_MESSAGE_BYTES} fit.")
    return np.frombuffer(text.ljust(_MESSAGE_BYTES), np.uint8)


def code_digest(root: pathlib.Path) -> str:
    """Of the project's own modules."""
    digest = hashlib.sha256()
    for path in sorted(root.glob("[!.]*/**/*.py")):  # no environment
        if path.relative_to(root).parts[0] != "tests":
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class OneHost:
    """A host alone: nobody is asked, and nobody waited for."""

    count = 1
    writes = True

    def as_on_first(self, state: Any, header: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What it has."""
        return state, header

    def agree(self, info: BatchInfo | None, updates: int, state: Any) -> BatchInfo | None:
        """What it wants."""
        return info

    def deadline(self, what: str) -> AbstractContextManager[None]:
        """None."""
        return nullcontext()

    def updated(self, outputs: Any) -> None:
        """An update has been started."""

    def leave(self, seconds: float) -> None:
        """Nothing is left."""


ONE_HOST = OneHost()


class Gathered(NamedTuple):
    """What one host tells the others before an update; as many bytes on each."""

    leaving: np.ndarray  # int32 [1], whether it has no batch, or was asked to stop
    checksum: np.ndarray  # uint32 [1], of its state, now and then; else 0
    episode_return: np.ndarray  # float32 [B_online * T], NaN where none ended
    versions: np.ndarray  # int32 [B_online]


class Hosts:
    """This host among several, once joined."""

    def __init__(
        self,
        config: HostsConfig,
        mesh: Mesh,
        unrolls: int,
        unroll_length: int,
        on_missing: Callable[[str], None],
    ):
        """Starts the watch over the other hosts.

        Args:
          config: which host this is.
          mesh: the learner's devices on all hosts, along one axis.
          unrolls: of fresh data in an update, on each host.
          unroll_length: T.
          on_missing: called from another thread with a line when the others do not answer; it ends
            the process, as nothing else can free one that waits for them.
        """
        self._config = config
        self._here = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
        self._empty = Gathered(
            np.zeros(1, np.int32),
            np.zeros(1, np.uint32),
            np.full(unrolls * unroll_length, np.nan, np.float32),
            np.zeros(unrolls, np.int32),
        )
        (axis,) = mesh.axis_names
        self._split = NamedSharding(mesh, PartitionSpec(axis))
        self._gather = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._checksum = jax.jit(_checksum)
        self._next_check = 0
        self._running = False
        self._timeout = config.start_timeout  # until the first update: others may compile longer
        self._deadline: float | None = None
        self._what = ""
        threading.Thread(target=self._watch, args=(on_missing,), name="hosts", daemon=True).start()

    @property
    def count(self) -> int:
        """How many hosts there are."""
        return self._config.count

    @property
    def writes(self) -> bool:
        """Whether this is the host that writes checkpoints, TensorBoard and results."""
        return self._config.index == 0

    def as_on_first(self, state: Any, header: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Host 0's state and counters, on all hosts: it alone has read a checkpoint."""
        from jax.experimental import multihost_utils

        with self.deadline("at the start"):
            state = multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, state))
            text = multihost_utils.broadcast_one_to_all(_padded(header))
        return jax.tree.map(np.asarray, state), json.loads(text.tobytes())

    def agree(self, info: BatchInfo | None, updates: int, state: Any) -> BatchInfo | None:
        """Asks all hosts whether they go on with update `updates`.

        Args:
          info: of this host's batch; None where it leaves.
          updates: how many were made so far.
          state: replicated over the mesh; compared between hosts now and then.

        Returns:
          The same of all hosts' batches; None when this host was one of those that leave.

        Raises:
          HostLeft: another one leaves.
          HostsDiffer: their states are not the same, bit for bit.
        """
        told = self._empty
        if info is None:
            told = told._replace(leaving=np.ones(1, np.int32))
        else:
            returns = told.episode_return.copy()
            returns[: len(info.episode_returns)] = info.episode_returns
            told = told._replace(episode_return=returns, versions=info.versions.astype(np.int32))
        due = updates >= self._next_check
        if due:
            self._next_check = updates + self._config.check_updates
            told = told._replace(checksum=np.array([self._state_checksum(state)], np.uint32))
        with self.deadline(f"before update {updates + 1}"):
            everyone = self.exchange(told)
        leaving = np.flatnonzero(everyone.leaving[:, 0])
        if info is None:
            return None
        if len(leaving):
            raise HostLeft(
                f"host {', '.join(map(str, leaving))} was asked to stop, or lost its actors; all "
                f"stopped after update {updates}; {_GO_ON}"
            )
        if due and len(set(everyone.checksum[:, 0])) > 1:
            raise HostsDiffer(
                f"the hosts' states differ after update {updates}: checksums "
                f"{', '.join(hex(x) for x in everyone.checksum[:, 0])}"
            )
        returns = everyone.episode_return.ravel()
        return BatchInfo(returns[~np.isnan(returns)], everyone.versions.ravel())

    def exchange(self, told: Gathered) -> Gathered:
        """What all hosts tell, [hosts, ...] of each field."""
        row = np.concatenate([x.view(np.int32) for x in told])
        local = np.tile(row, (len(self._here), 1))
        rows = self._gather(jax.make_array_from_process_local_data(self._split, local))
        rows = np.asarray(rows)[:: len(self._here)]
        ends = np.cumsum([x.size for x in told])[:-1]
        parts = np.split(rows, ends, axis=1)
        return Gathered(*(np.ascontiguousarray(part).view(x.dtype) for part, x in zip(parts, told)))

    @contextmanager
    def deadline(self, what: str) -> Iterator[None]:
        """What is done within takes so long at most, or the others are taken for missing.

        Raises:
          HostMissing: a connection has broken; one line.
        """
        self._what, self._deadline = what, time.monotonic() + self._timeout
        try:
            yield
        except (jax.errors.JaxRuntimeError, ValueError) as error:  # where a computation is inline
            if not self._running and isinstance(error, ValueError):
                raise  # a program that cannot be traced; one that ran before fails from outside
            reason = str(error).splitlines()[0]
            raise HostMissing(
                f"a host is missing {what}, or devices failed: {reason}; {_GO_ON}"
            ) from error
        finally:
            self._deadline = None

    def updated(self, outputs: Any) -> None:
        """Waits for an update, in which all take part; after the first, answers come sooner."""
        jax.block_until_ready(outputs)
        self._timeout, self._running = self._config.timeout, True

    def leave(self, seconds: float) -> None:
        """Waits so long for the others to be through as well, and parts: no host is missed then."""
        self._timeout = seconds
        with self.deadline("at the end"):
            self.exchange(self._empty)
        jax.distributed.shutdown()

    def _state_checksum(self, state: Any) -> int:
        """Of this host's copies, which must be equal among themselves."""
        found = set()
        for device in self._here:
            copy = jax.tree.map(lambda x: _copy_on(x, device), state)
            found.add(int(self._checksum(copy)))
        if len(found) > 1:
            raise HostsDiffer(
                f"the states on devices of host {self._config.index} differ: checksums "
                f"{', '.join(map(hex, sorted(found)))}"
            )
        return found.pop()

    def _watch(self, on_missing: Callable[[str], None]) -> None:
        while True:
            time.sleep(0.2)
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                on_missing(
                    f"a host is missing {self._what}: no answer within {self._timeout:g} s; "
                    f"{_GO_ON}"
                )
                return


def _copy_on(array: jax.Array, device: jax.Device) -> jax.Array:
    """A replicated array's copy on one device."""
    return next(shard.data for shard in array.addressable_shards if shard.device == device)


def _checksum(tree: Any) -> jax.Array:
    """A number that differs, but for one chance in 2^32, where any bit of the tree does; uint32."""
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        bits = leaf.ravel()
        if bits.dtype == jnp.bool_:
            bits = bits.astype(jnp.uint32)
        bits = jax.lax.bitcast_convert_type(bits, jnp.uint32)
        # An odd factor that depends on the place: no exchange of elements goes unnoticed.
        place = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
        total = total * jnp.uint32(0x9E3779B1) + jnp.sum(bits * place, dtype=jnp.uint32)
    return total
