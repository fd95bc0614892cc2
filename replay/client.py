"""Talking to the server without ever waiting for ever: connecting, occupancy, state in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bmg.replay.backend import TrajectoryWriter, pybind, schema
from bmg.replay.interface import no_table, table_metrics, table_state
from bmg.replay.signature import Signature
from bmg.replay.specs import decode
from bmg.replay.waiting import Wait

# Reverb takes whole seconds; a server that is there answers in milliseconds.
INFO_TIMEOUT = 1

# Reverb wants an end; this one is never reached.
_ENDLESS = 2**40


class Client:
    """A process's own way to a server, which need not be there yet.

    Args:
        address: `host:port`.
    """

    def __init__(self, address: str):
        self.address = address
        self._client = pybind.Client(address)

    def occupancy(self) -> dict[str, int]:
        """Returns, per table, how many unrolls it holds, and were inserted and sampled since the
        start.

        Keys are `replay/<table>_size`, `replay/<table>_inserted` and `replay/<table>_sampled`.

        Raises:
            TimeoutError: the server gives no answer, in one line.
        """
        tables = self._tables()
        if tables is None:
            raise TimeoutError(self._silent())
        metrics = {}
        for name, table in tables.items():
            stats = table.rate_limiter_info
            metrics |= table_metrics(
                name, table.current_size, stats.insert_stats.completed, stats.sample_stats.completed
            )
        return metrics

    def connect(
        self,
        names: Sequence[str],
        signature: Signature,
        wait: Wait,
        should_stop: Callable[[], bool],
    ) -> bool:
        """Waits for the server and checks that its tables hold unrolls of this signature.

        Returns:
            True when connected, False when asked to stop while waiting.

        Raises:
            TimeoutError: no server until the wait is over, in one line.
            ValueError: a table is missing or holds something else, in one line.
        """
        while (tables := self._tables()) is None:
            if should_stop():
                return False
            if wait.over():
                raise TimeoutError(self._silent())
        for name in names:
            if name not in tables:
                raise no_table(f"replay server {self.address}", name, list(tables))
            signature.check(*decode(tables[name].signature), f"table {name}")
        return True

    def describe(self, name: str) -> str:
        """Returns one table's state in words, for an error message; takes at most a second or
        so."""
        tables = self._tables()
        if tables is None:
            return self._silent()
        if name not in tables:
            return f"table {name} is gone"
        table = tables[name]
        stats = table.rate_limiter_info
        return table_state(
            name,
            table.current_size,
            table.max_size,
            stats.insert_stats.completed,
            stats.sample_stats.completed,
        )

    def writer(self) -> TrajectoryWriter:
        """Returns a writer of items of one step each. Signatures are for `connect` to compare:
        fetching them here would block unasked."""
        one_step = pybind.AutoTunedChunkerOptions(1, 1.0)
        return TrajectoryWriter(self._client.NewTrajectoryWriter(one_step, None))

    def sampler(self, table: str, samples_in_flight: int) -> pybind.Sampler:
        """Returns a sampler without an end, which can be closed while somebody waits for it; blocks
        if the server has gone away."""
        return self._client.NewSampler(table, _ENDLESS, samples_in_flight)

    def _tables(self) -> dict[str, schema.TableInfo] | None:
        """Returns Reverb's information on each table, or None if the server gives no answer."""
        try:
            tables = map(schema.TableInfo.FromString, self._client.ServerInfo(INFO_TIMEOUT))
            return {table.name: table for table in tables}
        except RuntimeError:
            time.sleep(0.05)  # a refused connection may fail at once: callers ask in a loop
            return None

    def _silent(self) -> str:
        return f"replay server {self.address} gives no answer"
