"""What the figures and tables of the multi-step experiments share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bmg.experiments.multistep.config import ObjectiveConfig
from bmg.experiments.multistep.estimators import Measured
from bmg.experiments.plots import draw_band
from bmg.experiments.records import Run

_KINDS = ("fixed", "n-step", "mixed", "bmg", "mixed-bmg")
_LINES = ("-", "-", "--", "-.", ":")  # of each kind


def order(config: ObjectiveConfig):
    """Legends and tables run by kind, then from few steps to many."""
    return _KINDS.index(config.objective), config.inner_steps


def by_objective(run: Run):
    """Likewise, of runs."""
    return order(run.config)


def draw_runs(axis, runs: Sequence[Run], values: Callable, scale: float, **settings) -> None:
    """A quantity of each run, `values` of the run [S, n], over its steps in units of `scale`; the
    kind of objective has its line, the number of steps its colour."""
    ahead = sorted({run.config.inner_steps for run in runs if run.config.objective != "fixed"})
    for run in sorted(runs, key=by_objective):
        kind, n = run.config.objective, run.config.inner_steps
        color = "black" if kind == "fixed" else f"C{ahead.index(n)}"
        line = _LINES[_KINDS.index(kind)]
        draw_band(
            axis, run.steps / scale, values(run), run.config.label, color=color, linestyle=line
        )
    axis.set(**settings)


def signal_to_noise(measured: Measured) -> np.ndarray:
    """Norm of the expected meta-gradient over the root of its total variance: the mean over points,
    [S]. What the noise adds to the norm of a mean of finitely many is taken off."""
    total_variance = np.sum(measured.deviation**2, axis=-1)
    square = np.sum(measured.mean**2, axis=-1) - total_variance / measured.draws
    return mean_of_ratios(np.sqrt(np.maximum(square, 0.0)), np.sqrt(total_variance), -1)


def mean_of_ratios(above: np.ndarray, below: np.ndarray, axis) -> np.ndarray:
    """Mean of `above` over `below`, where that is not 0."""
    counted = below > 0
    ratios = np.where(counted, above / np.where(counted, below, 1.0), 0.0)
    return ratios.sum(axis) / np.maximum(counted.sum(axis), 1)


def with_spread(values: np.ndarray, digits: int) -> str:
    """Mean over seeds, and their standard deviation where there are several."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ({values.std():.{digits}f})"
