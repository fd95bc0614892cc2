"""The tests' own eyes: a picture with empty axes is not taken for one that shows something."""

from __future__ import annotations

import pytest

from bmg.experiments.plots import save_panels

DRAWN = {
    "nothing": lambda axis: None,
    "no points": lambda axis: axis.plot([], []),
    "not finite": lambda axis: axis.plot([0, 1], [float("nan"), 1]),
    "no height": lambda axis: axis.bar(["a"], [0]),
}


@pytest.mark.parametrize("what", DRAWN)
def test_an_empty_panel_is_seen(tmp_path, pictures, what):
    full = ("full", lambda axis: axis.plot([0, 1], [2, 3], label="a"))
    save_panels(tmp_path / "full.png", [full, ("bars", lambda axis: axis.bar(["a"], [1]))])
    pictures.assert_full("full.png")
    assert pictures["full.png"][0].lines["a"].tolist() == [[0, 2], [1, 3]]
    save_panels(tmp_path / "one.png", [full, (what, DRAWN[what])])
    with pytest.raises(AssertionError, match=what):
        pictures.assert_full("one.png")


@pytest.mark.parametrize("panels, lines, legends", [(8, 6, 8), (9, 2, 1), (2, 7, 1)])
def test_many_panels_or_lines_share_a_legend(tmp_path, pictures, panels, lines, legends):
    def draw(axis):
        for index in range(lines):
            axis.plot([0, 1], [index, index], label=f"line {index}")

    save_panels(tmp_path / "many.png", [(f"panel {i}", draw) for i in range(panels)])
    assert sum(panel.has_legend for panel in pictures["many.png"]) == legends
