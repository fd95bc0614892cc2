"""Rows of metrics.jsonl: a JSON object on each line, with the environment frames it belongs to.

A run that goes on from an older checkpoint abandons what came after it. Where such a stretch
starts, a row with the name `session` has the frames F that it goes on from; what was written before
it and stands beyond F counts no more:

    frames   40   80   120   160   session at 80   120   160
    counts   yes  yes  no    no    yes             yes   yes
"""

from __future__ import annotations

import json
import math
import operator
import pathlib
from collections.abc import Sequence

Row = dict[str, float]
METRICS = "metrics.jsonl"
"""The file's name in a run directory."""


def parse_row(line: bytes | str) -> Row | None:
    """The finite numbers of a row, by name; None for a line that is no row.

    A row is a JSON object in UTF-8 whose `frames` is a finite number.
    """
    try:
        value = json.loads(line.decode() if isinstance(line, bytes) else line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    row = {name: x for name, x in value.items() if is_finite(x)}
    return row if "frames" in row else None


def is_finite(value) -> bool:
    """Whether it is a number that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floating-point numbers
        return False


def in_force(rows: Sequence[Row | None]) -> list[bool]:
    """Of each row in order of writing, whether it counts; None counts.

    A learner's row with fewer frames than the one before it takes the place of what stands there
    or beyond: files may lack the row of the session.
    """
    counts = [True] * len(rows)
    before: list[int] = []  # those that count so far
    newest = -math.inf  # frames of the learner
    for index, row in enumerate(rows):
        if row is None:
            continue
        goes_back = "learner/frames" in row and row["frames"] < newest
        if "session" in row or goes_back:
            newest = min(newest, row["frames"])
            stays = operator.lt if goes_back else operator.le
            for other in before:
                counts[other] = stays(rows[other]["frames"], row["frames"])
            before = [other for other in before if counts[other]]
        if "learner/frames" in row:
            newest = row["frames"]
        before.append(index)
    return counts


def read_rows(path: pathlib.Path) -> list[Row]:
    """The rows of a file that count, in order of writing.

    Raises:
      OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        rows = [parse_row(line) for line in file]
    return [row for row, counts in zip(rows, in_force(rows)) if counts and row is not None]
