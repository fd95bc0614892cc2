"""`bmg demo`: what a bootstrapped meta-gradient does, live and in minutes."""

from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import time
from collections.abc import Callable

import numpy as np

from bmg.experiments.records import write_csv
from bmg.experiments.two_colors import EXPERIMENT
from bmg.experiments.two_colors import demonstration as shown
from bmg.experiments.two_colors.config import TwoColorsConfig
from bmg.experiments.two_colors.figures import Run
from bmg.launch import environment, signals
from bmg.launch.console import LiveText, duration, sparkline
from bmg.launch.lifetimes import make_lifetime
from bmg.launch.options import parse_options
from bmg.launch.pictures import no_picture, picture_path
from bmg.storage.fields import Count, Lifetimes, check_fields

_LEAVE_SECONDS = 12.0  # after Ctrl-C, within which it ends by itself or is ended
_CURVE = 56  # characters of a curve at most: with what stands before it, a line has 80


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Two colours with a fixed entropy weight, and beside it with one that BMG learns. Shows both
    live, and leaves a picture and the table that it was drawn from."""

    steps: Count = shown.STEPS
    """Environment steps of each lifetime; the world changes every 100,000."""
    seeds: Lifetimes = shown.SEEDS
    """Lifetimes of each of the two agents, side by side."""
    output: str = "runs/demo/demo.png"
    """Picture to write, of the kind that the name ends in; a folder gets demo.png. The table is
    beside it, with the ending .csv."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg demo`.

    Returns:
      The exit code: 0 complete, 130 stopped by Ctrl-C.

    Raises:
      ValueError: bad input, or no place for the picture; one line.
    """
    options = parse_options(DemoConfig, "bmg demo", arguments)
    picture = picture_path(options.output, "demo.png")
    try:
        _check_writable(picture.parent)
    except OSError as error:
        raise no_picture(picture, error) from None
    environment.clean()
    return _show(options, picture)


def _show(options: DemoConfig, picture: pathlib.Path) -> int:
    """Runs both agents to their end or to Ctrl-C, and shows what they came to.

    Returns:
      The exit code.

    Raises:
      ValueError: the picture cannot be written; one line.
    """
    configs = shown.agents(options.seeds, options.steps)
    text = LiveText()

    def at_once() -> None:  # in the midst of a compilation
        text.restore()
        os.write(2, b"bmg: ends at once\n")

    with signals.orderly(_LEAVE_SECONDS, at_once) as asked:
        try:
            _introduce(text, configs)
            runs = _run(configs, text, asked.is_set)
        finally:
            text.close()
        steps = _steps(runs)
        stopped = asked.is_set() and steps < options.steps
        if stopped:
            text.print(f"stopped after {steps:,} of {options.steps:,} steps")
        if steps:
            _conclude(text, runs, options.steps, picture)
    return signals.EXIT_CODE if stopped else 0


def _check_writable(folder: pathlib.Path) -> None:
    """Makes a folder now, rather than finding out after minutes that it cannot be written.

    Raises:
      OSError: it cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _introduce(text: LiveText, configs: dict[str, TwoColorsConfig]) -> None:
    """What is about to be seen."""
    own = configs["bmg"]
    if found := environment.report():
        text.print(found)
    text.print(
        "Two colours: one square pays +1, another one -1. Every "
        f"{own.flip_every:,} steps the world\n"
        "changes: the two swap, and the agent must explore again. An entropy weight makes\n"
        f"it explore. fixed: the weight is {shown.FIXED_WEIGHT:g}. BMG: it is learned, from "
        f"{shown.INITIAL_WEIGHT:g} on.\n"
        f"Lifetimes of each, side by side: {own.seeds}. Rewards are means per step so far."
    )


def _run(
    configs: dict[str, TwoColorsConfig], text: LiveText, should_stop: Callable[[], bool]
) -> dict[str, Run]:
    """Runs the agents side by side, a chunk of one after a chunk of the other.

    Args:
      configs: of the agents, by name.
      text: shows how far they are.
      should_stop: asked after every chunk; True ends it sooner.

    Returns:
      What there is of each, over the same steps.
    """
    from bmg.experiments.runner import Runner

    text.show("starting: two compilations", "starting: two compilations")
    runners = {
        name: Runner(
            make_lifetime(EXPERIMENT, config), config.seeds, config.first_seed, config.record_every
        )
        for name, config in configs.items()
    }
    for runner in runners.values():
        runner.compile()
    # Whole rows, so that both are seen over the same steps.
    own = configs["bmg"]
    steps = -(-own.steps // own.record_every) * own.record_every
    started = time.monotonic()
    while not should_stop():
        slowest = min(runners.values(), key=lambda runner: runner.records.steps)
        if slowest.records.steps >= steps:
            break
        slowest.advance()
        runs = _so_far(runners, configs, steps)
        done = sum(min(runner.records.steps, steps) for runner in runners.values())
        left = (len(runners) * steps / done - 1) * (time.monotonic() - started)
        if _steps(runs):
            ahead = (
                f"{min(_steps(runs), own.steps):,} of {own.steps:,} steps, {duration(left)} left"
            )
            lines = [ahead, *live_lines(runs, steps, text.ascii_only)]
            text.show("\n".join(lines), plain_line(runs, steps, left))
    return _so_far(runners, configs, steps)


def _steps(runs: dict[str, Run]) -> int:
    """That both have."""
    return int(max(runs["bmg"].steps, default=0))


def _so_far(runners: dict, configs: dict[str, TwoColorsConfig], most: int) -> dict[str, Run]:
    """What is recorded of each, over the steps that both have, and `most` at most."""
    steps = min(most, *(runner.records.steps for runner in runners.values()))
    tables = {name: runner.records.means(steps) for name, runner in runners.items()}
    # The last row may be complete for one alone.
    ends = [ends for ends, _ in tables.values()]
    rows = sum(len(set(row)) == 1 for row in zip(*ends))
    return {
        name: Run(name, configs[name], ends[:rows], {c: x[:, :rows] for c, x in columns.items()})
        for name, (ends, columns) in tables.items()
    }


def plain_line(runs: dict[str, Run], total: int, left: float) -> str:
    """One line of what is seen, where there is no terminal."""
    rewards = {name: np.mean(run.reward_per_step) for name, run in runs.items()}
    weight = np.mean(runs["bmg"].columns["entropy_weight"][:, -1])
    return (
        f"{100 * _steps(runs) / total:.0f} % of {total:,}, {duration(left)} left: "
        f"reward BMG {rewards['bmg']:.3f}, fixed {rewards['fixed']:.3f}; weight {weight:.2f}"
    )


def live_lines(runs: dict[str, Run], total: int, ascii_only: bool = False) -> list[str]:
    """Curves over all the steps, as far as they are, in lines of 80 characters at most.

    Args:
      runs: of both agents.
      total: steps there will be.
      ascii_only: no other characters.
    """
    stretch, per_cycle = _characters(total, runs["bmg"].config)

    def curve(run: Run, column: str) -> np.ndarray:
        return shown.coarser(run, column, stretch)[1].mean(0)

    weight = curve(runs["bmg"], "entropy_weight")
    rewards = {name: curve(run, "reward") for name, run in runs.items()}
    lowest, highest = np.min([*rewards.values()]), np.max([*rewards.values()])
    now = np.mean(runs["bmg"].columns["entropy_weight"][:, -1])
    rows = [("BMG's weight", f"{now:.2f}", sparkline(weight, 0.0, max(weight), ascii_only))]
    for name, label in (("bmg", "BMG's reward"), ("fixed", "fixed reward")):
        so_far = f"{np.mean(runs[name].reward_per_step):.3f}"
        rows.append((label, so_far, sparkline(rewards[name], lowest, highest, ascii_only)))
    changes = (_steps(runs) - 1) // runs["bmg"].config.flip_every
    marks = "".join("^" if per_cycle and at % per_cycle == 0 else " " for at in range(len(weight)))
    rows.append(("world changes", str(changes), f" {marks[1:]}"))
    return [f"{label:<14}{value:>7}  {drawn}".rstrip() for label, value, drawn in rows]


def _characters(total: int, config: TwoColorsConfig) -> tuple[int, int]:
    """Steps of a character of a curve, a row at least, and how many characters a cycle has; 0 where
    one has several cycles."""
    cycle = config.flip_every
    per_cycle = min(_CURVE * cycle // total, cycle // config.record_every)
    if per_cycle:
        return -(-cycle // per_cycle), per_cycle
    return -(-total // (_CURVE * cycle)) * cycle, 0


def _conclude(text: LiveText, runs: dict[str, Run], total: int, picture: pathlib.Path) -> None:
    """What both came to, on the screen and in files.

    Raises:
      ValueError: they cannot be written; one line.
    """
    text.print("\n".join([*live_lines(runs, total, text.ascii_only), ""]))
    text.print("\n".join(shown.describe(**runs)))
    own = runs["bmg"]
    table = picture.with_suffix(".csv")
    columns = {f"{name}_{c}": x for name, run in runs.items() for c, x in run.columns.items()}
    try:
        write_csv(table, own.config.first_seed, own.steps, columns)
        shown.draw(**runs, path=picture)
    except OSError as error:
        raise no_picture(picture, error) from None
    text.print(f"{picture}, {table}")
