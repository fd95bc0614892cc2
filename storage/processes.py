"""Which process is which, and whether it still runs, whatever the system's clock does."""

from __future__ import annotations

import os
import pathlib
import sys

PROGRAM = (sys.executable, "-c", "from bmg.launch.cli import main; main()")
"""`bmg`, as a process of the same Python: what the script does, wherever that is."""
PARENT = "BMG_PARENT"  # environment variable: see `child_environment`


def stamp(pid: int) -> str | None:
    """What tells a process from every later one of its number; None where none of it runs.

    When a process began is known in ticks since the machine's start, which no step of the clock
    changes. psutil gives seconds of the calendar, worked out by the clock as it is now.
    """
    if not sys.platform.startswith("linux"):
        import psutil

        try:
            process = psutil.Process(pid)
            return f"{process.create_time():.2f}" if process.status() != "zombie" else None
        except psutil.NoSuchProcess:
            return None
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The second field is the name in brackets, which may hold spaces and brackets itself.
    fields = text.rpartition(")")[2].split()
    return f"{boot[:8]}:{fields[19]}" if fields[0] not in "ZX" else None


def name_of(pid: int) -> str:
    """A process by name, `PID/STAMP`, for `is_running`."""
    return f"{pid}/{stamp(pid)}"


def is_running(name: str) -> bool:
    """Whether the process of that name runs; False for what is no such name."""
    pid, _, expected = name.partition("/")
    return pid.isdecimal() and len(pid) < 10 and stamp(int(pid)) == expected != ""


def child_environment() -> dict[str, str]:
    """The environment of a `bmg` that is to end when this process does, however it does."""
    return {**os.environ, PARENT: name_of(os.getpid())}
