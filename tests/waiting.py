"""Calls that wait, watched from a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Call:
    """A call in a thread of its own, so that a test can look at it while it is blocked."""

    def __init__(self, function: Callable):
        self._function = function
        self._outcome = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self._outcome.append((self._function(), None))
        except BaseException as error:
            self._outcome.append((None, error))

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, within: float):
        """Returns or raises what the call did; fails if it still runs after `within` seconds."""
        self._thread.join(within)
        assert not self.running, f"still blocked after {within} s"
        value, error = self._outcome[0]
        if error is not None:
            raise error
        return value


class Clock:
    """Stands in for `time.monotonic`: seconds that a test sets."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def eventually(condition: Callable[[], object]) -> None:
    """Waits until a condition holds; fails if it does not within 10 s."""
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, "did not come true within 10 s"
        time.sleep(0.02)
