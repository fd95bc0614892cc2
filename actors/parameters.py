"""Parameters for those who act: fetched in the background, or at hand in the same process."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Protocol

import jax

from bmg.agents.messages import VersionedParameters

_LOOK = 0.2  # seconds between looks at whether to stop


class Parameters(Protocol):
    """Where parameters come from."""

    def wait(self, should_stop: Callable[[], bool]) -> VersionedParameters | None:
        """The newest parameters, waiting for the first ones; None when asked to stop."""
        ...


class LocalParameters:
    """The parameters of a learner in this process: the newest at every call."""

    def __init__(self, published: Callable[[], VersionedParameters], device: jax.Device):
        """Fetches nothing yet.

        Args:
          published: the learner's newest ones, host arrays.
          device: where those who act want them.
        """
        self._published, self._device = published, device
        self._lock = threading.Lock()  # guards the next two
        self._source: VersionedParameters | None = None
        self._latest: VersionedParameters | None = None

    def wait(self, should_stop: Callable[[], bool]) -> VersionedParameters | None:
        """See `Parameters.wait`; there is nothing to wait for."""
        with self._lock:
            newest = self._published()
            if newest is not self._source:
                params = jax.device_put(newest.params, self._device)
                self._source, self._latest = newest, newest._replace(params=params)
            return self._latest


class ParameterClient:
    """Keeps the newest published parameters at hand; a thread looks for newer ones.

    A failed fetch is tried again at the next interval (the learner may be compiling, or gone: the
    launcher ends the run then), so acting goes on with the parameters at hand.
    """

    def __init__(
        self, fetch: Callable[[int], VersionedParameters | None], interval: float, timeout: float
    ):
        """Starts fetching.

        Args:
          fetch: version at hand (-1 for none) -> newer parameters, or None where there are none.
          interval: seconds between looks.
          timeout: seconds that `wait` waits for the first parameters.
        """
        self._fetch = fetch
        self._interval = interval
        self._timeout = timeout
        self._latest: VersionedParameters | None = None
        self._arrived = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="parameters", daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.is_set():
            self.refresh()
            self._stop.wait(self._interval)

    def refresh(self) -> None:
        """Looks for newer parameters once; failures are left to the next look."""
        at_hand = self._latest
        try:
            newer = self._fetch(-1 if at_hand is None else at_hand.version)
        except Exception as error:  # noqa: BLE001 - any remote failure: try again later
            print(f"parameters could not be fetched, trying again: {error}", flush=True)
            return
        if newer is None:
            return
        newer = VersionedParameters(*newer)
        if at_hand is None or newer.version > at_hand.version:
            self._latest = newer._replace(params=jax.device_put(newer.params))
        elif newer.version == at_hand.version and newer.final:
            self._latest = at_hand._replace(final=True)
        self._arrived.set()

    def wait(self, should_stop: Callable[[], bool]) -> VersionedParameters | None:
        """See `Parameters.wait`.

        Raises:
          TimeoutError: no parameters ever came; one line.
        """
        looks = math.ceil(self._timeout / _LOOK)  # not a clock: this process may be suspended
        while not self._arrived.wait(_LOOK):
            if should_stop():
                return None
            looks -= 1
            if looks <= 0:
                raise TimeoutError(
                    f"no parameters within {self._timeout:g} s: is the learner dead, or slower?"
                )
        return self._latest

    def close(self) -> None:
        """Stops fetching, and waits a little for a fetch that is under way."""
        self._stop.set()
        self._thread.join(timeout=5.0)
