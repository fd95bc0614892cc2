"""Talking to the server without ever waiting for ever: connecting, occupancy, state in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import tree

from bmg.replay.backend import reverb
from bmg.replay.interface import no_table, table_metrics, table_state
from bmg.replay.signature import Signature
from bmg.replay.waiting import Wait

# Reverb takes whole seconds; a server that is there answers in milliseconds.
INFO_TIMEOUT = 1


def as_client(server: str | reverb.Client) -> reverb.Client:
    """Returns a client of a server given as `host:port` or as a client."""
    return reverb.Client(server) if isinstance(server, str) else server


def occupancy(server: str | reverb.Client) -> dict[str, int]:
    """Returns, per table, how many unrolls it holds, and were inserted and sampled since the start.

    Keys are `replay/<table>_size`, `replay/<table>_inserted` and `replay/<table>_sampled`.

    Raises:
        TimeoutError: the server gives no answer, in one line.
    """
    client = as_client(server)
    tables = _tables(client)
    if tables is None:
        raise TimeoutError(_silent(client))
    metrics = {}
    for name, table in tables.items():
        stats = table.rate_limiter_info
        metrics |= table_metrics(
            name, table.current_size, stats.insert_stats.completed, stats.sample_stats.completed
        )
    return metrics


def connect(
    client: reverb.Client,
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
    while (tables := _tables(client)) is None:
        if should_stop():
            return False
        if wait.over():
            raise TimeoutError(_silent(client))
    for name in names:
        if name not in tables:
            raise no_table(f"replay server {client.server_address}", name, list(tables))
        specs = tree.flatten(tables[name].signature)
        signature.check(
            [tuple(spec.shape) for spec in specs], [spec.dtype for spec in specs], f"table {name}"
        )
    return True


def describe(client: reverb.Client, name: str) -> str:
    """Returns one table's state in words, for an error message; takes at most a second or so."""
    tables = _tables(client)
    if tables is None:
        return _silent(client)
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


def _tables(client: reverb.Client) -> dict | None:
    """Returns Reverb's information on each table, or None if the server gives no answer."""
    try:
        return client.server_info(INFO_TIMEOUT)
    except (reverb.ReverbError, RuntimeError):
        time.sleep(0.05)  # a refused connection may fail at once: callers ask in a loop
        return None


def _silent(client: reverb.Client) -> str:
    return f"replay server {client.server_address} gives no answer"
