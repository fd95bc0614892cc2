"""The interface of replay: five functions, implemented by two backends.

    unroll ──► append ──┬─► online: a queue, each unroll once, in order; full: writers wait
                        └─► replay: drawn uniformly, with replacement; full: the oldest goes

`remote.RemoteReplay` implements them over a Reverb server, from any process; `memory.MemoryReplay`
in the memory of this process, for threads. Every wait checks for a request to stop and has a
deadline, after which the error describes the state of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

ONLINE = "online"
REPLAY = "replay"


class Replay(Protocol):
    """Experience on its way from actors to learner.

    Structures are those of the signature that an implementation is given: `[...]` in an unroll,
    `[batch_size, ...]` in a batch, which is the caller's to keep.
    """

    def append(self, unroll: Any) -> bool:
        """Writes one unroll, after waiting for room; its arrays may be reused afterwards.

        Returns:
            True if it was written, False if asked to stop while waiting: then it was not.

        Raises:
            ValueError: the unroll is not of the signature.
            TimeoutError: no room within `write_timeout` seconds. All in one line.
            RuntimeError: closed before.
        """
        ...

    def sample_online(self, batch_size: int) -> Iterator[Any]:
        """Iterates over batches of fresh unrolls, each of them once; ends when asked to stop.

        Raises (the iterator):
            TimeoutError: no batch within `sample_timeout` seconds; one line. A later call waits
                anew, nothing is lost.
        """
        ...

    def sample_replay(self, batch_size: int) -> Iterator[Any]:
        """Iterates over batches of unrolls drawn anew, as `sample_online`; needs a capacity."""
        ...

    def occupancy(self) -> dict[str, int]:
        """Per table, how many unrolls it holds, and were inserted and sampled since the start.

        Keys are `replay/<table>_size`, `replay/<table>_inserted` and `replay/<table>_sampled`.

        Raises:
            TimeoutError: a server gives no answer, in one line.
        """
        ...

    def close(self) -> None:
        """Releases everything, within about a second; may be called twice."""
        ...


def print_line(message: str) -> None:
    """Where stalls are named if the caller names no other place: the process's output."""
    print(message, flush=True)


def check_batch_size(batch_size: int) -> None:
    """Refuses batches of nothing; one line."""
    if batch_size < 1:
        raise ValueError(f"replay batch_size={batch_size}: must be at least 1")


def table_metrics(name: str, size: int, inserted: int, sampled: int) -> dict[str, int]:
    """A table's part of `Replay.occupancy`."""
    counts = {"size": size, "inserted": inserted, "sampled": sampled}
    return {f"replay/{name}_{what}": count for what, count in counts.items()}


def table_state(name: str, size: int, max_size: int, inserted: int, sampled: int) -> str:
    """A table's state in words, for a message."""
    return (
        f"table {name} holds {size} of at most {max_size} unrolls, "
        f"{inserted} inserted, {sampled} sampled"
    )


def no_room(seconds: float, state: str) -> TimeoutError:
    """The error of a writer that waited in vain, with the table's state."""
    return TimeoutError(
        f"no unroll was taken for {seconds:.3g} s (is the learner dead, or slower "
        f"than that?): {state}"
    )


def no_batch(seconds: float, state: str) -> TimeoutError:
    """The error of a sampler that waited in vain, with the table's state."""
    return TimeoutError(
        f"no batch for {seconds:.3g} s (are the actors dead, or slower than that?): {state}"
    )


def no_table(where: str, name: str, there: list[str]) -> ValueError:
    """The error of a sampler of a table that was not made."""
    return ValueError(
        f"{where} has no table {name}, only {', '.join(sorted(there))}: "
        "give it the same replay configuration"
    )
