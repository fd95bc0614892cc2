"""What pictures share: looks of lines that stay apart, and bars that are whole."""

from __future__ import annotations

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
