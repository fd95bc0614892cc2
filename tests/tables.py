"""Tables of cases in one test: what fails in a row names it."""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Iterator

import pytest

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


@contextlib.contextmanager
def named(*case: object) -> Iterator[None]:
    """Around a row; it must leave nothing behind that another one could depend on."""
    try:
        yield
    # Whatever it is, it fails; pytest.raises fails with what is no Exception.
    except (Exception, pytest.fail.Exception) as error:
        name = ", ".join(map(_SHORT.repr, case))
        raise AssertionError(f"in the row {name}: {error}") from error
