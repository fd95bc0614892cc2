"""Waiting with an end, and with a word on the way."""

from __future__ import annotations

import time
from collections.abc import Callable

_SUSPENDED = 5.0  # seconds between two looks, beyond which nobody was there to look


class Wait:
    """One wait, looked at now and then.

    It counts the seconds in which this process ran: one that was suspended meanwhile (SIGSTOP, a
    closed lid) goes on waiting, and does not take its own absence for the others'.

    Args:
        limit: seconds after which to give up.
        poll_interval: seconds between looks at most.
        stall_after: seconds after which the wait is worth a word.
        on_stall: called once then, with the seconds waited.
    """

    def __init__(
        self,
        limit: float,
        poll_interval: float,
        stall_after: float,
        on_stall: Callable[[float], None],
    ):
        self._limit, self._interval = limit, poll_interval
        self._longest = max(_SUSPENDED, 2 * poll_interval)
        self._stall_after, self._on_stall = stall_after, on_stall
        self._waited, self._last = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """To wait until the next look: the interval, but not beyond the limit."""
        return min(self._interval, max(self._limit - self._waited, 0.001))

    def over(self) -> bool:
        """A look: whether to give up."""
        now = time.monotonic()
        self._waited += min(now - self._last, self._longest)
        self._last = now
        if self._waited >= self._stall_after:
            self._stall_after = float("inf")
            self._on_stall(self._waited)
        return self._waited >= self._limit
