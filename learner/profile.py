"""A profiler trace of some updates, for TensorBoard's profile plugin and Perfetto."""

from __future__ import annotations

import pathlib

import jax

_AFTER = 10  # updates: compilation and the first batches are over


class Profile:
    """Traces so many updates after the first ten; none of zero."""

    def __init__(self, directory: pathlib.Path, updates: int):
        """Nothing is written before the first traced update."""
        self._directory, self._updates = directory, updates
        self._seen = 0
        self._tracing = False

    def before_update(self) -> None:
        """Starts and ends the trace when it is time; called before each update."""
        if self._updates and self._seen == _AFTER:
            jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)
            self._tracing = True
        if self._tracing and self._seen == _AFTER + self._updates:
            self.close()
        self._seen += 1

    def close(self) -> None:
        """Ends the trace, where one is under way."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
            print(f"profile: {self._directory}", flush=True)
