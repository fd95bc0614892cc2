"""How this process asks the system for memory."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's mallopt
_NEVER = -1
_TUNABLES = "GLIBC_TUNABLES"
_KEEPING = (
    f"glibc.malloc.trim_threshold={2**63 - 1}:glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1"
)


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
    """The same as a variable for the environment of a program that is to be started.

    Args:
      environment: of this process, which may have settings of glibc already; they stay.
    """
    given = environment.get(_TUNABLES, "")
    return {_TUNABLES: f"{_KEEPING}:{given}" if given else _KEEPING}
