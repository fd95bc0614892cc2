"""Where JAX keeps compiled programs for the next time."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Mapping

FOLDER = "JAX_COMPILATION_CACHE_DIR"  # JAX's name for it
_SECONDS = 0.5  # of compilation, from which on a program is kept
_BYTES = 2**30  # of all programs; the one unused for longest goes first


def keeping_compiled_programs(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which JAX keeps what takes long to compile in the user's cache folder.

    JAX tells programs apart by their code, its own version, its flags and the kind of device; not
    by what a CPU can do, which is another one where a home directory is shared. So each kind of CPU
    has a folder of its own.

    Args:
      environment: of this process. Whoever has chosen a folder, or none by an empty name, keeps it.

    Returns:
      Nothing where that choice stands, where the folder cannot be written to, and where JAX would
      not take back what it has kept.
    """
    home = environment.get("HOME")
    cache = environment.get("XDG_CACHE_HOME") or (home and os.path.join(home, ".cache"))
    if FOLDER in environment or not cache or _refuses(cpu := _cpu()):
        return {}
    folder = pathlib.Path(cache, "bmg", "compiled", hashlib.sha256(cpu.encode()).hexdigest()[:16])
    # JAX makes it when there is something to keep.
    wanted = folder.absolute()
    # Not Path.exists, which raises where others' folders may not be looked into.
    there = next(x for x in (wanted, *wanted.parents) if os.path.exists(x))
    if not (os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)):
        return {}
    return {
        FOLDER: str(folder),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(_BYTES),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(_SECONDS),
    }


def _cpu() -> str:
    """What this kind of CPU is and can do; the same text for all of the kind."""
    told = {platform.machine(), platform.processor()}
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("vendor_id", "model name", "flags", "Features")):
                told.add(line)
    except OSError:  # no Linux
        pass
    return "\n".join(sorted(told))


def _refuses(cpu: str) -> bool:
    """Whether JAX keeps programs and then does not take them back, with an error for each: on
    Intel's processors since 0.9 (https://github.com/jax-ml/jax/issues/38445)."""
    try:
        major, minor = map(int, importlib.metadata.version("jax").split(".")[:2])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return "GenuineIntel" in cpu and (major, minor) >= (0, 9)
