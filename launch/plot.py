"""`bmg plot`: metrics of one or more runs as a picture and a table."""

from __future__ import annotations

import dataclasses
import pathlib

from launch.config import load_config
from launch.options import parse_options
from launch.tables import print_table


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


def main(arguments: list[str]) -> int:
    """Runs `bmg plot`.

    Raises:
      ValueError: no run there, or a metric that no run has; one line.
    """
    config = parse_options(PlotConfig, "bmg plot", arguments)

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from learner.metrics import read_metrics

    rows = []
    count = len(config.metrics)
    figure, axes = plt.subplots(1, count, figsize=(5.5 * count, 3.6), squeeze=False)
    for axis, metric in zip(axes[0], config.metrics):
        drawn = False
        for workdir in map(pathlib.Path, config.workdirs):
            run = load_config(workdir)
            points = read_metrics(workdir, metric)
            if not points:
                continue
            drawn = True
            frames, values = zip(*points)
            marker = "o" if len(points) < 30 else None
            label = f"{run.agent.algorithm}, {run.game} ({workdir.name})"
            late = [value for at, value in points if at >= (frames[0] + frames[-1]) / 2]
            rows.append(
                {"run": workdir.name, "metric": metric, "frames": frames[-1],
                 "last": values[-1], "mean of second half": sum(late) / len(late)}
            )  # fmt: skip
            axis.plot(frames, values, marker=marker, markersize=3, linewidth=1.2, label=label)
        if not drawn:
            raise ValueError(f"no run has the metric {metric!r}; see the names in metrics.jsonl.")
        axis.set_xlabel("environment frames")
        axis.set_title(metric)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(config.output, dpi=120)
    print_table(rows)
    print(config.output)
    return 0
