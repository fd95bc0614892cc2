"""Meta-gradients measured along a trajectory: what each would say there, and how much it shakes.

The table has a row for each seed, point, kind of meta-gradient and meta-parameter: mean and
standard deviation of many estimates on independent data. Bias, norms and ratios follow from it.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.flatten_util
import numpy as np

from experiments.lifetime import State
from experiments.multistep.config import EstimatorsConfig, ObjectiveConfig
from experiments.runner import Runner
from meta import diagnosis
from storage.files import whole_file

ESTIMATES = "estimates.csv"
_BATCH = 256  # estimates side by side
_COLUMNS = ("seed", "step", "objective", "inner_steps", "draws", "parameter", "mean", "deviation")


class Estimator(NamedTuple):
    """One kind of meta-gradient."""

    objective: ObjectiveConfig
    moments: Callable[[State, jax.Array], diagnosis.Moments]  # state, key -> of many estimates


def make_estimators(
    config: EstimatorsConfig, make_estimate: Callable, convolves: bool
) -> list[Estimator]:
    """Those of the configuration.

    Args:
      config: which ones; also the experiment's own configuration.
      make_estimate: configuration -> (state, key) -> one meta-gradient.
      convolves: as of `Lifetime`: estimates then come one after the other.
    """

    def of(objective: ObjectiveConfig) -> Estimator:
        estimate = make_estimate(dataclasses.replace(config, **dataclasses.asdict(objective)))
        if convolves:
            estimate = jax.jit(estimate)

            def moments(state, key):
                draws = [estimate(state, k) for k in jax.random.split(key, config.draws)]
                return diagnosis.moments(jax.tree.map(lambda *x: np.stack(x), *draws))
        else:

            @jax.jit
            def moments(state, key):
                draw = functools.partial(estimate, state)
                return diagnosis.monte_carlo(draw, key, config.draws, _BATCH)

        return Estimator(objective, moments)

    return [of(objective) for objective in config.objectives]


def measure(
    estimators: list[Estimator], config: EstimatorsConfig, runner: Runner, path: pathlib.Path
) -> None:
    """Adds to the table what all estimators say where the lifetimes are now.

    A point that is there is left alone, so that a resumed run goes on after the last one.

    Args:
      estimators: see `make_estimators`.
      config: of the run.
      runner: whose lifetimes are looked at; nothing of them changes.
      path: the table.
    """
    rows = read(path) if path.exists() else []
    step = runner.records.steps
    if any(int(row["step"]) == step for row in rows):
        return
    for index in range(config.seeds):
        seed = config.first_seed + index
        state = runner.lifetime(index)
        key = jax.random.fold_in(jax.random.PRNGKey(seed), step)
        for kind, estimator in enumerate(estimators):
            found = estimator.moments(state, jax.random.fold_in(key, kind))
            mean, _ = jax.flatten_util.ravel_pytree(found.mean)
            variance, _ = jax.flatten_util.ravel_pytree(found.variance)
            objective = estimator.objective
            rows += [
                dict(zip(_COLUMNS, (
                    seed, step, objective.objective, objective.inner_steps, config.draws,
                    parameter, f"{float(m):.8g}", f"{float(v) ** 0.5:.8g}",
                )))
                for parameter, (m, v) in enumerate(zip(mean, variance))
            ]  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with whole_file(path) as file:
        file.write(text.getvalue().encode())


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """The table's rows.

    Raises:
      ValueError: it is not one; one line.
    """
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise ValueError(f"{path} is no table of estimates.")
        return list(reader)


class Measured(NamedTuple):
    """One kind of meta-gradient along the trajectory; S seeds, P points, M meta-parameters."""

    objective: ObjectiveConfig
    steps: np.ndarray  # [P]
    mean: np.ndarray  # [S, P, M]
    deviation: np.ndarray  # [S, P, M], of one estimate
    draws: int


def gather(rows: list[dict[str, str]]) -> list[Measured]:
    """The table's kinds, in its order."""
    groups: dict[tuple[str, int], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["objective"], int(row["inner_steps"])), []).append(row)
    found = []
    for (kind, n), group in groups.items():
        axes = [sorted({int(row[name]) for row in group}) for name in ("seed", "step", "parameter")]
        values = np.full((2, *map(len, axes)), np.nan)
        for row in group:
            at = tuple(a.index(int(row[x])) for a, x in zip(axes, ("seed", "step", "parameter")))
            values[(slice(None), *at)] = float(row["mean"]), float(row["deviation"])
        draws = int(group[0]["draws"])
        found.append(Measured(ObjectiveConfig(kind, n), np.array(axes[1]), *values, draws))
    return found


def bias(measured: Measured, oracle: Measured, parameters) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 7 over some meta-parameters, and what the estimator itself contributes: each [S, P]."""
    difference = (measured.mean - oracle.mean)[..., parameters]
    noise = (
        measured.deviation**2 / measured.draws + oracle.deviation**2 / oracle.draws
    )[..., parameters]  # fmt: skip
    return np.sqrt(np.sum(difference**2, -1)), np.sqrt(np.sum(noise, -1))
