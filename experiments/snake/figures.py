"""Figure 3 and table 1 of Bonnet et al., redrawn from runs on Snake."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from bmg.experiments.multistep.config import ObjectiveConfig
from bmg.experiments.multistep.estimators import Measured
from bmg.experiments.multistep.figures import (
    draw_runs,
    mean_of_ratios,
    order,
    signal_to_noise,
    with_spread,
)
from bmg.experiments.plots import save_panels
from bmg.experiments.records import Run

HYPERPARAMETERS = {
    "discount": "discount $\\gamma$",
    "trace_decay": "trace decay $\\lambda$",
    "critic_weight": "critic weight",
    "entropy_weight": "entropy weight",
}
_FINAL = 0.05  # share of a run that its final return is the mean of


def episode_return(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Mean return of the episodes that ended in each stretch, [S, n]; the last one's where none."""
    episodes = columns["episodes"]
    result = np.where(episodes > 0, columns["returns"] / np.maximum(episodes, 1e-9), np.nan)
    for i in range(1, result.shape[1]):
        result[:, i] = np.where(np.isnan(result[:, i]), result[:, i - 1], result[:, i])
    return np.nan_to_num(result)


def final_return(steps: np.ndarray, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Mean return of the episodes that ended in the last 5 % of a run, [S].

    Args:
      steps: [n], environment steps at the end of each stretch.
      columns: [S, n], means over each stretch.
    """
    last = slice(-max(round(_FINAL * len(steps)), 1), None)
    weights = np.diff(steps, prepend=0)[last]
    episodes = columns["episodes"][:, last] @ weights
    return columns["returns"][:, last] @ weights / np.maximum(episodes, 1e-9)


def draw_learning(runs: Sequence[Run], output: pathlib.Path) -> pathlib.Path:
    """Figure 3: return and hyper-parameters while learning."""

    def panel(values, ylabel):
        return functools.partial(
            draw_runs, runs=runs, values=values, scale=1e6,
            xlabel="environment steps (millions)", ylabel=ylabel,
        )  # fmt: skip

    panels = [("return of an episode", panel(lambda run: episode_return(run.columns), "return"))]
    panels += [
        (label, panel(lambda run, name=name: run.columns[name], label))
        for name, label in HYPERPARAMETERS.items()
    ]
    return save_panels(output / "figure_3.png", panels)


def relative_deviation(measured: Measured, one_step: Measured) -> np.ndarray:
    """Deviation over the 1-step meta-gradient's, [S]: the mean over meta-parameters and points, but
    those where that one is 0."""
    return mean_of_ratios(measured.deviation, one_step.deviation, (1, 2))


def table_1(runs: Sequence[Run], measured: Sequence[Measured]) -> list[dict[str, str]]:
    """Final return of every run; deviation and signal of its kind of meta-gradient, where measured.

    What was measured and not run has a row as well.
    """
    spread = {m.objective.label: m for m in measured}
    one_step = spread.get(ObjectiveConfig("n-step", 1).label)
    labels = [run.config.label for run in runs]
    entries = [(order(run.config), run.config.label, run) for run in runs]
    entries += [
        (order(m.objective), label, None) for label, m in spread.items() if label not in labels
    ]
    rows = []
    for _, label, run in sorted(entries, key=lambda entry: entry[0]):
        alike = labels.count(label) > 1  # they differ in something else: their names tell
        row = {"objective": f"{label} ({run.name})" if run and alike else label}
        row["final return"] = with_spread(final_return(run.steps, run.columns), 1) if run else ""
        m = spread.get(label)
        both = m is not None and one_step is not None
        row["deviation"] = with_spread(relative_deviation(m, one_step), 2) if both else ""
        row["signal to noise"] = with_spread(signal_to_noise(m), 3) if m is not None else ""
        rows.append(row)
    return rows
