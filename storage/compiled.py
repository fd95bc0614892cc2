"""Where JAX keeps compiled programs for the next time."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Mapping

FOLDER = "JAX_COMPILATION_CACHE_DIR"  # JAX's name for it
_SECONDS = 0.5  # of compilation, from which on a program is kept
_BYTES = 2**30  # of all programs; the one unused for longest goes first
# JAX's names of a program, and of the file with the time of its last use, which it writes next.
_PROGRAM, _USED = "-cache", "-atime"
_LOCK, _LOCK_SECONDS = ".lockfile", 1.0  # JAX has it while it writes


def keeping_compiled_programs(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which JAX keeps what takes long to compile in the user's cache folder.

    JAX tells programs apart by their code, its own version, its flags and the kind of device; not
    by what a CPU can do, which is another one where a home directory is shared. So each kind of CPU
    has a folder of its own. What was not written to its end is removed from it.

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
    _remove_unfinished(wanted)
    return {
        FOLDER: str(folder),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(_BYTES),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(_SECONDS),
    }


def _remove_unfinished(folder: pathlib.Path) -> None:
    """Removes programs whose writer was killed, or had no space. JAX would not replace them, and
    as long as it has not read one, it could keep no others."""
    try:
        names = set(os.listdir(folder))
    except OSError:  # nothing is kept there yet
        return
    stems = (name.removesuffix(_PROGRAM) for name in names if name.endswith(_PROGRAM))
    unfinished = [stem for stem in stems if stem + _USED not in names]
    if not unfinished:
        return
    import filelock

    with contextlib.suppress(OSError):  # somebody writes: it is for the next start
        with filelock.FileLock(folder / _LOCK, timeout=_LOCK_SECONDS):
            for stem in unfinished:
                if not (folder / (stem + _USED)).exists():
                    (folder / (stem + _PROGRAM)).unlink(missing_ok=True)


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
