"""Characters as images: the data set that needs nothing but the fonts of matplotlib.

A class is a character; its images differ in style (the fonts' faces, in turn) and by a random
deformation. characters.csv has the characters, and `selection` the rule that chose them: no script
is in two splits, and no two characters of any splits look alike.
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bmg.experiments.few_shot.data import deformation, outlines, raster
from bmg.experiments.few_shot.data.config import DataConfig
from bmg.experiments.few_shot.data.sets import SPLITS, DataSet, ImageSet

CHARACTERS = pathlib.Path(__file__).with_name("characters.csv")
_HALF_SIDE = 0.33  # of a glyph, in sides of the image: deformed, it is still inside


class Character(NamedTuple):
    """A class."""

    split: str
    script: str
    character: str

    @property
    def name(self) -> str:
        """Such as `Armenian U+0561`."""
        return f"{self.script} U+{ord(self.character):04X}"


def read_characters() -> list[Character]:
    """All classes, split after split."""
    with CHARACTERS.open(newline="") as file:
        return [
            Character(row["split"], row["script"], chr(int(row["character"], 16)))
            for row in csv.DictReader(file)
        ]


def draw(shapes: Sequence[tuple[np.ndarray, np.ndarray]], size: int) -> np.ndarray:
    """Draws one shape an image.

    Args:
      shapes: points [n, 2], the glyph's in [-1, 1] with y upwards, and the index of the point that
        each one's line goes to [n].
      size: pixels of a side.

    Returns:
      uint8 [B, size, size], ink is 255.
    """
    counts = [len(points) for points, _ in shapes]
    starts = np.cumsum([0, *counts[:-1]])
    points = np.concatenate([points for points, _ in shapes])
    following = np.concatenate([start + after for start, (_, after) in zip(starts, shapes)])
    # Rounding to integers is the last thing that is done in floating point.
    pixels = np.rint((points * [1, -1] * _HALF_SIDE + 0.5) * (size * raster.UNIT))
    image = np.repeat(np.arange(len(shapes)), counts)
    return raster.rasterise(pixels.astype(np.int64), following, image, len(shapes), size)


def boxed(points: np.ndarray) -> np.ndarray:
    """Moved and scaled so that their box has its centre at 0, and its longer side is 2."""
    low, high = points.min(0), points.max(0)
    return (2 * points - (low + high)) / max((high - low).max(), 1)


def class_images(character: str, count: int, size: int, seed: int) -> np.ndarray:
    """uint8 [count, size, size] of a character.

    Raises:
      ValueError: no font has it; one line.
    """
    styles = [(boxed(points), after) for points, after in outlines.styles(character)]
    if not styles:
        raise ValueError(
            f"no font of this matplotlib has the character U+{ord(character):04X}; install the "
            "version of uv.lock, or choose another source."
        )
    numbers = deformation.deformations(seed, ord(character), count)
    shapes = []
    for i in range(count):
        points, following = styles[i % len(styles)]
        shapes.append((deformation.deformed(points, numbers[i]), following))
    return draw(shapes, size)


def make(config: DataConfig) -> DataSet:
    """Draws every class.

    Raises:
      ValueError: a font is missing or damaged, or lacks a character; one line.
    """
    characters = read_characters()
    splits = []
    for split in SPLITS:
        classes = [each for each in characters if each.split == split]
        images = [
            class_images(each.character, config.images_per_class, config.pixels, config.seed)
            for each in classes
        ]
        splits.append(ImageSet(np.stack(images)[..., None], tuple(each.name for each in classes)))
    return DataSet(*splits)
