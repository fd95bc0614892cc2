"""The examples as modules, under the names that a user in their folder gives."""

from __future__ import annotations

import importlib
import pathlib
import sys
from types import ModuleType

FOLDER = pathlib.Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    """Imports an example; it stays importable."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)
