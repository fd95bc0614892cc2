"""What a user names as `package.module:name`."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


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
    if os.getcwd() not in sys.path and "" not in sys.path:  # as Python itself has it for a script
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name} cannot be imported: {error}.") from error
