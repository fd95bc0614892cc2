"""`bmg plot`: metrics of one or more runs as a picture and a table."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from launch.config import load_config
from launch.options import parse_options
from launch.tables import print_table
from storage.fields import check_fields


@dataclasses.dataclass(frozen=True)
class PlotConfig:
    """Draw metrics of runs over environment frames, one line per run, and print for each its last
    value and its mean over the second half of the frames."""

    workdirs: tuple[str, ...]
    """Run directories of `bmg train`."""
    output: str = "curves.png"
    """Picture to write."""
    metrics: tuple[str, ...] = ("training/return", "evaluation/return")
    """Metrics to draw, a panel each; every name in metrics.jsonl will do."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg plot`.

    Raises:
      ValueError: no run there, or a metric that no run has; one line.
    """
    config = parse_options(PlotConfig, "bmg plot", arguments)

    from experiments.plots import save_panels
    from learner.metrics import read_metrics

    rows, panels = [], []
    for metric in config.metrics:
        lines = []
        for index, workdir in enumerate(map(pathlib.Path, config.workdirs)):
            run = load_config(workdir)
            points = read_metrics(workdir, metric)
            if not points:
                continue
            frames, values = zip(*points)
            label = f"{run.agent.algorithm}, {run.game} ({workdir.name})"
            lines.append((frames, values, label, f"C{index}"))  # a run's colour in every panel
            late = [value for at, value in points if at >= (frames[0] + frames[-1]) / 2]
            rows.append(
                {"run": workdir.name, "metric": metric, "frames": frames[-1],
                 "last": values[-1], "mean of second half": sum(late) / len(late)}
            )  # fmt: skip
        if not lines:
            raise ValueError(f"no run has the metric {metric!r}; see the names in metrics.jsonl.")
        panels.append((metric, functools.partial(_draw, lines=lines)))
    picture = save_panels(pathlib.Path(config.output), panels)
    print_table(rows)
    print(picture)
    return 0


def _draw(axis, lines) -> None:
    """Lines of (frames, values, label, colour)."""
    for frames, values, label, color in lines:
        marker = "o" if len(frames) < 30 else None
        axis.plot(
            frames, values, marker=marker, markersize=3, linewidth=1.2, label=label, color=color
        )
    axis.set_xlabel("environment frames")
