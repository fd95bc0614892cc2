"""Files that are written whole or not at all, and directories that one process has to itself."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import re
import threading
from collections.abc import Iterator
from typing import IO, Any

_TEMPORARY = re.compile(r".+\.[0-9]+\.tmp", re.DOTALL)


@contextlib.contextmanager
def whole_file(path: pathlib.Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` when the block ends well.

    It is written under a temporary name, synced and renamed, so a file with the final name is
    complete, and an older one stays where writing fails.

    Args:
      path: its name.
      mode: its permissions, from its first byte on; what the user's umask forbids is taken off.

    Raises:
      OSError: it could not be written (a full disk); the temporary file is removed.
    """
    # Several threads may write the same file.
    temporary = path.with_name(f"{path.name}.{threading.get_ident()}.tmp")
    try:
        opener = functools.partial(os.open, mode=mode)
        with open(temporary, "wb", opener=opener) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the name that the user knows
        raise


def same_bytes(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether both files can be read and hold the same."""
    try:
        return one.read_bytes() == other.read_bytes()
    except OSError:
        return False


def remove_leftovers(*folders: pathlib.Path) -> None:
    """Removes what `whole_file` left in these folders when its process was killed.

    Nobody may be writing there meanwhile: the folders are `owned`, or nothing was started yet.

    Raises:
      OSError: one could not be removed.
    """
    for path in [path for folder in folders for path in folder.glob("*.tmp")]:
        if _TEMPORARY.fullmatch(path.name) and not path.is_symlink() and path.is_file():
            path.unlink()


def _sync(directory: pathlib.Path) -> None:
    """The file's new name has to reach the disk as well as its content."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: OSError) -> str:
    """Why something could not be written, in the system's words."""
    if isinstance(error, FileExistsError) and error.filename:  # where a folder should be made
        return f"{error.filename} is no folder"
    return error.strerror or str(error)


def unreadable(error: OSError | ValueError, path: pathlib.Path) -> str:
    """Why a run at `path` cannot be read, in one line."""
    if isinstance(error, OSError):
        return f"{error.filename or path} cannot be read: {reason(error)}"
    return " ".join(str(error).split()).rstrip(".")


def found_json(path: pathlib.Path) -> dict[str, Any]:
    """JSON values by name, as a run leaves them; none where there is no such file yet, or none to
    be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: pathlib.Path, value) -> None:
    """Writes JSON whole or not at all."""
    with whole_file(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


def is_owned(directory: pathlib.Path) -> bool:
    """Whether a process has the directory, see `owned`; nothing is created."""
    try:
        with open(directory / "lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def in_turn(path: pathlib.Path) -> Iterator[None]:
    """Waits until nobody else is in such a block for the same file, which need not be there yet.

    Raises:
      OSError: its lock cannot be created; it stays beside the file.
    """
    with open(path.with_name(f"{path.name}.lock"), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def owned(directory: pathlib.Path, option: str = "--workdir") -> Iterator[None]:
    """Keeps a directory for this process: another one that asks for it meanwhile is refused.

    The system gives it free when the process ends, however it ends.

    Args:
      directory: created where it is missing.
      option: that names another one.

    Raises:
      ValueError: another process has it; one line.
      OSError: it cannot be created or written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "a+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{directory} is in use by a run that goes on (process {file.read() or '?'}); stop "
                f"that one, or give another {option}."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
