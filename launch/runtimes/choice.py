"""Which runtime a run can have here."""

from __future__ import annotations

import importlib.util
import platform


def why_no_launchpad() -> str:
    """Why the Launchpad runtime cannot run here, or nothing if it can."""
    missing = [
        package
        for module, package in (("launchpad", "dm-launchpad"), ("reverb", "dm-reverb"))
        if importlib.util.find_spec(module) is None
    ]
    if not missing:
        return ""
    here = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return (
        f"{' and '.join(missing)} not installed; there are wheels for Python 3.10 on Linux x86_64 "
        f"alone, and this is Python {here}"
    )


def check_runtime(runtime: str) -> None:
    """Refuses a runtime that cannot be had.

    Raises:
      ValueError: one line that says why, and which there is.
    """
    if runtime == "launchpad" and (why := why_no_launchpad()):
        raise ValueError(f"--runtime launchpad: {why}. Give --runtime local-threads.")


def choose_runtime(runtime: str) -> tuple[str, str]:
    """The runtime that a run takes, and where it is not the one that is meant first, why."""
    if runtime != "auto":
        return runtime, ""
    if why := why_no_launchpad():
        return "local-threads", f"runtime local-threads: {why}"
    return "launchpad", ""
