"""What pictures share: looks of lines that stay apart, and bars that are whole."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from bmg.experiments.comparison import figures, report
from bmg.experiments.comparison.statistics import Estimate
from bmg.experiments.plots import line_look, save_panels


def drawn(draw, folder):
    """The axis of a picture with one panel."""
    kept = []

    def keeping(axis):
        draw(axis)
        kept.append(axis)

    save_panels(folder / "picture.png", [("panel", keeping)])
    return kept[0]


def estimates(axis):
    found = [(f"m{i}", line_look(i), Estimate(i, i - 0.5, i + 0.5)) for i in range(25)]
    figures._draw_estimates(axis, found)


def spread(axis):
    report._draw_spread(axis, {f"m{i}": np.arange(i, i + 4.0) for i in range(25)})


@pytest.mark.parametrize("draw", [estimates, spread])
def test_intervals_are_whole_however_many_there_are(draw, tmp_path):
    axis = drawn(draw, tmp_path)
    bars = [line for line in axis.lines if line.get_marker() == "None"]
    assert len(bars) == 25
    assert {bar.get_linestyle() for bar in bars} == {"-"}
    assert all(np.ptp(bar.get_xdata()) > 0 for bar in bars)


def test_lines_beyond_the_tenth_look_like_none_before(tmp_path):
    def lines(axis):
        for i in range(20):
            axis.plot([0, 1], [i, i], label=f"{i}")

    axis = drawn(lines, tmp_path)
    looks = {(line.get_color(), line.get_linestyle()) for line in axis.lines}
    assert len(looks) == 20


def boxes(folder, counts):
    """Of each panel with so many lines: its own box, and that of its legend."""
    kept = []

    def draw(axis, count):
        for i in range(count):
            axis.plot([0, 1], [i, i], label=f"bmg-k5-l10-reverse_kl-{len(kept)}-0.000{i}")
        kept.append(axis)

    panels = [(f"{n} lines", functools.partial(draw, count=n)) for n in counts]
    save_panels(folder / "picture.png", panels)
    axes = [axis.get_window_extent() for axis in kept]
    return kept[0].get_figure(), axes, [axis.get_legend().get_window_extent() for axis in kept]


def test_a_legend_of_many_lines_covers_none_of_them(tmp_path):
    """Nor what is beside it; panels stay as large."""
    figure, axes, legends = boxes(tmp_path, (20, 48, 3))
    whole = figure.bbox
    for axis, legend in zip(axes[:2], legends):
        assert not axis.overlaps(legend)
        assert whole.x0 <= legend.x0 and legend.x1 <= whole.x1
        assert whole.y0 <= legend.y0 and legend.y1 <= whole.y1
    for legend, after in zip(legends, axes[1:]):
        assert legend.x1 < after.x0
    assert axes[2].contains(legends[2].x0, legends[2].y0), "of few lines it is inside"
    assert min(axis.width for axis in axes) > 3.5 * figure.dpi


def test_a_legend_names_no_more_lines_than_fit(tmp_path):
    figure, (axis,), (legend,) = boxes(tmp_path, (200,))
    assert axis.width > 3.5 * figure.dpi and legend.x1 <= figure.bbox.x1
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(names) == 61 and names[-1] == "... and 140 more"
