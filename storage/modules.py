"""Functions that a user names."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable


def is_function_name(name: str) -> bool:
    """Whether it has the form `package.module:function`."""
    module, colon, function = name.partition(":")
    return bool(colon) and function.isidentifier() and all(map(str.isidentifier, module.split(".")))


def load_function(name: str) -> Callable:
    """The function `package.module:function`, of what is installed or in the current folder.

    Raises:
      ValueError: there is none; one line.
    """
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:  # as Python itself has it for a script
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name} cannot be imported: {error}.") from error
    if not callable(found):
        raise ValueError(f"{name} is {type(found).__name__}, no function.")
    return found
