"""`bmg two-colors`, `bmg mrp`, `bmg snake`, `bmg package.module:NAME`: a run of an experiment, all
its methods one after the other, measurements, figures."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable

from bmg.experiments.declaration import Experiment, Shown
from bmg.launch import environment
from bmg.launch.lifetimes import make_lifetime, make_runner, measuring, parse, run, run_each
from bmg.launch.options import parse_options
from bmg.storage.modules import load_named
from bmg.storage.run_directory import load_config


def main(name: str, arguments: list[str]) -> int:
    """Runs the command of an experiment.

    Args:
      name: `package.module:NAME` of its declaration.
      arguments: what follows the command.

    Returns:
      The exit code: 0 complete, 130 stopped by Ctrl-C.

    Raises:
      ValueError: bad input, one line.
    """
    experiment = find(name)
    commands = {}
    if experiment.suite:
        commands["all"] = run_all, "run every method, one after the other"
    if experiment.variance:
        commands["variance"] = run_variance, "measure meta-gradients along one trajectory"
    if experiment.evaluate:
        commands["evaluate"] = evaluate, "try what the lifetimes of a run have learned"
    if experiment.figures:
        commands["figures"] = draw, "redraw the figures from such runs, and print their results"
    if arguments and arguments[0] in commands:
        command, _ = commands[arguments[0]]
        return command(experiment, arguments[1:])
    if arguments[:1] in (["-h"], ["--help"]):
        width = max(map(len, commands), default=0)
        for word, (_, meaning) in commands.items():
            print(f"bmg {experiment.command} {word:<{width}}   {meaning}")
        print()
    return run(experiment, parse(experiment, arguments))


def find(name: str) -> Experiment:
    """The declaration of that name, in an installed package or in the working directory.

    Raises:
      ValueError: there is none; one line.
    """
    found = load_named(name)
    if not isinstance(found, Experiment):
        raise ValueError(f"{name} is a {type(found).__name__}; give an Experiment.")
    return found


def run_all(experiment: Experiment, arguments: list[str]) -> int:
    """Runs what is missing of its methods."""
    options = _options(experiment, "all", experiment.suite, arguments)
    return run_each(experiment, experiment.functions.suite(options), pathlib.Path(options.root))


def run_variance(experiment: Experiment, arguments: list[str]) -> int:
    """Runs what measures meta-gradients on its way."""
    experiment = measuring(experiment)
    return run(experiment, parse(experiment, arguments))


def evaluate(experiment: Experiment, arguments: list[str]) -> int:
    """Tries what a run has learned up to its newest checkpoint.

    Raises:
      ValueError: no run, or no usable checkpoint; one line.
    """
    options = _options(experiment, "evaluate", experiment.evaluate, arguments)
    environment.clean()
    workdir = pathlib.Path(options.workdir)
    config = dataclasses.replace(load_config(workdir, experiment.config), workdir=options.workdir)

    lifetime = make_lifetime(experiment, config, most_devices=1)
    runner = make_runner(config, lifetime)
    for problem in runner.restore():
        print(problem)
    lifetimes = [runner.lifetime(index) for index in range(config.seeds)]
    _show(experiment.functions.evaluate(config, options, lifetimes, lifetime.data))
    return 0


def draw(experiment: Experiment, arguments: list[str]) -> int:
    """Draws the figures that there are runs for.

    Raises:
      ValueError: no runs, or no place for the pictures; one line.
    """
    from bmg.experiments.records import load_runs
    from bmg.launch.pictures import no_picture

    options = _options(experiment, "figures", experiment.figures, arguments)
    runs = []
    if options.of_runs:
        runs, problems = load_runs(experiment.config, pathlib.Path(options.root))
        for problem in problems:
            print(f"{problem}; left out")
    try:
        _show(experiment.functions.draw(runs, options))
    except OSError as error:
        raise no_picture(options.folder, error) from None
    return 0


def _show(results: Iterable[Shown]) -> None:
    from bmg.launch.tables import print_table

    for shown in results:
        if isinstance(shown, list):
            print_table(shown)
        else:
            print(shown, flush=True)


def _options(experiment: Experiment, command: str, default, arguments: list[str]):
    """Options of a command, `default` with what was typed."""
    return parse_options(type(default), f"bmg {experiment.command} {command}", arguments, default)
