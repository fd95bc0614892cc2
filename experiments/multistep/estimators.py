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
from typing import NamedTuple, get_args

import jax
import jax.flatten_util
import numpy as np

from bmg.experiments.lifetime import State
from bmg.experiments.multistep.config import (
    EstimatorsConfig,
    Objective,
    ObjectiveConfig,
    objectives_of,
)
from bmg.experiments.runner import Runner
from bmg.meta import diagnosis
from bmg.storage.files import whole_file
from bmg.storage.run_directory import load_config

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
        own = as_measured(objective, config)
        estimate = make_estimate(dataclasses.replace(config, **dataclasses.asdict(own)))
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

    return [of(objective) for objective in objectives_of(config)]


def as_measured(objective: ObjectiveConfig, config) -> ObjectiveConfig:
    """An objective of the table with the run's kappa and trace, where they are for it."""
    trace = config.accumulative_trace if objective.objective in ("n-step", "mixed") else None
    return dataclasses.replace(objective, kappa=config.kappa, accumulative_trace=trace)


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
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    states = [runner.lifetime(index) for index in range(config.seeds)]
    for kind, (objective, moments) in enumerate(estimators):
        # All are asked before the first is looked at: the lifetimes lie on different devices.
        keys = [
            jax.random.fold_in(jax.random.fold_in(jax.random.PRNGKey(seed), step), kind)
            for seed in seeds
        ]
        found = [moments(state, key) for state, key in zip(states, keys)]
        for seed, of_seed in zip(seeds, found):
            mean, _ = jax.flatten_util.ravel_pytree(of_seed.mean)
            variance, _ = jax.flatten_util.ravel_pytree(of_seed.variance)
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
    try:
        with open(path, newline="", encoding="ascii") as file:
            names, *rows = [*csv.reader(file)] or [[]]
        if tuple(names) != _COLUMNS:
            raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
        return [_checked(dict(zip(_COLUMNS, row, strict=True))) for row in rows]
    except (ValueError, csv.Error) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{path} is no table of estimates: {why}") from None


def found(directory: str, config: type) -> list[Measured]:
    """What the run there, whose configuration is of that class, has measured; nothing where no
    directory is named or it holds no measurements."""
    path = pathlib.Path(directory) / ESTIMATES
    if not directory or not path.exists():
        return []
    return gather(read(path), load_config(path.parent, config))


def _checked(row: dict[str, str]) -> dict[str, str]:
    """The row, all of whose values can be read."""
    if row["objective"] not in get_args(Objective):
        raise ValueError(f"no objective {row['objective']!r}")
    for name in ("seed", "step", "inner_steps", "draws", "parameter"):
        if int(row[name]) < 0:
            raise ValueError(f"{name} is {row[name]}")
    for name in ("mean", "deviation"):
        float(row[name])
    return row


class Measured(NamedTuple):
    """One kind of meta-gradient along the trajectory; S seeds, P points, M meta-parameters."""

    objective: ObjectiveConfig
    steps: np.ndarray  # [P]
    mean: np.ndarray  # [S, P, M]
    deviation: np.ndarray  # [S, P, M], of one estimate
    draws: int


def gather(rows: list[dict[str, str]], config) -> list[Measured]:
    """The table's kinds, in its order, as they were measured under the run's configuration."""
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
        objective = as_measured(ObjectiveConfig(kind, n), config)
        found.append(Measured(objective, np.array(axes[1]), *values, draws))
    return found


def bias(measured: Measured, oracle: Measured, parameters) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 7 over some meta-parameters, and its floor: see `diagnosis.bias`; each [S, P].

    Both are over the root of the number of meta-parameters: of the size of one.
    """

    def of_point(mean, variance, oracle_mean, oracle_variance):
        return diagnosis.bias(
            diagnosis.Moments(mean, variance, measured.draws),
            diagnosis.Moments(oracle_mean, oracle_variance, oracle.draws),
        )

    arrays = [x for m in (measured, oracle) for x in (m.mean, m.deviation**2)]
    found = jax.vmap(jax.vmap(of_point))(*(x[..., parameters] for x in arrays))
    size = np.sqrt(measured.mean[0, 0, parameters].size)
    return np.asarray(found.norm) / size, np.asarray(found.floor) / size


def deviation(measured: Measured, parameters) -> np.ndarray:
    """Of one estimate, root mean square over some meta-parameters: [S, P]."""
    return np.sqrt(np.mean(measured.deviation[..., parameters] ** 2, axis=-1))
