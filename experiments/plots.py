"""What the figures of all experiments share."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable, Sequence

import numpy as np

Panel = tuple[str, Callable]  # title, axis -> None
_MANY_LINES = 6  # more would hide what a panel shows


def plain(text: str) -> str:
    """A name of the user's, which matplotlib would read as a formula between dollars."""
    return text.replace("$", r"\$")


def draw_band(axis, x: np.ndarray, values: np.ndarray, label: str, **line_options) -> None:
    """Mean over seeds, [S, n], with one standard deviation."""
    mean, std = values.mean(0), values.std(0)
    (line,) = axis.plot(x, mean, label=label, **{"linewidth": 1.3, **line_options})
    axis.fill_between(x, mean - std, mean + std, color=line.get_color(), alpha=0.2, linewidth=0)


def save_panels(
    path: pathlib.Path,
    panels: Sequence[Panel],
    columns: int | None = None,
    size: tuple[float, float] = (5.2, 3.8),
) -> pathlib.Path:
    """Draws panels side by side into a picture; returns its path.

    Panels of the same many lines share a legend beside them.

    Args:
      path: of the picture.
      panels: in their order.
      columns: of panels, row below row; None for one row.
      size: of a panel, inches.
    """
    import matplotlib  # here, as who only runs has no use for it

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(columns or len(panels), len(panels))
    rows = -(-len(panels) // columns)
    whole = (size[0] * columns, size[1] * rows)
    figure, grid = plt.subplots(rows, columns, figsize=whole, squeeze=False)
    axes = list(grid.flat)[: len(panels)]
    for axis in list(grid.flat)[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, draw) in zip(axes, panels):
        draw(axis)
        axis.set_title(plain(title), fontsize=10)
        axis.grid(alpha=0.3)
    legends = [axis.get_legend_handles_labels() for axis in axes]
    labels = legends[0][1]
    if len(labels) > _MANY_LINES and all(legend[1] == labels for legend in legends):
        grid[0, -1].legend(*legends[0], fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    else:
        for axis, (handles, _) in zip(axes, legends):
            if handles:
                axis.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # letters that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.tight_layout()
        figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
