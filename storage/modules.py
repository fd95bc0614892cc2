"""What a user names as `package.module:name`."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from typing import Any

# Whatever a user's module or function may raise, except for what stops the program by intent.
FAILURES = (Exception, SystemExit)


def is_qualified(name: str) -> bool:
    """Whether it has the form `package.module:name`."""
    module, _, attribute = name.partition(":")
    return all(map(str.isidentifier, [*module.split("."), attribute]))


def load_named(name: str) -> Any:
    """What has that name in a module that is installed or in the current folder.

    Raises:
      ValueError: there is nothing of that name; one line.
    """
    if not is_qualified(name):
        raise ValueError(f"{name} is not of the form package.module:name.")
    module, _, attribute = name.partition(":")
    first = module.partition(".")[0]
    if first != "bmg":
        _look_in_this_folder()
    try:
        return getattr(importlib.import_module(module), attribute)
    except FAILURES as error:
        told = str(error) if isinstance(error, (ImportError, AttributeError)) else raised(error)
        if isinstance(error, ModuleNotFoundError) and error.name == first:
            told += "; give the command in that module's folder, or install it"
        raise ValueError(f"{name} cannot be imported: {told}.") from error


def load_function(name: str) -> Callable[..., Any]:
    """Likewise, where it is a function.

    Raises:
      ValueError: there is none of that name; one line.
    """
    found = load_named(name)
    if not callable(found):
        raise ValueError(f"{name} is a {type(found).__name__}; give a function.")
    return found


@contextlib.contextmanager
def failing_as(what: str) -> Iterator[None]:
    """What a user's function raises within becomes a ValueError of one line, `what` first."""
    try:
        yield
    except FAILURES as error:
        raise ValueError(f"{what}: {raised(error)}") from error


def raised(error: BaseException) -> str:
    """What such a function raised, in one line, and where in the user's files."""
    return " ".join(f"{type(error).__name__}: {error}".split()) + _place(error)


def _place(error: BaseException) -> str:
    """The innermost line outside of this package and of libraries; empty where there is none."""
    libraries = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        ours = frame.f_globals.get("__name__", "").partition(".")[0] == "bmg"
        if not ours and os.path.isfile(file) and not file.startswith(libraries):
            place = f" ({os.path.relpath(file) if file.startswith(os.getcwd()) else file}:{line})"
    return place


def _look_in_this_folder() -> None:
    """Last, so that no file of it takes the place of a library."""
    with contextlib.suppress(OSError):  # the folder may be gone
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
