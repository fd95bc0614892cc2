"""Curves of lifetimes for TensorBoard, while they run: a folder for each seed."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from bmg.experiments.records import Records
from bmg.learner.metrics import EventWriter
from bmg.storage.files import reason

Curves = dict[str, tuple[np.ndarray, np.ndarray]]  # tag -> steps [m], values [S, m]


def columns_as_they_are(steps: np.ndarray, columns: dict[str, np.ndarray]) -> Curves:
    """A curve for each column, of rows that end at `steps` [n]; columns [S, n]."""
    return {name: (steps, values) for name, values in columns.items()}


class Events:
    """Writes each row of the records once, as soon as it is complete."""

    def __init__(
        self,
        folder: pathlib.Path,
        seeds: range,
        total: int,
        step: int,
        curves: Callable[[np.ndarray, dict[str, np.ndarray]], Curves] = columns_as_they_are,
        settings: Mapping[str, Any] | None = None,
        descriptions: Mapping[str, str] = MappingProxyType({}),
    ):
        """Takes out what stands beyond `step`, which the run goes on from.

        Args:
          folder: of the run's events.
          seeds: of the lifetimes.
          total: steps of each lifetime.
          step: the lifetimes are here.
          curves: what is drawn of the table.
          settings: `group.name` -> JSON value, what the run is; None to leave that out.
          descriptions: of curves, see `dashboard.description_of`.
        """
        self._seeds, self._settings = seeds, settings
        self._total, self._curves = total, curves
        self._writers = [EventWriter(folder / f"seed-{seed}", step, descriptions) for seed in seeds]
        self._complete, self._done, self._problem = 0, step, ""

    def update(self, records: Records, last: bool = False) -> None:
        """Writes what is new; where it cannot, a line says so, once, and the run goes on.

        Args:
          records: of the lifetimes.
          last: nothing follows: a row that is not complete counts as well.
        """
        rows = records.stretches(records.updates)
        # The last one may still grow with the next update.
        complete = rows - (records.stretches(records.updates + 1) == rows)
        if not last and complete == self._complete:
            return
        self._complete = complete
        end = rows if last else complete
        steps, columns = records.means(self._total)
        steps, columns = steps[:end], {name: x[:, :end] for name, x in columns.items()}
        if not len(steps):
            return
        curves = self._curves(steps, columns)
        for step in steps[steps > self._done]:
            for seed, writer in enumerate(self._writers):
                found = {
                    name: values[seed, at == step][0]
                    for name, (at, values) in curves.items()
                    if step in at
                }
                try:
                    writer.write(int(step), found)
                except OSError as error:
                    self._say(reason(error))
        self._done = max(self._done, int(steps[-1]))
        if self._settings is not None:  # once, when there are curves
            for seed, writer in zip(self._seeds, self._writers):
                own = {**self._settings, "seed": seed}
                try:
                    writer.describe(int(steps[0]), f"seed-{seed}", own)
                except OSError as error:
                    self._say(reason(error))
            self._settings = None

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            print(
                f"TensorBoard's events cannot be written ({problem}); the run goes on", flush=True
            )
        self._problem = problem

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers:
            writer.close()
