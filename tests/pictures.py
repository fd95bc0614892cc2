"""What a picture shows: looked at where matplotlib writes it."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure


class Panel(NamedTuple):
    """One pair of axes."""

    title: str
    lines: dict[str, np.ndarray]  # label -> [n, 2] points
    bars: int
    colors: dict[str, str]  # label -> of the line
    has_legend: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be seen in it: no bar, and no line of finite points."""
        seen = [xy for xy in self.lines.values() if len(xy) and np.all(np.isfinite(xy))]
        return not seen and not self.bars


class Pictures(dict):
    """File name -> its panels, of each picture that is written."""

    def record(self, figure: Figure, path) -> None:
        """Of a figure that is written there."""
        self[pathlib.Path(path).name] = [
            Panel(
                axis.get_title(),
                {line.get_label(): np.asarray(line.get_xydata(), float) for line in axis.lines},
                sum(patch.get_width() != 0 and patch.get_height() != 0 for patch in axis.patches),
                {line.get_label(): to_hex(line.get_color()) for line in axis.lines},
                axis.get_legend() is not None,
            )
            for axis in figure.axes
            if axis.axison
        ]

    def assert_full(self, *names: str) -> None:
        """Each of these was written, and something is drawn in all of its panels."""
        for name in names:
            assert self[name], f"{name} has no panel"
            empty = [panel.title for panel in self[name] if panel.is_empty]
            assert not empty, f"{name}: nothing is drawn in {empty}"
