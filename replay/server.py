"""The Reverb server and its tables."""

from __future__ import annotations

import sys
from typing import Any

import portpicker

from bmg.replay.backend import pybind
from bmg.replay.config import ReplayConfig
from bmg.replay.interface import ONLINE, REPLAY
from bmg.replay.signature import Signature
from bmg.replay.specs import encode

_NO_LIMIT = sys.float_info.max


class Server:
    """Serves the tables of a run until it is stopped or forgotten. It keeps no checkpoints: a
    resumed run fills its replay anew.

    Args:
        signature: (nested) structure of objects with `.shape` and `.dtype` of one unroll.
        config: sizes.
        port: to listen at; None for a free one.
    """

    def __init__(self, signature: Any, config: ReplayConfig, port: int | None = None):
        self.port = portpicker.pick_unused_port() if port is None else port
        self._server = pybind.Server(make_tables(signature, config), self.port, None)

    def stop(self) -> None:
        """Stops serving; waits for samplers that are open, some seconds."""
        self._server.Stop()


def table_names(config: ReplayConfig) -> tuple[str, ...]:
    """Returns the tables' names, in the order in which a writer makes its items."""
    return (REPLAY, ONLINE) if config.replay_capacity else (ONLINE,)


def make_tables(signature: Any, config: ReplayConfig) -> list[pybind.Table]:
    """Returns the tables: `online`, and `replay` if it has a capacity. An unroll is one chunk, to
    which both tables' items point.

    Args:
        signature: (nested) structure of objects with `.shape` and `.dtype` of one unroll.
        config: sizes.
    """
    specs = encode(Signature(signature)).SerializeToString()
    queue = pybind.RateLimiter(
        samples_per_insert=1.0, min_size_to_sample=1, min_diff=0.0, max_diff=config.online_capacity
    )
    tables = [
        pybind.Table(
            name=ONLINE,
            sampler=pybind.FifoSelector(),
            remover=pybind.FifoSelector(),
            max_size=config.online_capacity,
            max_times_sampled=1,
            rate_limiter=queue,
            extensions=[],
            signature=specs,
        )
    ]
    if config.replay_capacity:
        tables.append(
            pybind.Table(
                name=REPLAY,
                sampler=pybind.UniformSelector(),
                remover=pybind.FifoSelector(),
                max_size=config.replay_capacity,
                max_times_sampled=0,  # no limit
                rate_limiter=pybind.RateLimiter(
                    samples_per_insert=1.0,
                    min_size_to_sample=config.min_replay_size,
                    min_diff=-_NO_LIMIT,
                    max_diff=_NO_LIMIT,
                ),
                extensions=[],
                signature=specs,
            )
        )
    return tables
