"""How this process asks the system for memory, and how much there is."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's mallopt
_NEVER = -1
# The same as variables. (Of several settings in GLIBC_TUNABLES only the first one is left for the
# programs that a program starts.)
_VARIABLES = {
    "MALLOC_TRIM_THRESHOLD_": str(2**63 - 1), "MALLOC_MMAP_MAX_": "0", "MALLOC_ARENA_MAX": "1",
}  # fmt: skip


def keep_freed_memory() -> bool:
    """Lets the process keep what it frees, for its next use of it.

    XLA asks for its arrays anew in each execution on a CPU. By default glibc fetches every large
    one from the system, which clears each of its pages: of a pass over 67 MB that is nine tenths of
    the time. It has to come before other threads start: each has a pool of its own otherwise, too
    small for such arrays. The process then never gives memory back.

    Returns:
      Whether the C library knows these settings; without them, all is as before.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = (_TRIM_THRESHOLD, _NEVER), (_MMAP_MAX, 0), (_ARENA_MAX, 1)
    taken = [mallopt(name, value) for name, value in settings]
    return all(taken)


def keeping_freed_memory(environment: Mapping[str, str]) -> dict[str, str]:
    """The same as variables for the environment of a program that is to be started, and of those
    that it starts.

    Args:
      environment: of this process; what is set there stays.
    """
    return {name: environment.get(name, value) for name, value in _VARIABLES.items()}


def total_memory() -> int | None:
    """Bytes of the machine, in use or not; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def out_of_memory(error: RuntimeError) -> bool:
    """Whether JAX had none left, of a device or of the machine."""
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "Out of memory" in text
