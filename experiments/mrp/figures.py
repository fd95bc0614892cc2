"""Figures 4 and 5 of Bonnet et al., redrawn from runs on the Markov reward process."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from bmg.environments.markov_reward import NUM_STATES
from bmg.experiments.multistep.estimators import Measured, bias, deviation
from bmg.experiments.multistep.figures import draw_runs, order, signal_to_noise, with_spread
from bmg.experiments.plots import draw_band, save_panels
from bmg.experiments.records import Run

EVEN, ODD = slice(0, None, 2), slice(1, None, 2)  # states whose reward is not noise, and is


def draw_learning(runs: Sequence[Run], output: pathlib.Path) -> pathlib.Path:
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
    return np.mean([run.columns[f"discount_{i}"] for i in range(NUM_STATES)[states]], axis=0)


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


def run_row(run: Run) -> dict[str, str]:
    """What a run came to."""
    last = {"error": run.columns["value_error"][:, -1]}
    last["even discounts"] = mean_discount(run, EVEN)[:, -1]
    last["odd discounts"] = mean_discount(run, ODD)[:, -1]
    shown = {name: with_spread(values, 3) for name, values in last.items()}
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
        row["signal to noise"] = with_spread(signal_to_noise(m), 3)
        rows.append(row)
    return rows


def _significant(values: np.ndarray) -> str:
    """Mean and spread of small numbers."""
    return f"{values.mean():.2g} ({values.std():.1g})"
