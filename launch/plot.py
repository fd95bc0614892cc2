"""`bmg plot`: metrics of one or more runs as a picture and a table."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from bmg.launch.config import TrainConfig
from bmg.launch.options import parse_options
from bmg.launch.pictures import no_picture, picture_path
from bmg.launch.tables import print_table
from bmg.storage.fields import check_fields, check_lists
from bmg.storage.run_directory import load_config


@dataclasses.dataclass(frozen=True)
class PlotConfig:
    """Draw metrics of runs over environment frames, one line per run, and print for each its last
    value and its mean over the second half of the frames."""

    workdirs: tuple[str, ...]
    """Run directories of `bmg train`."""
    output: str = "curves.png"
    """Picture to write, of the kind that the name ends in; a folder gets curves.png."""
    metrics: tuple[str, ...] = ("training/return", "evaluation/return")
    """Metrics to draw, a panel each; every name in metrics.jsonl will do."""

    def __post_init__(self):
        check_fields(self)
        check_lists(self, "workdirs", "metrics")


def main(arguments: list[str]) -> int:
    """Runs `bmg plot`.

    Raises:
      ValueError: no run there, a metric that no run has, or no place for the picture; one line.
    """
    config = parse_options(PlotConfig, "bmg plot", arguments)
    output = picture_path(config.output, "curves.png")

    from bmg.experiments.plots import plain, save_panels

    rows, panels = [], []
    for metric in config.metrics:
        lines = []
        for index, workdir in enumerate(map(pathlib.Path, config.workdirs)):
            run = load_config(workdir, TrainConfig)
            points = _points(workdir, metric)
            if not points:
                continue
            frames, values = zip(*points)
            label = plain(f"{run.agent.algorithm}, {run.game} ({workdir.name})")
            lines.append((frames, values, label, f"C{index}"))  # a run's colour in every panel
            rows.append(
                {"run": workdir.name, "metric": metric, "frames": frames[-1],
                 "last": values[-1], "mean of second half": _late_mean(points)}
            )  # fmt: skip
        if not lines:
            raise ValueError(f"no run has the metric {metric!r}; see the names in metrics.jsonl.")
        panels.append((metric, functools.partial(_draw, lines=lines)))
    try:
        save_panels(output, panels)
    except OSError as error:
        raise no_picture(output, error) from None
    print_table(rows)
    print(output)
    return 0


def _points(workdir: pathlib.Path, metric: str) -> list[tuple[float, float]]:
    from bmg.learner.metrics import METRICS, read_metrics

    try:
        return read_metrics(workdir, metric)
    except OSError as error:
        raise ValueError(
            f"{workdir / METRICS} cannot be read ({error.strerror}): runs have one from their "
            "first seconds on; give --workdirs of such runs."
        ) from None


def _late_mean(points: list[tuple[float, float]]) -> float:
    """Over the second half of the frames."""
    middle = float(points[0][0]) / 2 + float(points[-1][0]) / 2
    late = [float(value) for at, value in points if at >= middle] or [float(points[-1][1])]
    return sum(late) / len(late)


def _draw(axis, lines) -> None:
    """Lines of (frames, values, label, colour)."""
    from matplotlib.ticker import EngFormatter

    for frames, values, label, color in lines:
        marker = "o" if len(frames) < 30 else None
        axis.plot(
            frames, values, marker=marker, markersize=3, linewidth=1.2, label=label, color=color
        )
    axis.set_xlabel("environment frames")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k, 2M
