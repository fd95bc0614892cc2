"""Curves of runs that were left on disk, and of seeds of the same run together.

A run directory of `bmg train` has metrics.jsonl; one with several seeds has a folder for each; one
of an experiment has results.csv, with all of its seeds.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from bmg.experiments.records import RESULTS, read_csv
from bmg.storage.rows import METRICS, read_rows
from bmg.storage.run_directory import config_file, flatten, load_json

Axis = Literal["frames", "hours", "updates"]
Statistic = Literal["mean", "iqm"]
_AXES = {"hours": ("learner/wall_seconds", 3_600.0), "updates": ("learner/updates", 1.0)}
# What says where, for how long and how a run is made, and not what it is.
_BESIDES = (
    "seed", "seeds", "first_seed", "workdir", "resume", "runtime", "launch", "network", "restarts",
    "node_restarts", "silence_timeout", "frames", "steps", "record_every", "checkpoint_interval",
    "preset", "wandb", "devices", "hosts", "actors", "evaluator",
)  # fmt: skip
_BESIDES_OF_LEARNER = ("log", "checkpoint", "publish", "profile", "platform")
_WHAT = ("agent.algorithm", "method", "game")  # what a run is, in a few words
_MOST_DIFFERENCES = 4  # in a label
_POINTS = 200  # of a curve over several seeds
_RESAMPLES = 1_000


class Run(NamedTuple):
    """One seed."""

    workdir: pathlib.Path
    seed: int
    settings: dict[str, Any]  # what it is, `group.name` -> value
    columns: Mapping[str, tuple[np.ndarray, np.ndarray]] | None  # of an experiment: steps, values

    def points(self, metric: str, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
        """x and y of a metric, by x; empty where the run does not have it.

        Raises:
          ValueError: the run has no such axis; one line.
          OSError: its metrics cannot be read.
        """
        if self.columns is not None:
            if axis != "frames":
                raise ValueError(
                    f"{self.workdir} is an experiment's run, which has steps; leave --x {axis} out."
                )
            return self.columns.get(metric, (np.zeros(0), np.zeros(0)))
        rows = read_rows(self.workdir / METRICS)
        found = sorted((row["frames"], row[metric]) for row in rows if metric in row)
        x, y = np.array(found, float).reshape(-1, 2).T
        if axis == "frames" or not len(x):
            return x, y
        name, unit = _AXES[axis]
        known = sorted((row["frames"], row[name] / unit) for row in rows if name in row)
        if not known:
            raise ValueError(f"{self.workdir} has no {name} in its metrics; leave --x {axis} out.")
        return np.interp(x, *np.array(known, float).T), y


class Group(NamedTuple):
    """Runs that differ by their seeds alone."""

    label: str
    runs: list[Run]


class Line(NamedTuple):
    """What is drawn of a group."""

    label: str
    x: np.ndarray  # [n]
    y: np.ndarray  # [n]
    low: np.ndarray | None  # [n], of a 95 % interval; None for a single seed
    high: np.ndarray | None
    seeds: int


def find_runs(workdir: pathlib.Path) -> list[Run]:
    """The seeds that a run directory holds.

    Raises:
      ValueError: it is none, or what it holds cannot be read; one line.
    """
    if (workdir / RESULTS).exists() and config_file(workdir).exists():
        return _of_experiment(workdir)
    several = sorted(path.parent for path in workdir.glob(f"seed-*/{METRICS}"))
    return [_of_training(path) for path in several or [workdir]]


def _of_training(workdir: pathlib.Path) -> Run:
    values = flatten(load_json(workdir))
    return Run(workdir, values.get("seed", 0), _what_it_is(values), None)


def _of_experiment(workdir: pathlib.Path) -> list[Run]:
    values = flatten(load_json(workdir))
    settings, first = _what_it_is(values), values.get("first_seed", 0)
    steps, columns = read_csv(workdir / RESULTS)
    seeds = len(next(iter(columns.values()), ()))
    return [
        Run(workdir, first + i, settings, {name: (steps, x[i]) for name, x in columns.items()})
        for i in range(seeds)
    ]


def _what_it_is(values: Mapping[str, Any]) -> dict[str, Any]:
    def is_beside(name: str) -> bool:
        group, _, rest = name.partition(".")
        return group in _BESIDES or (group == "learner" and rest.startswith(_BESIDES_OF_LEARNER))

    return {name: value for name, value in values.items() if not is_beside(name)}


def group_runs(runs: Sequence[Run], each_seed: bool = False) -> list[Group]:
    """Seeds of the same run together, in the order in which they are given; a label says what tells
    a group from the others.

    Args:
      runs: of any kind.
      each_seed: whether each seed is a group of its own.
    """
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        if each_seed:
            run = run._replace(settings={**run.settings, "seed": run.seed})
        known = json.dumps(run.settings, sort_keys=True)
        # The same run once more is another line.
        count = 0
        while any(other.seed == run.seed for other in groups.get((known, count), ())):
            count += 1
        groups.setdefault((known, count), []).append(run)
    firsts = [members[0] for members in groups.values()]
    return [Group(_label(run, firsts), members) for run, members in zip(firsts, groups.values())]


def _label(run: Run, others: Sequence[Run]) -> str:
    """What tells a run from the others; where that is nothing, or too much, what it is, and where
    if another one is the same.

    How agents meta-learn is told where it differs among those of one algorithm. What follows from
    the game, as a network does, is told where it differs within a game.
    """
    names = dict.fromkeys(name for x in others for name in x.settings)
    differing = [name for name in names if _differs(name, run, others)]
    repeated = sum(x.settings == run.settings for x in others) > 1
    if not differing or len(differing) > _MOST_DIFFERENCES or repeated:
        what = _names(run)
        if what and sum(_names(x) == what for x in others) == 1:
            return ", ".join(what)
        folder = run.workdir.parent if run.workdir.name.startswith("seed-") else run.workdir
        return " ".join([", ".join(what), f"({folder.name})"]).strip()
    lasts = [name.rpartition(".")[2] for name in names]
    parts = []
    for name in differing:
        value = run.settings.get(name)
        path = name.split(".")
        plain = isinstance(value, str) and path[-1] in ("algorithm", "game", "method")
        # The optimiser has a learning rate, and so has the meta-learner.
        short = " ".join(path[-2:] if lasts.count(path[-1]) > 1 else path[-1:])
        parts.append(value if plain else f"{short.replace('_', ' ')} {value}")
    return ", ".join(parts)


def _names(run: Run) -> list[str]:
    known = (run.settings.get(name) for name in _WHAT)
    return [value for value in known if isinstance(value, str)]


def _differs(name: str, run: Run, others: Sequence[Run]) -> bool:
    """Whether a setting is one that labels tell, by all runs or by those like this one."""
    if name.startswith(("agent.meta.", "agent.lpg.")):
        algorithm = run.settings.get("agent.algorithm")
        others = [x for x in others if x.settings.get("agent.algorithm") == algorithm]
    found: dict[Any, set[str]] = {}
    for other in others:
        game = None if name in _WHAT else json.dumps(other.settings.get("game"))
        found.setdefault(game, set()).add(json.dumps(other.settings.get(name)))
    return any(len(values) > 1 for values in found.values())


def line_of(
    group: Group, metric: str, axis: Axis, statistic: Statistic, smooth: float
) -> Line | None:
    """What is drawn of a metric of a group; None where no run has it.

    Args:
      group: of seeds.
      metric: its name.
      axis: what x is.
      statistic: over seeds.
      smooth: share of the curve that each point is the mean of; 0 for the points themselves.

    Raises:
      ValueError, OSError: as `Run.points`.
    """
    curves = [
        (x, _smoothed(y, smooth))
        for x, y in (run.points(metric, axis) for run in group.runs) if len(x)
    ]  # fmt: skip
    if not curves:
        return None
    if len(curves) == 1:
        return Line(group.label, *curves[0], None, None, 1)
    at = _common([x for x, _ in curves])
    values = np.stack([np.interp(at, x, y) for x, y in curves])
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(values), size=(_RESAMPLES, len(values)))
    statistics = np.stack([over_seeds(values[one], statistic) for one in drawn])
    low, high = np.percentile(statistics, [2.5, 97.5], axis=0)
    return Line(group.label, at, over_seeds(values, statistic), low, high, len(curves))


def _common(axes: Sequence[np.ndarray]) -> np.ndarray:
    """Where curves are compared: at their points if they share them, else over their overlap."""
    if all(np.array_equal(x, axes[0]) for x in axes):
        return axes[0]
    start, end = max(x[0] for x in axes), min(x[-1] for x in axes)
    return np.linspace(start, end, _POINTS) if end > start else np.array([start])


def over_seeds(values: np.ndarray, statistic: Statistic) -> np.ndarray:
    """[S, n] -> [n]: the mean, or the interquartile mean, without the lowest and highest quarter of
    the seeds (Agarwal et al. 2021)."""
    if statistic == "mean":
        return values.mean(0)
    cut = int(0.25 * len(values))
    return np.sort(values, axis=0)[cut : len(values) - cut].mean(0)


def _smoothed(values: np.ndarray, share: float) -> np.ndarray:
    """Means over windows that are centred, and shorter at both ends."""
    half = int(share * len(values) / 2)
    if not half:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    first, last = index - reach, index + reach + 1
    return (sums[last] - sums[first]) / (last - first)
