"""Parameters for those who act, fetched in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable

import jax

from agents.messages import VersionedParameters


class ParameterClient:
    """Keeps the newest published parameters at hand; a thread looks for newer ones.

    A failed fetch is tried again at the next interval (the learner may be compiling, or gone: the
    launcher ends the run then), so acting goes on with the parameters at hand.
    """

    def __init__(
        self,
        fetch: Callable[[int], VersionedParameters | None],
        interval: float,
        device: jax.Device | None = None,
    ):
        """Starts fetching.

        Args:
          fetch: version at hand (-1 for none) -> newer parameters, or None where there are none.
          interval: seconds between looks.
          device: where the parameters are put; None for JAX's default.
        """
        self._fetch = fetch
        self._interval = interval
        self._device = device
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
            self._latest = newer._replace(params=jax.device_put(newer.params, self._device))
        elif newer.version == at_hand.version and newer.final:
            self._latest = at_hand._replace(final=True)
        self._arrived.set()

    def wait(self, should_stop: Callable[[], bool]) -> VersionedParameters | None:
        """The newest parameters, waiting for the first ones; None when asked to stop."""
        while not self._arrived.wait(0.2):
            if should_stop():
                return None
        return self._latest

    def close(self) -> None:
        """Stops fetching, and waits a little for a fetch that is under way."""
        self._stop.set()
        self._thread.join(timeout=5.0)
