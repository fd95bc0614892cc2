"""Where results come from: the program's version and commit, and the command that was typed."""

from __future__ import annotations

import functools
import os
import pathlib
import shlex
import subprocess
import sys

from bmg import __version__

_COMMAND = "BMG_COMMAND"  # environment variable: for the processes of a run
_COMMIT = "BMG_COMMIT"  # environment variable: of a package without its repository, as in images
_ROOT = pathlib.Path(__file__).resolve().parents[1]


def note_command(arguments: list[str]) -> None:
    """Keeps the command for this process and those that it starts."""
    text = shlex.join(["bmg", *arguments]).replace("\0", "")
    os.environ[_COMMAND] = text.encode(errors="replace").decode()


def command() -> str:
    """What was typed; empty where the program is called as a function."""
    return os.environ.get(_COMMAND, "")


def versions() -> dict[str, str | None]:
    """Of the program, its commit, Python and JAX."""
    import jax

    return {
        "bmg": __version__, "commit": commit(), "python": sys.version.split()[0],
        "jax": jax.__version__,
    }  # fmt: skip


@functools.cache
def commit(root: pathlib.Path = _ROOT) -> str | None:
    """The commit that the program runs from, with `-dirty` where files were changed since. Where
    it was installed without its repository: what BMG_COMMIT says, or None."""
    if not (root / ".git").exists():  # a repository further up is somebody else's
        return os.environ.get(_COMMIT) or None
    words = [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        found = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
