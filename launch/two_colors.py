"""`bmg two-colors`: one method for a range of seeds; the whole experiment; its figures."""

from __future__ import annotations

import dataclasses
import fnmatch
import pathlib

from bmg.experiments.two_colors.config import TwoColorsConfig
from bmg.launch import lifetimes
from bmg.launch.lifetimes import Experiment, load_runs, run_each
from bmg.launch.options import parse_options
from bmg.storage.fields import Count, Lifetimes, Weight, check_fields

_USAGE = """
bmg two-colors all       run every method of the paper's figures
bmg two-colors figures   redraw the paper's figures from such runs
"""


@dataclasses.dataclass(frozen=True)
class AllConfig:
    """Run every method of the paper's figures, one after the other; go on where it was stopped."""

    seeds: Lifetimes = 8
    """Lifetimes of each method."""
    steps: Count = 1_000_000
    """Environment steps of each lifetime of the actor-critic; the paper has 10 million."""
    q_lambda_steps: Count = 500_000
    """The same for Q(lambda), which learns at every step and is slower."""
    meta_learning_rates: tuple[Weight, ...] = (1e-4,)
    """Every meta-learned method runs once with each; the figures show the best. The paper's
    candidates are 3e-6, 1e-5, 3e-5, 1e-4 and 3e-4."""
    root: str = "runs/two_colors"
    """Folder of the run directories."""
    only: tuple[str, ...] = ("*",)
    """Only the methods of these names, or of patterns such as 'mg-*'."""

    def __post_init__(self):
        check_fields(self)
        if not self.only or not self.meta_learning_rates:
            raise ValueError("nothing to run; give --only and --meta-learning-rates some, or not.")


@dataclasses.dataclass(frozen=True)
class FiguresConfig:
    """Redraw BMG's figures 2, 3 and 7 to 11 from the runs in a folder, and print their scores."""

    root: str = "runs/two_colors"
    """Folder of the run directories, as `bmg two-colors all` leaves it."""
    output: str = "docs/two_colors"
    """Folder for the pictures."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg two-colors`; see `lifetimes.main`."""
    commands = {
        "all": lambda rest: run_all(parse_options(AllConfig, "bmg two-colors all", rest)),
        "figures": lambda rest: draw(parse_options(FiguresConfig, "bmg two-colors figures", rest)),
    }
    return lifetimes.main(EXPERIMENT, commands, _USAGE, arguments)


def _make_lifetime(config: TwoColorsConfig):
    from bmg.experiments.two_colors.methods import make_lifetime

    return make_lifetime(config)


def _summarise(config: TwoColorsConfig, steps, columns) -> dict:
    return {
        "agent": config.agent, "method": config.method, **score(steps, columns["reward"])
    }  # fmt: skip


EXPERIMENT = Experiment("two-colors", TwoColorsConfig, _make_lifetime, _summarise)


def score(steps, reward) -> dict[str, float]:
    """Total reward of a lifetime, mean and standard deviation over seeds, and per step.

    Args:
      steps: [n], the end of each stretch.
      reward: [S, n], mean reward per step of each stretch.
    """
    import numpy as np

    total = np.sum(reward * np.diff(steps, prepend=0), axis=1)
    return {
        "total_reward_mean": float(np.mean(total)),
        "total_reward_std": float(np.std(total)),
        "reward_per_step": float(np.mean(total) / steps[-1]),
    }


def run_all(options: AllConfig) -> int:
    """Runs what is missing of the paper's methods."""
    from bmg.experiments.two_colors.methods import suite

    root = pathlib.Path(options.root)
    methods, every = {}, suite()
    for pattern in options.only:
        matching = {name: every[name] for name in every if fnmatch.fnmatchcase(name, pattern)}
        if not matching:
            raise ValueError(f"no method is called {pattern!r}; there are {', '.join(every)}.")
        methods |= matching
    configs = {}
    for name, config in methods.items():
        steps = options.steps if config.agent == "actor-critic" else options.q_lambda_steps
        rates = {f"-rate{rate:.12g}": rate for rate in options.meta_learning_rates}
        if config.method == "fixed":
            rates = {"": config.meta_learning_rate}
        for suffix, rate in rates.items():
            configs[name + suffix] = dataclasses.replace(
                config, seeds=options.seeds, steps=steps, meta_learning_rate=rate
            )
    return run_each(EXPERIMENT, configs, root)


def draw(options: FiguresConfig) -> int:
    """Draws the figures that the runs in a folder suffice for."""
    from bmg.experiments.two_colors.figures import Run, draw_all

    runs = [Run(*found) for found in load_runs(EXPERIMENT, pathlib.Path(options.root))]
    output = pathlib.Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    for run_ in runs:
        result = score(run_.steps, run_.columns["reward"])
        print(
            f"{run_.name:<28} {run_.config.seeds:>3} seeds x {run_.steps[-1]:>10,} steps  "
            f"reward per step {result['reward_per_step']:.4f}  total "
            f"{result['total_reward_mean']:>10,.0f} +- {result['total_reward_std']:,.0f}"
        )
    for picture in draw_all(runs, output):
        print(picture)
    return 0
