"""Replay over a Reverb server, from any process: a writer and one sampler of each table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bmg.replay.client import Client
from bmg.replay.config import ReplayConfig
from bmg.replay.interface import ONLINE, REPLAY, print_line
from bmg.replay.sampler import Sampler
from bmg.replay.writer import Writer


class RemoteReplay:
    """`interface.Replay` over a server; what is not used is not connected.

    Args:
        server: `host:port`.
        signature: (nested) structure of objects with `.shape` and `.dtype` of one unroll.
        config: sizes and deadlines, the same as the server's.
        should_stop: asked every `config.poll_interval` seconds by everyone who waits.
        on_stall: takes a line about each wait of more than `config.stall_after` seconds.
    """

    def __init__(
        self,
        server: str,
        signature: Any,
        config: ReplayConfig,
        should_stop: Callable[[], bool],
        on_stall: Callable[[str], None] = print_line,
    ):
        self._server, self._client = server, Client(server)
        self._arguments = (signature, config, should_stop, on_stall)
        self._writer = Writer(self._server, *self._arguments)
        self._samplers: list[Sampler] = []

    def append(self, unroll: Any) -> bool:
        """See `interface.Replay.append`, and `Writer`."""
        return self._writer.append(unroll)

    def sample_online(self, batch_size: int) -> Sampler:
        """See `interface.Replay.sample_online`, and `Sampler`; to be called once."""
        return self._sample(ONLINE, batch_size)

    def sample_replay(self, batch_size: int) -> Sampler:
        """See `interface.Replay.sample_replay`, and `Sampler`; to be called once."""
        return self._sample(REPLAY, batch_size)

    def occupancy(self) -> dict[str, int]:
        """See `interface.Replay.occupancy`."""
        return self._client.occupancy()

    def close(self) -> None:
        """Closes the writer and the samplers, within `config.close_timeout` seconds each."""
        for closable in (self._writer, *self._samplers):
            closable.close()

    def _sample(self, table: str, batch_size: int) -> Sampler:
        self._samplers.append(Sampler(self._server, table, batch_size, *self._arguments))
        return self._samplers[-1]
