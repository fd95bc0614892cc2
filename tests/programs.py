"""Compiled programs that the tests of a file share."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest


def once(function: Callable) -> Callable:
    """`function`, whose result is made once for the same arguments: of equal values, or, where
    those cannot be compared, of the very same object."""
    kept: dict[Any, tuple[Any, Any]] = {}

    @functools.wraps(function)
    def made_once(*arguments, **named):
        key = _identity((arguments, tuple(sorted(named.items()))))
        if key not in kept:
            # The arguments are kept as well: an object's place in memory stays its own.
            kept[key] = (function(*arguments, **named), (arguments, named))
        return kept[key][0]

    return made_once


def _identity(x: Any) -> Any:
    if isinstance(x, functools.partial):
        return (x.func, _identity(x.args), _identity(tuple(sorted(x.keywords.items()))))
    if type(x) in (tuple, list):
        return tuple(map(_identity, x))
    try:
        hash(x)
    except TypeError:
        return (id(x),)
    return x


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Within it, lifetimes and seeds that run on the same devices share what is compiled of them,
    as the sessions of a run would each compile the same."""
    from bmg.experiments import runner
    from bmg.learner import in_graph_learner

    with pytest.MonkeyPatch.context() as patch:
        for module in (runner, in_graph_learner):
            patch.setattr(module, "side_by_side", once(module.side_by_side))
        for name in ("make_program", "make_evaluation", "make_beginning"):
            patch.setattr(in_graph_learner, name, once(getattr(in_graph_learner, name)))
        yield
