"""`bmg mrp`: value prediction on the Markov reward process, its discounts meta-learned."""

from __future__ import annotations

import dataclasses
import pathlib

from bmg.experiments.multistep.config import MrpConfig, MrpVarianceConfig
from bmg.launch import multistep
from bmg.launch.lifetimes import Experiment
from bmg.storage.fields import Count, Lifetimes, check_fields

_USAGE = """
bmg mrp all        run every objective
bmg mrp variance   measure bias and variance of their meta-gradients along one trajectory
bmg mrp figures    redraw the paper's figures 4 and 5 from such runs
"""


@dataclasses.dataclass(frozen=True)
class AllConfig(multistep.AllConfig):
    """Run every objective, one after the other; go on where it was stopped (figure 4)."""

    seeds: Lifetimes = 5
    """Lifetimes of each. Figure 4."""
    steps: Count = MrpConfig.steps
    """Environment steps of each lifetime, 320 an update."""
    root: str = "runs/mrp"
    """Folder of the run directories."""


@dataclasses.dataclass(frozen=True)
class FiguresConfig:
    """Redraw figures 4 and 5 of Bonnet et al. from runs."""

    root: str = "runs/mrp"
    """Folder of the run directories, as `bmg mrp all` leaves it."""
    variance: str = MrpVarianceConfig.workdir
    """Run directory of `bmg mrp variance`; figure 5 is left out where it holds nothing."""
    output: str = "docs/multistep"
    """Folder for the pictures."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg mrp`; see `multistep.main`."""
    return multistep.main(EXPERIMENT, VARIANCE, AllConfig, FiguresConfig, draw, _USAGE, arguments)


def _make_lifetime(config: MrpConfig):
    from bmg.experiments.multistep.mrp import make_lifetime

    return make_lifetime(config)


def _make_estimate(config: MrpConfig):
    from bmg.experiments.multistep.mrp import make_estimate

    return make_estimate(config)


def _summarise(config: MrpConfig, steps, columns) -> dict:
    """The last row's values, means over seeds."""
    last = {name: float(values[:, -1].mean()) for name, values in columns.items()}
    discounts = [last.pop(f"discount_{i}") for i in range(10)]
    return {
        "objective": config.objective,
        "inner_steps": config.inner_steps,
        **last,
        "discounts": discounts,
    }


EXPERIMENT = Experiment("mrp", MrpConfig, _make_lifetime, _summarise)
VARIANCE = multistep.variance_experiment(
    EXPERIMENT, MrpVarianceConfig, _make_estimate, convolves=False
)


def draw(options: FiguresConfig) -> int:
    """Prints what the runs came to, and draws the figures that they suffice for."""
    from bmg.experiments.multistep import figures
    from bmg.launch.tables import print_table
    from bmg.storage.run_directory import load_config

    runs = multistep.found_runs(EXPERIMENT, pathlib.Path(options.root))
    output = pathlib.Path(options.output)
    print_table([figures.mrp_row(run) for run in sorted(runs, key=figures.by_objective)])
    print(figures.draw_mrp(runs, output))
    measured = multistep.found_estimates(options.variance, MrpVarianceConfig)
    if measured:
        oracle = load_config(pathlib.Path(options.variance), MrpVarianceConfig).oracle
        print_table(figures.estimator_rows(measured, oracle))
        if oracle:
            print(figures.draw_bias_and_variance(measured, oracle, output))
    return 0
