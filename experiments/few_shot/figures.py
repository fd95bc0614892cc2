"""Figure 5 and tables 6 and 7 of the BMG paper, from runs of few-shot learning.

For every budget of meta-batches the paper chooses, of each method, the configuration that is best
on validation classes, and reports its accuracy on test classes.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from bmg.experiments.plots import draw_band, save_panels
from bmg.experiments.records import Run

NAMES = {"maml": "MAML", "bmg": "BMG"}
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


def select(runs: Sequence[Run], objective: str) -> list[dict]:
    """The best configuration of a method for each budget, by the mean of validation over seeds.

    Returns:
      For each budget that some run was evaluated at: steps, run, test accuracies [S].
    """
    of_method = [run for run in runs if run.config.objective == objective]
    found = [(run, *evaluations(run.steps, run.columns)) for run in of_method]
    chosen = []
    for budget in sorted({int(step) for _, at, _ in found for step in at}):
        candidates = []
        for run, at, values in found:
            (place,) = np.nonzero(at == budget)
            if len(place):
                best = {name: x[:, place[0]] for name, x in best_so_far(values).items()}
                candidates.append((best["validation_accuracy"].mean(), run, best["test_accuracy"]))
        _, run, accuracy = max(candidates, key=lambda candidate: candidate[0])
        chosen.append({"steps": budget, "run": run, "accuracy": accuracy})
    return chosen


def percent(values: np.ndarray) -> str:
    """Mean over seeds, and their standard deviation where there are several."""
    mean = f"{100 * values.mean():.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * values.std():.1f})"


def table_7(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The test accuracy of the best configuration for each budget of meta-batches."""
    rows: dict[int, dict[str, str]] = {}
    for objective, name in NAMES.items():
        for best in select(runs, objective):
            row = rows.setdefault(best["steps"], {"meta-batches": f"{best['steps']:,}"})
            row[f"{name}: best"] = best["run"].config.label
            row[f"{name}: accuracy, %"] = percent(best["accuracy"])
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    return [{key: rows[step].get(key, "") for key in keys} for step in sorted(rows)]


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


def hours_per_meta_batch(run: Run, root: pathlib.Path) -> float | None:
    """Of one lifetime, from the speed that the run's results tell; None where they do not."""
    try:
        result = json.loads((root / run.name / "results.json").read_text())
        return result["seeds"] / result["steps_per_second"] / 3600
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def draw_accuracy(runs: Sequence[Run], root: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    """Figure 5: test accuracy over meta-batches and hours, and the best of each K."""

    def lines(axis, x_of):
        for run in sorted(runs, key=_order):
            at, found = evaluations(run.steps, run.columns)
            x = x_of(run, at)
            if x is not None and len(at):
                accuracy = 100 * best_so_far(found)["test_accuracy"]
                line = "-" if run.config.objective == "bmg" else "--"
                draw_band(axis, x, accuracy, run.config.label, linestyle=line)
        axis.set_ylabel("test accuracy, %")

    def over_meta_batches(axis):
        lines(axis, lambda run, at: at / 1e3)
        axis.set_xlabel("meta-batches (thousands)")

    def over_time(axis):
        def hours(run, at):
            each = hours_per_meta_batch(run, root)
            return None if each is None else at * each

        lines(axis, hours)
        axis.set_xlabel("hours of a lifetime")

    def by_inner_steps(axis):
        for shift, (objective, name) in zip((-0.2, 0.2), NAMES.items()):
            ahead = sorted({r.config.inner_steps for r in runs if r.config.objective == objective})
            best = {
                k: select([r for r in runs if r.config.inner_steps == k], objective) for k in ahead
            }
            best = {k: found[-1]["accuracy"] for k, found in best.items() if found}
            if best:
                places = [every.index(k) + shift for k in best]
                means = [100 * x.mean() for x in best.values()]
                stds = [100 * x.std() for x in best.values()]
                axis.bar(places, means, 0.35, yerr=stds, label=name)
        axis.set_xticks(range(len(every)), [f"K = {k}" for k in every])

    every = sorted({run.config.inner_steps for run in runs})
    panels = [
        ("by meta-batches", over_meta_batches),
        ("by time", over_time),
        ("the best of each K, chosen by validation", by_inner_steps),
    ]
    return save_panels(output / "figure_5.png", panels)
