"""`bmg snake`: A2C on Snake, its hyper-parameters meta-learned by looking several updates ahead."""

from __future__ import annotations

import dataclasses
import pathlib

from bmg.experiments.multistep.config import SnakeConfig, SnakeVarianceConfig
from bmg.launch import multistep
from bmg.launch.lifetimes import Experiment
from bmg.storage.fields import Count, Lifetimes, check_fields

_USAGE = """
bmg snake all        run every objective
bmg snake variance   measure the variance of their meta-gradients along one trajectory
bmg snake figures    redraw the paper's figure 3 and table 1 from such runs
"""


@dataclasses.dataclass(frozen=True)
class AllConfig(multistep.AllConfig):
    """Run every objective, one after the other; go on where it was stopped (figure 3)."""

    seeds: Lifetimes = 1
    """Lifetimes of each; the paper has 3."""
    steps: Count = SnakeConfig.steps
    """Environment steps of each lifetime."""
    root: str = "runs/snake"
    """Folder of the run directories."""


@dataclasses.dataclass(frozen=True)
class FiguresConfig:
    """Redraw figure 3 and table 1 of Bonnet et al. from runs."""

    root: str = "runs/snake"
    """Folder of the run directories, as `bmg snake all` leaves it."""
    variance: str = SnakeVarianceConfig.workdir
    """Run directory of `bmg snake variance`; the table lacks deviations where it holds nothing."""
    output: str = "docs/multistep"
    """Folder for the pictures."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg snake`; see `multistep.main`."""
    return multistep.main(EXPERIMENT, VARIANCE, AllConfig, FiguresConfig, draw, _USAGE, arguments)


def _make_lifetime(config: SnakeConfig):
    from bmg.experiments.multistep.snake import make_lifetime

    return make_lifetime(config)


def _make_estimate(config: SnakeConfig):
    from bmg.experiments.multistep.snake import make_estimate

    return make_estimate(config)


def _summarise(config: SnakeConfig, steps, columns) -> dict:
    """The final return, and the last row's hyper-parameters, means over seeds."""
    from bmg.experiments.multistep.figures import HYPERPARAMETERS, final_return

    returns = final_return(steps, columns)
    return {
        "objective": config.objective,
        "inner_steps": config.inner_steps,
        "final_return_mean": float(returns.mean()),
        "final_return_std": float(returns.std()),
        **{name: float(columns[name][:, -1].mean()) for name in HYPERPARAMETERS},
    }


EXPERIMENT = Experiment("snake", SnakeConfig, _make_lifetime, _summarise, steps_fixed=True)
VARIANCE = multistep.variance_experiment(
    EXPERIMENT, SnakeVarianceConfig, _make_estimate, convolves=True
)


def draw(options: FiguresConfig) -> int:
    """Prints table 1 and draws figure 3."""
    from bmg.experiments.multistep import figures
    from bmg.launch.tables import print_table

    runs = multistep.found_runs(EXPERIMENT, pathlib.Path(options.root))
    measured = multistep.found_estimates(options.variance, SnakeVarianceConfig)
    print_table(figures.table_1(runs, measured))
    print(figures.draw_snake(runs, pathlib.Path(options.output)))
    return 0
