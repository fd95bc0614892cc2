"""What `bmg mrp` and `bmg snake` share: every objective one after the other, and measuring them."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

from bmg.experiments.multistep.config import (
    ObjectiveConfig,
    SuiteConfig,
    milestones,
    objectives_of,
)
from bmg.launch import lifetimes
from bmg.launch.lifetimes import Experiment, load_runs, parse, run, run_each
from bmg.launch.options import parse_options
from bmg.storage.fields import Seed, check_fields


@dataclasses.dataclass(frozen=True)
class AllConfig(SuiteConfig):
    """Run every objective, one after the other; go on where it was stopped."""

    fixed: bool = True
    """The agent whose hyper-parameters stay as they are as well."""
    first_seed: Seed = 0
    """The first one's seed; the others follow."""

    def __post_init__(self):
        check_fields(self)
        if not (objectives_of(self) or self.fixed):
            raise ValueError(
                "nothing to run; give some of --fixed, --n-step, --mixed, --bmg, --mixed-bmg."
            )


def main(
    experiment: Experiment,
    variance: Experiment,
    all_config: type,
    figures_config: type,
    draw: Callable[[Any], int],
    usage: str,
    arguments: list[str],
) -> int:
    """`bmg mrp` and `bmg snake`; see `lifetimes.main`.

    Args:
      experiment: what the command itself runs.
      variance: see `variance_experiment`.
      all_config: options of `all`, see `run_all`.
      figures_config: options of `figures`.
      draw: (those options) -> exit code.
      usage: what `--help` says of these commands.
      arguments: what follows the command.
    """
    command = f"bmg {experiment.command}"
    commands = {
        "all": lambda rest: run_all(experiment, parse_options(all_config, f"{command} all", rest)),
        "variance": lambda rest: run(variance, parse(variance, rest)),
        "figures": lambda rest: draw(parse_options(figures_config, f"{command} figures", rest)),
    }
    return lifetimes.main(experiment, commands, usage, arguments)


def run_all(experiment: Experiment, options: AllConfig) -> int:
    """Runs what is missing; the exit code.

    Args:
      experiment: whose objectives.
      options: which; also with seeds and steps of each run and the folder `root`.
    """
    objectives = objectives_of(options)
    if options.fixed:
        objectives = [ObjectiveConfig("fixed", 1), *objectives]
    configs = {
        f"{o.objective}-{o.inner_steps}" if o.objective != "fixed" else "fixed": experiment.config(
            objective=o.objective,
            inner_steps=o.inner_steps,
            seeds=options.seeds,
            first_seed=options.first_seed,
            steps=options.steps,
        )
        for o in objectives
    }
    return run_each(experiment, configs, pathlib.Path(options.root))


def variance_experiment(
    experiment: Experiment, config: type, make_estimate: Callable, convolves: bool
) -> Experiment:
    """The run that measures meta-gradients on its way.

    Args:
      experiment: whose trajectory it is.
      config: of the run, with fields of `EstimatorsConfig` and of the experiment's.
      make_estimate: (see `experiments.multistep.estimators.make_estimators`).
      convolves: likewise.
    """

    @functools.cache
    def estimators(config):
        from bmg.experiments.multistep.estimators import make_estimators

        return make_estimators(config, make_estimate, convolves)

    def measure(config, runner) -> None:
        from bmg.experiments.multistep.estimators import ESTIMATES, measure

        measure(estimators(config), config, runner, config.path / ESTIMATES)

    return experiment._replace(
        command=f"{experiment.command} variance",
        config=config,
        steps_fixed=True,
        measure=measure,
        milestones=lambda config: milestones(config, config.steps),
    )


def found_runs(experiment: Experiment, root: pathlib.Path) -> list:
    """Of the experiment's folder.

    Raises:
      ValueError: there are none; one line.
    """
    from bmg.experiments.multistep.figures import Run

    return [Run(*found) for found in load_runs(experiment, root)]


def found_estimates(directory: str, config: type) -> list:
    """Of a run of `variance`, whose configuration is of that class; none where no directory is
    named or it holds none."""
    from bmg.experiments.multistep.estimators import ESTIMATES, gather, read
    from bmg.storage.run_directory import load_config

    workdir = pathlib.Path(directory)
    if not directory or not (workdir / ESTIMATES).exists():
        return []
    return gather(read(workdir / ESTIMATES), load_config(workdir, config))
