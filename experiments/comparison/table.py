"""The table of finished runs: small enough to be kept under version control, so that a comparison
can go on on another machine.

A line for each seed of a game and method. Curves are numbers separated by spaces, each the mean
over one of as many equal stretches of the run; `nan` where nothing is known, and for a return where
no episode ended.
"""

from __future__ import annotations

import csv
import io
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bmg.storage.fields import Natural, Pause, Seed, Steps, number, read
from bmg.storage.files import in_turn, reason, whole_file

POINTS = 40  # of the curve of returns
META_POINTS = 20  # of each other curve
META_CURVES = {
    "gamma": "meta_main/discount",
    "lambda": "meta_main/lambda",
    "alpha": "meta_main/alpha",
    "policy_cost": "meta_main/policy_cost",
    "entropy_cost": "meta_main/entropy_cost",
    "value_cost": "meta_main/value_cost",
    "gradient_cosine": "meta/gradient_cosine",
    "gradient_norm_to_variance": "meta/gradient_norm_to_variance",
}
"""The meta-parameters of the main task, and what BMG Table 3 has of meta-gradients: column ->
metric."""
META_PARAMETERS = tuple(name for name, metric in META_CURVES.items() if "main" in metric)
_LATE = 0.9  # from this share of a run on, returns are late


class Finished(NamedTuple):
    """One seed of a game and method."""

    game: str
    method: str
    seed: int
    steps: int  # of the environment
    settings: str  # digest
    evaluation_return: float  # mean over the last evaluation's episodes
    evaluation_episodes: int
    late_return: float  # mean of the episodes that ended in the last tenth of training, or NaN
    wall_seconds: float  # of training, with all seeds that ran beside it
    curve: np.ndarray  # [POINTS] returns of training episodes
    meta: dict[str, np.ndarray]  # column -> [META_POINTS]; empty where nothing is meta-learned

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What no two lines have in common."""
        return self.game, self.method, self.seed, self.settings


_NUMBERS = ("evaluation_return", "evaluation_episodes", "late_return", "wall_seconds")
COLUMNS = ("game", "method", "seed", "steps", "settings", *_NUMBERS, "curve", *META_CURVES)
Points = Sequence[tuple[float, float]]  # frames, value


def stretches(points: Points, steps: int, count: int) -> np.ndarray:
    """Means over equal stretches of a run, [count]; NaN where there is no point.

    Args:
      points: frames at the end of a row, and its value.
      steps: of the whole run; rows beyond belong to the last stretch.
      count: of stretches.
    """
    sums, counts = np.zeros(count), np.zeros(count)
    for frames, value in points:
        index = min(max(math.ceil(frames * count / steps) - 1, 0), count - 1)
        sums[index] += value
        counts[index] += 1
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def late_mean(points: Points, steps: int) -> float:
    """Over the rows of the last tenth of a run, at least the last one."""
    late = [value for frames, value in points if frames > _LATE * steps]
    late = late or [value for _, value in points[-1:]]
    return float(np.mean(late)) if late else math.nan


def read_table(path: pathlib.Path) -> list[Finished]:
    """The lines of a file, none where there is no file.

    Raises:
      ValueError: it is no such table; one line.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise ValueError(f"{path} is no table of finished runs: {why}.") from None
    try:
        names, *lines = [*csv.reader(io.StringIO(text))] or [[]]
        if tuple(names) != COLUMNS:
            raise ValueError(f"its first line is not {', '.join(COLUMNS[:5])} and so on")
        runs = [_read_line(line) for line in lines]
        keys = [run.key for run in runs]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            game, method, seed, _ = twice[0]
            raise ValueError(f"{game}, {method}, seed {seed} is there twice")
        return runs
    except (ValueError, csv.Error) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} is no table of finished runs: {why}.") from None


def _read_line(line: list[str]) -> Finished:
    if len(line) != len(COLUMNS):
        raise ValueError(f"a line has {len(line)} fields, not {len(COLUMNS)}")
    text = dict(zip(COLUMNS, line))

    def given(kind, name: str):
        return read(kind, number(text[name]), name)

    curve = _read_curve(text["curve"], POINTS)
    meta = {name: _read_curve(text[name], META_POINTS) for name in META_CURVES if text[name]}
    return Finished(
        text["game"], text["method"], given(Seed, "seed"), given(Steps, "steps"), text["settings"],
        _read_number(text["evaluation_return"]), given(Natural, "evaluation_episodes"),
        _read_number(text["late_return"]), given(Pause, "wall_seconds"), curve, meta,
    )  # fmt: skip


def _read_curve(text: str, count: int) -> np.ndarray:
    values = np.array([_read_number(word) for word in text.split()])
    if len(values) != count:
        raise ValueError(f"a curve has {len(values)} points, not {count}")
    return values


def _read_number(text: str) -> float:
    """Finite, or NaN."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"it has the number {text}; allowed are finite ones, and nan for none")
    return value


def write_table(path: pathlib.Path, runs: Iterable[Finished]) -> None:
    """Writes a table, sorted; whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in sorted(runs, key=lambda run: run.key):
        numbers = [_short(getattr(run, name)) for name in _NUMBERS]
        meta = [_curve(run.meta[name]) if name in run.meta else "" for name in META_CURVES]
        words = [run.game, run.method, run.seed, run.steps, run.settings]
        writer.writerow([*words, *numbers, _curve(run.curve), *meta])
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(text.getvalue().encode())


def add_to_table(path: pathlib.Path, runs: Iterable[Finished]) -> None:
    """Adds lines to a file, in the place of those with the same key; also while others do.

    Raises:
      ValueError: it is no such table; one line.
      OSError: it cannot be written.
    """
    new = list(runs)
    keys = {run.key for run in new}
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_turn(path):
        write_table(path, [*(run for run in read_table(path) if run.key not in keys), *new])


def _short(value: float) -> str:
    return f"{value:.6g}"


def _curve(values: np.ndarray) -> str:
    return " ".join(f"{value:.5g}" for value in values)
