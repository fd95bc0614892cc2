"""What is kept of many lifetimes: means over stretches of their steps, one row each."""

from __future__ import annotations

import copy
import csv
import io
import itertools
import pathlib
from typing import Any, NamedTuple

import numpy as np

from bmg.storage.files import unreadable, whole_file
from bmg.storage.run_directory import load_config

RESULTS = "results.csv"


class Records:
    """Sums over stretches of `stretch` steps, for every seed and column.

    They never change: `plus` gives new ones, so that whoever is interrupted while adding still
    holds the old ones whole.
    """

    def __init__(self, columns: tuple[str, ...], seeds: int, steps_per_update: int, stretch: int):
        """Starts empty. An update belongs to the stretch that its first step lies in."""
        self.updates = 0
        self._steps_per_update = steps_per_update
        self._stretch = stretch
        self._columns = columns
        self._sums = {name: np.zeros([seeds, 0]) for name in columns}  # float64 [S, stretches]

    @property
    def steps(self) -> int:
        """Steps recorded so far, of each lifetime."""
        return self.updates * self._steps_per_update

    def plus(self, columns: dict[str, np.ndarray]) -> Records:
        """These and the next updates: [S, updates] of each column."""
        count = next(iter(columns.values())).shape[1]
        index = self._index(np.arange(self.updates, self.updates + count))
        starts = np.flatnonzero(np.diff(index, prepend=-1))
        sums = {}
        for name, before in self._sums.items():
            missing = max(index[-1] + 1 - before.shape[1], 0)
            sums[name] = np.pad(before, ((0, 0), (0, missing)))
            values = np.asarray(columns[name], np.float64)
            sums[name][:, index[starts]] += np.add.reduceat(values, starts, axis=1)
        return self._with(self.updates + count, sums)

    def _index(self, update):
        return update * self._steps_per_update // self._stretch

    def stretches(self, updates: int) -> int:
        """How many stretches so many updates lie in."""
        return self._index(updates - 1) + 1 if updates else 0

    def _with(self, updates: int, sums: dict[str, np.ndarray]) -> Records:
        result = copy.copy(self)
        result.updates, result._sums = updates, sums
        return result

    def means(self, steps: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The stretches that begin before `steps` and are complete, or the last one.

        Returns:
          The steps at the end of each stretch [n], and means [S, n] of each column.
        """
        updates = min(self.updates, -(-steps // self._steps_per_update))
        index = self._index(np.arange(self.updates))
        counts = np.bincount(index)
        # A run goes on a little past its end: only whole stretches are left out, none is cut.
        shown = self._index(updates - 1) + 1
        ends = np.cumsum(counts)[:shown] * self._steps_per_update
        return ends, {name: sums[:, :shown] / counts[:shown] for name, sums in self._sums.items()}

    def state(self) -> dict:
        """For a checkpoint: arrays."""
        return {"updates": np.int64(self.updates), **self._sums}

    def restored(self, state: dict) -> Records:
        """Those of a checkpoint."""
        sums = {name: np.array(state[name]) for name in self._columns}
        return self._with(int(state["updates"]), sums)


def write_csv(
    path: pathlib.Path, first_seed: int, steps: np.ndarray, columns: dict[str, np.ndarray]
) -> None:
    """One row for each seed and stretch: seed, step (at the stretch's end), the means."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(["seed", "step", *columns])
    row = "%d,%d" + ",%.6g" * len(columns) + "\n"
    for index, values in enumerate(zip(*(column.tolist() for column in columns.values()))):
        seed = itertools.repeat(first_seed + index)
        text.writelines(row % each for each in zip(seed, steps.tolist(), *values))
    with whole_file(path) as file:
        file.write(text.getvalue().encode())


class Columns(dict):
    """Columns of a table, by name; one that it lacks is an error of the file."""

    def __init__(self, path: pathlib.Path, columns: dict[str, np.ndarray]):
        super().__init__(columns)
        self._path = path

    def __missing__(self, name: str):
        raise ValueError(
            f"{self._path} has no column {name!r}: it is of another version or experiment; leave "
            "it out, or run it anew."
        )


def read_csv(path: pathlib.Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What `write_csv` wrote: steps [n], and [S, n] of each column.

    Raises:
      ValueError: not such a file; one line.
    """
    try:
        with open(path, newline="", encoding="ascii") as file:
            names, *rows = [*csv.reader(file)] or [[]]
        if names[:2] != ["seed", "step"]:
            raise ValueError("its columns do not begin with seed, step")
        if not rows or any(len(row) != len(names) for row in rows):
            raise ValueError("it has no rows, or rows that lack columns")
        keys = np.array([[int(x) for x in row[:2]] for row in rows], np.int64)  # [S * n, 2]
        values = np.array([[float(x) for x in row[2:]] for row in rows])  # [S * n, columns]
        seeds = len(np.unique(keys[:, 0]))
        steps = keys[:, 1].reshape(seeds, -1)
        if np.any(steps != steps[0]):
            raise ValueError("its seeds have other steps")
        columns = zip(names[2:], values.T)
        found = {name: column.reshape(seeds, -1) for name, column in columns}
        return steps[0], Columns(path, found)
    except (ValueError, OverflowError, csv.Error) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{path} is no table of results: {why}") from None


class Run(NamedTuple):
    """What is left of a run."""

    name: str
    config: Any
    steps: np.ndarray  # [n] steps at the end of each stretch
    columns: dict[str, np.ndarray]  # [S, n] means over each stretch


def load_runs(config: type, root: pathlib.Path) -> tuple[list[Run], list[str]]:
    """What is left of the runs in a folder, whose configurations are of that class.

    Returns:
      The runs, and a line about each that cannot be read.

    Raises:
      ValueError: there is none; one line.
    """
    runs, problems = [], []
    for path in sorted(root.glob(f"*/{RESULTS}")):
        try:
            own = load_config(path.parent, config)
            runs.append(Run(path.parent.name, own, *read_csv(path)))
        except (OSError, ValueError) as error:
            problems.append(unreadable(error, path))
    if not runs:
        why = problems[0] if problems else f"no runs in {root}"
        raise ValueError(f"{why} (a folder of run directories is meant).")
    return runs, problems
