"""Figure 5 and tables 6, 7 and 8 of the BMG paper, from runs of few-shot learning.

For every budget of meta-batches the paper chooses, of each method, the configuration that is best
on validation classes, and reports its accuracy on test classes.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bmg.experiments.plots import draw_band, save_panels
from bmg.experiments.records import Run
from bmg.storage.files import found_json

NAMES = {"maml": "MAML", "bmg": "BMG"}
COLORS = {"maml": "tab:orange", "bmg": "tab:blue"}
# As many runs of a method are told apart.
SHADES = {
    "maml": ("tab:orange", "tab:red", "tab:brown", "gold", "tab:pink"),
    "bmg": ("tab:blue", "tab:cyan", "navy", "tab:green", "tab:purple"),
}
_BUDGETS = 10
_EVALUATED = ("validation_accuracy", "test_accuracy", "test_half_width")


def evaluations(
    steps: np.ndarray, columns: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What was found in the stretches that hold an evaluation.

    Args:
      steps: [n], meta-batches at the end of each stretch.
      columns: [S, n], means over each stretch, in which most meta-batches count as zero.

    Returns:
      Those stretches' ends [m], and accuracies [S, m] by column.
    """
    count = columns["evaluations"]
    held = np.flatnonzero(count[0] > 0)
    return steps[held], {name: columns[name][:, held] / count[:, held] for name in _EVALUATED}


def best_so_far(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of each lifetime, what belongs to the best validation accuracy up to each evaluation: the
    initialisation that is kept. [S, m] each."""
    validation = found["validation_accuracy"]
    index = np.zeros(validation.shape, int)
    for i in range(1, validation.shape[1]):
        before = np.take_along_axis(validation, index[:, i - 1 : i], 1)[:, 0]
        index[:, i] = np.where(validation[:, i] > before, i, index[:, i - 1])
    return {name: np.take_along_axis(x, index, 1) for name, x in found.items()}


def task_of(run: Run) -> str:
    """What a run learns; others cannot be compared with it."""
    config = run.config
    return f"{config.ways} ways, {config.shots} shots of {config.data.source}"


class Choice(NamedTuple):
    """The best configuration of a method for a budget."""

    budget: float
    run: Run
    accuracy: np.ndarray  # [S], of test classes


# A run, and numbers of meta-batches [m] -> what they cost [m]; None where that is not known.
CostOf = Callable[[Run, np.ndarray], np.ndarray | None]


def meta_batches(run: Run, at: np.ndarray) -> np.ndarray:
    """A budget in meta-batches."""
    del run
    return at


def select(
    runs: Sequence[Run], objective: str, budgets: Sequence[float], cost_of: CostOf = meta_batches
) -> list[Choice]:
    """For each budget, the configuration that the mean of validation over seeds tells to be best.

    Args:
      runs: of all methods.
      objective: the method.
      budgets: what a run may cost; a run counts with its last evaluation within it.
      cost_of: of a run up to an evaluation.

    Returns:
      Of the budgets in which some run was evaluated.
    """
    found = []
    for run in runs:
        if run.config.objective == objective:
            at, values = evaluations(run.steps, run.columns)
            cost = cost_of(run, at)
            if cost is not None and len(at):
                found.append((run, cost, best_so_far(values)))
    chosen = []
    for budget in budgets:
        candidates = []
        for run, cost, best in found:
            within = np.flatnonzero(cost <= budget)
            if len(within):
                validation, test = (
                    best[name][:, within[-1]] for name in ("validation_accuracy", "test_accuracy")
                )
                candidates.append((validation.mean(), Choice(budget, run, test)))
        if candidates:
            chosen.append(max(candidates, key=lambda candidate: candidate[0])[1])
    return chosen


def budgets_of(runs: Sequence[Run], cost_of: CostOf = meta_batches) -> list[float]:
    """Ten budgets up to the dearest evaluation, or all where there are fewer."""
    costs = [cost_of(run, evaluations(run.steps, run.columns)[0]) for run in runs]
    every = sorted({float(x) for cost in costs if cost is not None for x in cost})
    if len(every) <= _BUDGETS:
        return every
    if cost_of is meta_batches:
        places = np.linspace(0, len(every) - 1, _BUDGETS).round().astype(int)
        return [every[i] for i in places]
    return list(np.linspace(0, every[-1], _BUDGETS + 1)[1:])


def percent(values: np.ndarray) -> str:
    """Mean over seeds, and their standard deviation where there are several."""
    mean = f"{100 * values.mean():.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * values.std():.1f})"


def table_of_best(
    runs: Sequence[Run], unit: str, shown: Callable[[float], str], cost_of: CostOf
) -> list[dict[str, str]]:
    """The test accuracy of each method's best configuration for each budget."""
    budgets = budgets_of(runs, cost_of)
    rows = {budget: {unit: shown(budget)} for budget in budgets}
    for objective, name in NAMES.items():
        for best in select(runs, objective, budgets, cost_of):
            rows[best.budget][f"{name}: best"] = best.run.config.label
            rows[best.budget][f"{name}: accuracy, %"] = percent(best.accuracy)
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    return [{key: row.get(key, "") for key in keys} for row in rows.values()]


def table_7(runs: Sequence[Run]) -> list[dict[str, str]]:
    """By meta-batches."""
    return table_of_best(runs, "meta-batches", lambda count: f"{count:,.0f}", meta_batches)


def table_8(runs: Sequence[Run], minutes: CostOf) -> list[dict[str, str]]:
    """By the minutes that a lifetime takes."""
    return table_of_best(runs, "minutes", lambda count: f"{count:.1f}", minutes)


def table_6(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Cosine, variance and norm over variance of each run's meta-gradients, in its last half."""
    rows = []
    for run in sorted(runs, key=_order):
        last = run.steps > run.steps[-1] / 2
        means = {
            name: run.columns[name][:, last].mean(1)
            for name in ("cosine", "variance", "norm_over_variance", "meta_gradient_norm")
        }
        rows.append(
            {"run": run.config.label, **{name: f"{x.mean():.3g}" for name, x in means.items()}}
        )
    return rows


def _order(run: Run):
    return run.config.objective != "maml", run.config.inner_steps, run.config.target_steps


def minutes_by_runs(root: pathlib.Path) -> CostOf:
    """Of one lifetime, from the speed that each run's results tell."""

    def cost(run: Run, at: np.ndarray) -> np.ndarray | None:
        result = found_json(root / run.name / "results.json")
        try:
            return at * (result["seeds"] / result["steps_per_second"] / 60)
        except (KeyError, TypeError, ZeroDivisionError):
            return None

    return cost


def minutes_by_table(path: pathlib.Path) -> CostOf:
    """From a table of `bmg benchmark few-shot`, which measures all methods in turns.

    Raises:
      ValueError: not such a table; one line.
    """
    try:
        rows = json.loads(path.read_text())
        speeds = {row["method"]: float(row["meta_steps_per_second"]) for row in rows}
        if not all(0 < speed < math.inf for speed in speeds.values()):
            raise ValueError("a speed is not above 0")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"{path} is no table of bmg benchmark few-shot --json FILE: {why}."
        ) from None

    def cost(run: Run, at: np.ndarray) -> np.ndarray | None:
        speed = speeds.get(run.config.method)
        return at / speed / 60 if speed else None

    return cost


def draw_figure_5(runs: Sequence[Run], minutes: CostOf, output: pathlib.Path) -> pathlib.Path:
    """Figure 5: the best configuration of each method by meta-batches, by time, and for each K."""

    def chosen(axis, cost_of, scale):
        budgets = budgets_of(runs, cost_of)
        for objective, name in NAMES.items():
            found = select(runs, objective, budgets, cost_of)
            if found:
                values = 100 * np.stack([best.accuracy for best in found], axis=1)
                x = np.array([best.budget for best in found]) / scale
                draw_band(axis, x, values, name, color=COLORS[objective], marker="o", markersize=3)
        axis.set_ylabel("test accuracy, %")

    def by_meta_batches(axis):
        chosen(axis, meta_batches, 1e3)
        axis.set_xlabel("meta-batches (thousands)")

    def by_time(axis):
        chosen(axis, minutes, 1.0)
        axis.set_xlabel("minutes of a lifetime")

    def by_inner_steps(axis):
        every = sorted({run.config.inner_steps for run in runs})
        for shift, (objective, name) in zip((-0.2, 0.2), NAMES.items()):
            best = {}
            for k in every:
                of_k = [run for run in runs if run.config.inner_steps == k]
                if found := select(of_k, objective, budgets_of(of_k)[-1:]):
                    best[k] = 100 * found[0].accuracy
            axis.bar(
                [every.index(k) + shift for k in best], [x.mean() for x in best.values()], 0.35,
                yerr=[x.std() for x in best.values()], label=name, color=COLORS[objective],
            )  # fmt: skip
        axis.set_xticks(range(len(every)), [f"K = {k}" for k in every])
        heights = [bar.get_height() for bar in axis.patches]
        if heights:  # accuracies differ by little
            low = min(heights)
            axis.set_ylim(max(low - max(3 * (max(heights) - low), 2.0), 0.0), None)
        axis.set_ylabel("test accuracy, %")

    panels = [
        ("the best by meta-batches", by_meta_batches),
        ("the best by time", by_time),
        ("the best of each K", by_inner_steps),
    ]
    return save_panels(output / "figure_5.png", panels)


def draw_runs(runs: Sequence[Run], output: pathlib.Path) -> pathlib.Path:
    """The accuracy of each run's initialisation, in a panel for each K."""

    def draw(k):
        def panel(axis):
            same = dict.fromkeys(SHADES, 0)
            for run in sorted(runs, key=_order):
                at, found = evaluations(run.steps, run.columns)
                if run.config.inner_steps == k and len(at):
                    # Full lines for BMG, broken ones for MAML, each in shades of its colour.
                    shades = SHADES[run.config.objective]
                    color = shades[same[run.config.objective] % len(shades)]
                    same[run.config.objective] += 1
                    line = "-" if run.config.objective == "bmg" else "--"
                    accuracy = 100 * found["test_accuracy"]
                    draw_band(
                        axis, at / 1e3, accuracy, run.config.label, linestyle=line, color=color
                    )
            axis.set_xlabel("meta-batches (thousands)")
            axis.set_ylabel("test accuracy, %")

        return panel

    every = sorted({run.config.inner_steps for run in runs})
    return save_panels(output / "runs.png", [(f"K = {k}", draw(k)) for k in every])
