"""`bmg plot`: metrics of one or more runs as a picture and a table."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from bmg.launch.options import parse_options, with_first
from bmg.launch.pictures import no_picture, picture_path
from bmg.launch.runs import find
from bmg.launch.tables import print_table
from bmg.storage.fields import Share, check_fields, check_lists
from bmg.storage.rows import METRICS
from bmg.storage.run_directory import config_file

if TYPE_CHECKING:
    from bmg.experiments.curves import Line, Run


@dataclasses.dataclass(frozen=True)
class PlotConfig:
    """Draw metrics of runs, with one line for all seeds of a run, and print for each its last value
    and its mean over the second half; also as `bmg plot WORKDIR ...`."""

    workdirs: tuple[str, ...]
    """Run directories, of `bmg train` or of experiments, or folders of them, however deep; those
    that differ by the seed alone are drawn together."""
    output: str = "curves.png"
    """Picture to write, of the kind that the name ends in; a folder gets curves.png."""
    metrics: tuple[str, ...] = ()
    """Metrics to draw, a panel each; every name in metrics.jsonl, or column of results.csv, will
    do. Empty for the returns that there are, or all columns of an experiment."""
    x: Literal["frames", "hours", "updates"] = "frames"
    """Against environment frames (steps, in experiments), hours of training or updates."""
    statistic: Literal["mean", "iqm"] = "mean"
    """Over seeds: the mean or the interquartile mean; the band is its 95 % bootstrap interval."""
    smooth: Share = 0.0
    """Share of a curve that each of its points is the mean of."""
    each_seed: bool = False
    """Draw a line for each seed instead."""
    title: str = ""
    """Of the whole picture."""
    theme: Literal["screen", "paper", "slide"] = "screen"
    """Fonts, sizes and lines: paper has a serif font and 300 dots an inch, slide large letters."""

    def __post_init__(self):
        check_fields(self)
        check_lists(self, "workdirs")


def main(arguments: list[str]) -> int:
    """Runs `bmg plot`.

    Raises:
      ValueError: no run there, a metric that no run has, or no place for the picture; one line.
    """
    config = parse_options(PlotConfig, "bmg plot", with_first("--workdirs", arguments))
    output = picture_path(config.output, "curves.png")

    from bmg.experiments.curves import group_runs, line_of
    from bmg.experiments.plots import line_look, save_panels

    runs, notes = runs_in(config.workdirs)
    groups = group_runs(runs, config.each_seed)
    rows, drawn, x_name = [], [], _name_of_x(config, runs)
    wanted = config.metrics or default_metrics(runs)
    for metric in wanted:
        lines = []
        for index, group in enumerate(groups):
            try:
                line = line_of(group, metric, config.x, config.statistic, config.smooth)
            except OSError as error:
                raise ValueError(
                    f"{error.filename} cannot be read ({error.strerror}): runs have one from "
                    "their first seconds on; give --workdirs of such runs."
                ) from None
            if line is None:
                continue
            lines.append((line, line_look(index)))  # a run's own in every panel
            rows.append(
                {"run": line.label, "seeds": line.seeds, "metric": metric, x_name: line.x[-1],
                 "last": line.y[-1], "mean of second half": _late_mean(line.x, line.y)}
            )  # fmt: skip
        if lines:
            drawn.append((metric, lines))
        elif config.metrics:
            raise ValueError(
                f"no run has the metric {metric!r}; see the names in metrics.jsonl or results.csv."
            )
    if not drawn:
        raise ValueError(
            f"no run has {' or '.join(wanted) or 'a metric'} yet; give --metrics of the names in "
            "metrics.jsonl or results.csv."
        )
    ends = _ends([line for _, lines in drawn for line, _ in lines])
    panels = [
        (metric, functools.partial(_draw, lines=lines, x=x_name, ends=ends))
        for metric, lines in drawn
    ]
    for note in notes:
        print(note)
    try:
        save_panels(output, panels, theme=config.theme, title=config.title)
    except OSError as error:
        raise no_picture(output, error) from None
    print_table(rows)
    print(output)
    return 0


def runs_in(workdirs: Sequence[str]) -> tuple[list[Run], list[str]]:
    """The runs in run directories, and in folders of them; lines about those in such a folder that
    cannot be drawn.

    Raises:
      ValueError: a folder without runs, or a run directory that cannot be read; one line.
    """
    from bmg.experiments.curves import find_runs

    runs, notes = [], []
    for workdir in map(pathlib.Path, workdirs):
        below = [] if config_file(workdir).exists() else list(find(workdir))
        if not below:
            runs += find_runs(workdir)
        for path in below:
            try:
                found = find_runs(path)
            except ValueError as error:
                notes.append(f"{path} is left out: {str(error).rstrip('.')}")
                continue
            if any(run.columns is None and not (run.workdir / METRICS).exists() for run in found):
                notes.append(f"{path} is left out: it has no metrics yet")
            else:
                runs += found
    if not runs:
        raise ValueError(f"no run in {', '.join(workdirs)} can be drawn: {notes[0]}.")
    return runs, notes


def default_metrics(runs) -> tuple[str, ...]:
    """The returns, or what experiments record."""
    columns = dict.fromkeys(name for run in runs for name in run.columns or ())
    trained = any(run.columns is None for run in runs)
    return (*(("training/return", "evaluation/return") if trained else ()), *columns)


def _name_of_x(config: PlotConfig, runs) -> str:
    if config.x != "frames":
        return config.x
    return "steps" if all(run.columns is not None for run in runs) else "frames"


def _late_mean(x, y) -> float:
    """Over the second half of x."""
    late = y[x >= x[0] / 2 + x[-1] / 2]
    return float(late.mean()) if len(late) else float(y[-1])


def _ends(lines: Sequence[Line]) -> tuple[float, float] | None:
    """Of the axis of x that all panels share: from 0 on; None where there is nothing beyond."""
    low = min(0.0, *(float(line.x.min()) for line in lines))
    high = max(float(line.x.max()) for line in lines)
    wide = high + 0.02 * (high - low)  # with room for a mark at the end
    return (low, wide) if wide > low and math.isfinite(wide - low) else None


def _draw(axis, lines, x: str, ends: tuple[float, float] | None) -> None:
    """Lines and their looks."""
    from bmg.experiments.plots import marks, plain, short_counts

    for line, look in lines:
        color = look["color"]
        axis.plot(line.x, line.y, label=plain(line.label), **marks(line.x), **look)
        if line.low is not None and len(line.x) == 1:
            axis.vlines(line.x, line.low, line.high, color=color)
        elif line.low is not None:
            axis.fill_between(line.x, line.low, line.high, color=color, alpha=0.2, linewidth=0)
    if ends:
        axis.set_xlim(*ends)
    axis.set_xlabel({"frames": "environment frames", "hours": "hours of training"}.get(x, x))
    if x != "hours":
        short_counts(axis)
