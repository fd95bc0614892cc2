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


def save_panels(path: pathlib.Path, panels: Sequence[Panel]) -> pathlib.Path:
    """Draws panels side by side into a picture; returns its path.

    Panels of the same many lines share a legend beside them.
    """
    import matplotlib  # here, as who only runs has no use for it

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = (5.2 * len(panels), 3.8)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for axis, (title, draw) in zip(axes[0], panels):
        draw(axis)
        axis.set_title(plain(title), fontsize=10)
        axis.grid(alpha=0.3)
    legends = [axis.get_legend_handles_labels() for axis in axes[0]]
    labels = legends[0][1]
    if len(labels) > _MANY_LINES and all(legend[1] == labels for legend in legends):
        axes[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    else:
        for axis, (handles, _) in zip(axes[0], legends):
            if handles:
                axis.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # letters that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.tight_layout()
        figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
