"""Calls that wait, watched from a test, whose verdict depends on no machine's speed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sized

# Seconds. It only ends what hangs, below the limit of pyproject.toml for a whole test: nothing that
# works takes nearly as long, on a slow machine or beside other work.
DEADLINE = 240.0


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
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            self._outcome.append((None, error))

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self):
        """Returns or raises what the call did; fails if it never ends."""
        self._thread.join(DEADLINE)
        assert not self.running, f"still blocked after {DEADLINE} s"
        value, error = self._outcome[0]
        if error is not None:
            raise error
        return value


class Stop:
    """Stands in for `should_stop`, which everyone who waits asks now and then; counts that."""

    def __init__(self):
        self.asked = 0
        self._is_set = False

    def __call__(self) -> bool:
        self.asked += 1
        return self._is_set

    def set(self) -> None:
        self._is_set = True


class Clock:
    """Stands in for `time.monotonic`: seconds that a test sets."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def eventually(condition: Callable[[], object]) -> None:
    """Waits until a condition holds; fails if it never does."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"did not come true within {DEADLINE} s"
        time.sleep(0.02)


def steadily(condition: Callable[[], object]) -> None:
    """Fails unless a condition goes on to hold, at each of many looks.

    Looks are counted, not seconds: where others get on slowly, so do they.
    """
    for _ in range(30):
        assert condition(), "was true, and is not any more"
        time.sleep(0.01)


def waits(call: Call, stop: Stop, done: Sized = ()) -> bool:
    """Whether a call is blocked: it asks three times in a row whether to stop, and nothing is added
    to `done` meanwhile. False if it ends instead."""
    asked, length = stop.asked, len(done)

    def settled() -> bool:
        nonlocal asked, length
        if len(done) != length:
            asked, length = stop.asked, len(done)
        return stop.asked >= asked + 3 or not call.running

    eventually(settled)
    return call.running
