"""What the figures of all experiments share."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Panel = tuple[str, Callable]  # title, axis -> None


class Theme(NamedTuple):
    """How a picture looks."""

    font: str
    size: float  # points, of axes; titles are as large, legends smaller
    line: float  # points
    dots: int  # an inch


THEMES = {
    "screen": Theme("sans-serif", 10, 1.3, 110),
    "paper": Theme("serif", 10, 1.0, 300),
    "slide": Theme("sans-serif", 15, 2.5, 150),
}
_LINES = ("-", "--", ":", "-.")
# With more of either a legend in each panel would hide what it shows.
_MANY_LINES, _MANY_PANELS = 6, 8
_MOST_INSIDE = 10  # lines, beyond which a legend is beside its panel
_MOST_NAMED = 60  # lines, beyond which a legend leaves out names
_ROW = 1.7  # height of a legend's row, in its font's
_FEW_POINTS = 30  # of a line, each of which is marked


def plain(text: str) -> str:
    """A name of the user's, which matplotlib would read as a formula between dollars."""
    return text.replace("$", r"\$")


def line_look(index: int) -> dict[str, str]:
    """Colour and dashes of the line of a number: ten colours, then the same in dashes."""
    return {"color": f"C{index % 10}", "linestyle": _LINES[index // 10 % len(_LINES)]}


def marks(x: np.ndarray) -> dict[str, Any]:
    """Of a line: each point where there are few, as nothing is known of what is between them."""
    return {"marker": "o" if len(x) < _FEW_POINTS else None, "markersize": 3}


def plain_log(axis) -> None:
    """Numbers such as 0.94 beside a y that is in powers of ten."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x, pos=None):
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(Plain())
    axis.yaxis.set_minor_formatter(Plain())


def draw_band(axis, x: np.ndarray, values: np.ndarray, label: str, **line_options) -> None:
    """Mean over seeds, [S, n], with one standard deviation."""
    mean, std = values.mean(0), values.std(0)
    (line,) = axis.plot(x, mean, label=label, **{"linewidth": 1.3, **marks(x), **line_options})
    axis.fill_between(x, mean - std, mean + std, color=line.get_color(), alpha=0.2, linewidth=0)


def short_counts(axis) -> None:
    """Frames or steps on x as 50k and 2M."""
    from matplotlib.ticker import EngFormatter

    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def save_panels(
    path: pathlib.Path,
    panels: Sequence[Panel],
    columns: int | None = None,
    size: tuple[float, float] = (5.2, 3.8),
    theme: str = "screen",
    title: str = "",
) -> pathlib.Path:
    """Draws panels side by side into a picture; returns its path.

    Many panels of the same lines, or panels of the same many lines, share a legend beside them; the
    legend of a panel with many lines is beside it.

    Args:
      path: of the picture.
      panels: in their order.
      columns: of panels, row below row; None for one row.
      size: of a panel, inches.
      theme: one of `THEMES`.
      title: of the whole; empty for none.
    """
    import matplotlib  # here, as who only runs has no use for it

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    look = THEMES[theme]
    math = "dejavuserif" if look.font == "serif" else "dejavusans"
    style = {"font.family": look.font, "font.size": look.size, "lines.linewidth": look.line,
             "mathtext.fontset": math, "axes.prop_cycle": _cycle()}  # fmt: skip
    columns = min(columns or len(panels), len(panels))
    rows = -(-len(panels) // columns)
    whole = (size[0] * columns, size[1] * rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), matplotlib.rc_context(style):
        # Letters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure, grid = plt.subplots(rows, columns, figsize=whole, squeeze=False)
        axes = list(grid.flat)[: len(panels)]
        for axis in list(grid.flat)[len(panels) :]:
            axis.set_axis_off()
        for axis, (name, draw) in zip(axes, panels):
            draw(axis)
            axis.set_title(plain(name), fontsize=look.size)
            axis.grid(alpha=0.3)
        _add_legends(figure, axes, grid[0, -1], look.size)
        if title:
            figure.suptitle(plain(title), fontsize=1.2 * look.size)
        figure.tight_layout()
        figure.savefig(path, dpi=look.dots)
        plt.close(figure)
    return path


def _cycle():
    """What lines take that are given nothing of `line_look`: the same, in turn."""
    import matplotlib
    from cycler import cycler

    colors = matplotlib.rcParamsDefault["axes.prop_cycle"].by_key()["color"]
    return cycler(linestyle=_LINES) * cycler(color=colors)


def _add_legends(figure, axes: Sequence, last_of_first_row, size: float) -> None:
    legends = [axis.get_legend_handles_labels() for axis in axes]
    labels = legends[0][1]
    many = len(labels) > _MANY_LINES or len(axes) > _MANY_PANELS
    if many and labels and all(legend[1] == labels for legend in legends):
        extra = _beside(last_of_first_row, *legends[0], 0.8 * size)
    else:
        widths = [0.0]
        for axis, (handles, names) in zip(axes, legends):
            if len(names) > _MOST_INSIDE:
                widths.append(_beside(axis, handles, names, 0.7 * size))
            elif handles:
                axis.legend(fontsize=0.7 * size)
        extra = axes[0].get_gridspec().ncols * max(widths)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + extra, height)  # panels stay about as wide


def _beside(axis, handles: Sequence, names: Sequence[str], size: float) -> float:
    """A legend to the right of an axis, about as high as that at most; its width in inches."""
    from matplotlib.lines import Line2D

    handles, names = list(handles), list(names)
    if (more := len(names) - _MOST_NAMED) > 0:
        handles[_MOST_NAMED:] = [Line2D([], [], linestyle="none")]
        names[_MOST_NAMED:] = [f"... and {more} more"]
    figure = axis.get_figure()
    rows = int(72 * axis.get_window_extent().height / figure.dpi / (_ROW * size))
    legend = axis.legend(
        handles, names, fontsize=size, loc="center left", bbox_to_anchor=(1.02, 0.5),
        ncols=-(-len(names) // max(rows, 1)),
    )  # fmt: skip
    return legend.get_window_extent(figure.canvas.get_renderer()).width / figure.dpi
