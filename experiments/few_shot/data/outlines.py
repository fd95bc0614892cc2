"""Outlines of characters, from the fonts that matplotlib ships.

They are read as the fonts hold them: no version of a font renderer has a part in them.
"""

from __future__ import annotations

import functools
import logging
import pathlib
from typing import NamedTuple

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont, TTLibError

# Every face with more than one script, the upright and light ones first.
FACES = (
    "DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral",
    "DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold", "STIXGeneralBol",
    "DejaVuSans-Oblique", "DejaVuSerif-Italic", "DejaVuSansMono-Oblique", "STIXGeneralItalic",
    "DejaVuSans-BoldOblique", "DejaVuSerif-BoldItalic", "DejaVuSansMono-BoldOblique",
    "STIXGeneralBolIta",
)  # fmt: skip

_PIECES = 4  # lines that a curve is drawn with


class Outline(NamedTuple):
    """Closed polygons; what they wind around is ink."""

    points: np.ndarray  # int64 [N, 2]: x to the right, y upwards; 1 / 32 of the font's unit
    following: np.ndarray  # int64 [N]: the index of the point that each one's line goes to


class Face:
    """One font file."""

    def __init__(self, path: pathlib.Path):
        """Opens it.

        Raises:
          ValueError: there is no such font, or it cannot be read; one line.
        """
        # fontTools warns of these fonts' time stamps.
        logging.getLogger("fontTools").setLevel(logging.ERROR)
        try:
            font = TTFont(path, lazy=True)
            self._glyphs, self._names = font["glyf"], font.getBestCmap()
        except (OSError, TTLibError, KeyError, AssertionError) as error:
            raise ValueError(
                f"the font {path} cannot be read ({type(error).__name__}); glyphs need the fonts "
                "that matplotlib ships: install matplotlib again, or choose another source."
            ) from None

    def outline(self, character: str) -> Outline | None:
        """None where the font does not have the character, or draws nothing for it."""
        name = self._names.get(ord(character))
        if name is None:
            return None
        coordinates, ends, flags = self._glyphs[name].getCoordinates(self._glyphs)
        if not len(ends):
            return None
        points = np.array(list(coordinates), np.int64)
        return _polygons(points, np.array(list(flags)) & 1 == 1, np.array(ends))


def _polygons(points: np.ndarray, on_curve: np.ndarray, ends: np.ndarray) -> Outline:
    """Lines along the contours of TrueType.

    Its curves are parabolas, each from a point on the curve to the next one on it, with one off the
    curve between them. Between two that are off it, the middle is on it.

    Args:
      points: integers [n, 2].
      on_curve: booleans [n].
      ends: integers [contours]: the last point of each contour.
    """
    before, _ = _neighbours(ends)
    implied = ~on_curve & ~on_curve[before]  # a middle stands before these
    place = np.arange(len(points)) + np.cumsum(implied)
    nodes = np.empty((len(points) + implied.sum(), 2), np.int64)
    nodes[place] = 2 * points
    nodes[place[implied] - 1] = (points + points[before])[implied]
    on = np.ones(len(nodes), bool)
    on[place] = on_curve

    # Where a node is off the curve, there are points at 1/4, 2/4 and 3/4 of the parabola.
    before, after = _neighbours(place[ends])
    i = np.arange(1, _PIECES)[:, None]
    j = _PIECES - i
    lines = j * j * nodes[before, None] + 2 * i * j * nodes[:, None] + i * i * nodes[after, None]
    lines[on, 0] = _PIECES**2 * nodes[on]
    used = ~on[:, None] | (np.arange(_PIECES - 1) == 0)
    _, following = _neighbours(np.cumsum(used.sum(1))[place[ends]] - 1)
    return Outline(lines[used], following)


def _neighbours(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index before and after each point of its contour; contours end at `ends`."""
    starts = np.concatenate([[0], ends[:-1] + 1])
    before = np.arange(-1, ends[-1])
    before[starts] = ends
    after = np.arange(1, ends[-1] + 2)
    after[ends] = starts
    return before, after


@functools.cache
def faces() -> tuple[Face, ...]:
    """All of `FACES`.

    Raises:
      ValueError: one is missing or damaged; one line.
    """
    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return tuple(Face(folder / f"{name}.ttf") for name in FACES)


def styles(character: str) -> list[Outline]:
    """The character's outlines in all faces that have it, in the order of `FACES`.

    Raises:
      ValueError: a font cannot be read; one line.
    """
    outlines = [face.outline(character) for face in faces()]
    return [outline for outline in outlines if outline is not None]
