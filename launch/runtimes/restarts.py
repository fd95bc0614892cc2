"""When a node that died starts again, and when it has died too often."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable

WINDOW = 600.0  # seconds over which deaths count towards the limit
_RECENT = 60.0  # seconds over which they make the next start wait longer
_LONGEST_DELAY = 30.0  # seconds


class Restarts:
    """Deaths of actors and evaluators, and who starts again next.

    A node waits 1 second before it starts again, and twice as long for each further death within a
    minute, up to 30. One that dies more often than `limit` within ten minutes is given up: a crash
    loop ends the run with its reason instead of hiding it.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic):
        """Args: `limit`, restarts of one node within ten minutes; `clock`, in seconds."""
        self._limit, self._clock = limit, clock
        self._deaths: dict[str, deque[float]] = defaultdict(deque)
        self._wake: dict[str, float] = {}

    @property
    def waiting(self) -> set[str]:
        """Nodes that are dead and start again later."""
        return set(self._wake)

    def died(self, node: str) -> bool:
        """Takes note of a death; whether the node starts again."""
        now, deaths = self._clock(), self._deaths[node]
        deaths.append(now)
        while deaths[0] < now - WINDOW:
            deaths.popleft()
        if len(deaths) > self._limit:
            return False
        recent = sum(death > now - _RECENT for death in deaths)
        self._wake[node] = now + min(2.0 ** (recent - 1), _LONGEST_DELAY)
        return True

    def describe(self, node: str, reason: str) -> str:
        """A line about the death that was noted last; `reason` may be empty: killed."""
        cause = reason or "killed, or out of memory"
        if node in self._wake:
            wait = self._wake[node] - self._deaths[node][-1]
            return f"{node} died ({cause}); it starts again in {wait:g} s"
        return (
            f"{node} died ({cause}), {len(self._deaths[node])} times within "
            f"{WINDOW / 60:g} minutes; --node-restarts {self._limit} allows no more"
        )

    def due(self) -> list[str]:
        """Nodes to start now; each is named once."""
        now = self._clock()
        due = [node for node, wake in self._wake.items() if wake <= now]
        for node in due:
            del self._wake[node]
        return due
