"""Figures 3, 4 and 5 and table 1 of Bonnet et al., redrawn from runs."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bmg.experiments.multistep.config import ObjectiveConfig
from bmg.experiments.multistep.estimators import Measured, bias, deviation
from bmg.experiments.plots import draw_band, save_panels

EVEN, ODD = slice(0, None, 2), slice(1, None, 2)  # states whose reward is not noise, and is
HYPERPARAMETERS = {
    "discount": "discount $\\gamma$",
    "trace_decay": "trace decay $\\lambda$",
    "critic_weight": "critic weight",
    "entropy_weight": "entropy weight",
}
_FINAL = 0.05  # share of a run that its final return is the mean of
_KINDS = ("fixed", "n-step", "mixed", "bmg", "mixed-bmg")
_LINES = ("-", "-", "--", "-.", ":")  # of each kind


class Run(NamedTuple):
    """What is left of a run."""

    name: str
    config: ObjectiveConfig
    steps: np.ndarray  # [n] environment steps at the end of each stretch
    columns: dict[str, np.ndarray]  # [S, n] means over each stretch


def order(config: ObjectiveConfig):
    """Legends and tables run by kind, then from few steps to many."""
    return _KINDS.index(config.objective), config.inner_steps


def by_objective(run: Run):
    """Likewise, of runs."""
    return order(run.config)


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


def draw_snake(runs: Sequence[Run], output: pathlib.Path) -> pathlib.Path:
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


def draw_mrp(runs: Sequence[Run], output: pathlib.Path) -> pathlib.Path:
    """Figure 4: the values' error and the discounts while learning."""

    def panel(values, **settings):
        return functools.partial(
            draw_runs, runs=runs, values=values, scale=1e3,
            xlabel="environment steps (thousands)", **settings,
        )  # fmt: skip

    def discounts(states, ylabel):
        return panel(lambda run: mean_discount(run, states), ylim=(0, 1), ylabel=ylabel)

    error = panel(
        lambda run: run.columns["value_error"], yscale="log", ylabel="error of the values"
    )
    panels = [
        ("root mean squared error against the true values", error),
        ("even states: 1 is best", discounts(EVEN, "mean discount of even states")),
        ("odd states, noise: 0 is best", discounts(ODD, "mean discount of odd states")),
    ]
    return save_panels(output / "figure_4.png", panels)


def mean_discount(run: Run, states: slice) -> np.ndarray:
    """[S, n]."""
    return np.mean([run.columns[f"discount_{i}"] for i in range(10)[states]], axis=0)


def find_oracle(measured: Sequence[Measured], oracle_steps: int) -> Measured | None:
    """The one that bias is measured against, where there is one."""
    for m in measured:
        if (m.objective.objective, m.objective.inner_steps) == ("n-step", oracle_steps):
            return m
    return None


def draw_bias_and_variance(
    measured: Sequence[Measured], oracle_steps: int, output: pathlib.Path
) -> pathlib.Path:
    """Figure 5: bias and deviation along the trajectory, and their means over it by n.

    Args:
      measured: of the Markov reward process; bootstrapped ones, whose mean is of another size, are
        left out.
      oracle_steps: n of the one that bias is measured against.
      output: folder of the picture.
    """
    oracle = find_oracle(measured, oracle_steps)
    kinds = {
        kind: [m for m in measured if m.objective.objective == kind and m is not oracle]
        for kind in ("n-step", "mixed")
    }

    def biases(axis):
        for m in kinds["n-step"]:
            found, floor = bias(m, oracle, EVEN)
            draw_band(axis, m.steps / 1e3, found, m.objective.label)
            # What would be found where there is no bias; alike for all but the noisiest.
            axis.plot(m.steps / 1e3, floor.mean(0), "k:", linewidth=0.6)
        axis.set(xlabel="environment steps (thousands)", ylabel="bias, even states (dotted: floor)")

    def deviations(axis):
        for m in kinds["n-step"]:
            draw_band(axis, m.steps / 1e3, deviation(m, EVEN), m.objective.label)
        axis.set(xlabel="environment steps (thousands)", ylabel="standard deviation, even states")

    def by_steps(axis):
        for kind, line in (("n-step", "-"), ("mixed", "--")):
            if not kinds[kind]:
                continue
            n = [m.objective.inner_steps for m in kinds[kind]]
            spread = np.stack([deviation(m, EVEN).mean(1) for m in kinds[kind]], axis=1)
            away = np.stack([bias(m, oracle, EVEN)[0].mean(1) for m in kinds[kind]], axis=1)
            draw_band(axis, n, away, f"bias, {kind}", color="C0", linestyle=line, marker="o")
            draw_band(axis, n, spread, f"deviation, {kind}", color="C1", linestyle=line, marker="o")
        axis.set(yscale="log", xlabel="n", ylabel="mean over the trajectory")

    panels = [
        (f"bias against n = {oracle_steps}", biases),
        ("deviation of one estimate", deviations),
        ("both, over n", by_steps),
    ]
    return save_panels(output / "figure_5.png", panels)


def mrp_row(run: Run) -> dict[str, str]:
    """What a run on the Markov reward process came to."""
    last = {"error": run.columns["value_error"][:, -1]}
    last["even discounts"] = mean_discount(run, EVEN)[:, -1]
    last["odd discounts"] = mean_discount(run, ODD)[:, -1]
    shown = {name: _with_spread(values, 3) for name, values in last.items()}
    return {"objective": run.config.label, "steps": f"{run.steps[-1]:,}", **shown}


def estimator_rows(measured: Sequence[Measured], oracle_steps: int) -> list[dict[str, str]]:
    """Bias, its floor and the deviation of each kind, over even states and the trajectory; its
    signal over the noise of all."""
    oracle = find_oracle(measured, oracle_steps)
    rows = []
    for m in sorted(measured, key=lambda m: order(m.objective)):
        row = {"objective": m.objective.label, "bias": "", "floor": ""}
        if oracle is not None and m.objective.objective in ("n-step", "mixed"):
            found, floor = bias(m, oracle, EVEN)
            row |= {"bias": _significant(found.mean(1)), "floor": _significant(floor.mean(1))}
        row["deviation"] = _significant(deviation(m, EVEN).mean(1))
        row["signal to noise"] = _with_spread(signal_to_noise(m), 3)
        rows.append(row)
    return rows


def relative_deviation(measured: Measured, one_step: Measured) -> np.ndarray:
    """Deviation over the 1-step meta-gradient's, [S]: the mean over meta-parameters and points, but
    those where that one is 0."""
    return _mean_of_ratios(measured.deviation, one_step.deviation, (1, 2))


def signal_to_noise(measured: Measured) -> np.ndarray:
    """Norm of the expected meta-gradient over the root of its total variance: the mean over points,
    [S]. What the noise adds to the norm of a mean of finitely many is taken off."""
    total_variance = np.sum(measured.deviation**2, axis=-1)
    square = np.sum(measured.mean**2, axis=-1) - total_variance / measured.draws
    return _mean_of_ratios(np.sqrt(np.maximum(square, 0.0)), np.sqrt(total_variance), -1)


def _mean_of_ratios(above: np.ndarray, below: np.ndarray, axis) -> np.ndarray:
    """Where `below` is not 0."""
    counted = below > 0
    ratios = np.where(counted, above / np.where(counted, below, 1.0), 0.0)
    return ratios.sum(axis) / np.maximum(counted.sum(axis), 1)


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
        row["final return"] = _with_spread(final_return(run.steps, run.columns), 1) if run else ""
        m = spread.get(label)
        both = m is not None and one_step is not None
        row["deviation"] = _with_spread(relative_deviation(m, one_step), 2) if both else ""
        row["signal to noise"] = _with_spread(signal_to_noise(m), 3) if m is not None else ""
        rows.append(row)
    return rows


def _significant(values: np.ndarray) -> str:
    """Mean and spread of small numbers."""
    return f"{values.mean():.2g} ({values.std():.1g})"


def _with_spread(values: np.ndarray, digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ({values.std():.{digits}f})"
