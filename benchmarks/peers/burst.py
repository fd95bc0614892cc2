"""One turn of a measurement, here and in the programs of other libraries, which have no `bmg`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def burst(meta_step: Callable[[], None], seconds: float) -> float:
    """Median seconds of the calls that begin within a time, one at least."""
    times, begin = [], time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        meta_step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
