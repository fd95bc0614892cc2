"""The reference of the public functions: comments of fields become their text."""

from __future__ import annotations

from pathlib import Path

import griffe

EXTENSION = Path(__file__).resolve().parents[2] / "scripts" / "field_comments.py"
SOURCE = '''
from typing import NamedTuple

LIMIT = 8  # cells


class State(NamedTuple):
    """A state."""

    # (x, y) of the agent,
    # from the top left
    place: tuple[int, int]
    steps: int  # int32 [], since the start
    key: tuple[
        int, int
    ]  # random key
    text: str  # not shown
    """The docstring."""
    plain: int
    name: str = "# no comment"
'''


def test_comments_of_fields_are_shown(tmp_path):
    (tmp_path / "sample.py").write_text(SOURCE)
    module = griffe.load(
        "sample", search_paths=[tmp_path], extensions=griffe.load_extensions(str(EXTENSION))
    )
    texts = {
        name: field.docstring and field.docstring.value
        for name, field in {**module["State"].members, "LIMIT": module["LIMIT"]}.items()
    }
    assert texts == {
        "place": "(x, y) of the agent, from the top left",
        "steps": "int32 [], since the start",
        "key": "random key",
        "text": "The docstring.",
        "plain": None,
        "name": None,
        "LIMIT": "cells",
    }
