"""Polygons to grey images, in integers alone: the same bytes on every machine."""

from __future__ import annotations

import numpy as np

UNIT = 256  # of a pixel's side: what coordinates are counted in
_ROWS, _COLUMNS = 4, 8  # samples of a pixel


def rasterise(
    points: np.ndarray, following: np.ndarray, image: np.ndarray, num_images: int, size: int
) -> np.ndarray:
    """Fills polygons: a sample is ink where they wind around it (the rule of TrueType).

    Args:
      points: int64 [N, 2], x to the right and y downwards, in 1 / `UNIT` pixels.
      following: int64 [N]: the index of the point that each one's line goes to.
      image: int64 [N]: which image each line belongs to.
      num_images: B.
      size: of their sides, in pixels.

    Returns:
      uint8 [B, size, size]: the share of ink, from 0 to 255.
    """
    (x0, y0), (x1, y1) = points.T, points[following].T
    step = UNIT // _ROWS
    # Rows of samples at (k + 1/2) step, from the upper end of a line to before the lower one: where
    # two lines meet, a row crosses one of them.
    first = np.clip(_samples_before(np.minimum(y0, y1), step), 0, size * _ROWS)
    end = np.clip(_samples_before(np.maximum(y0, y1), step), 0, size * _ROWS)
    count = end - first
    line = np.repeat(np.arange(len(points)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
    y = row * step + step // 2
    x = x0[line] + (y - y0[line]) * (x1 - x0)[line] // (y1 - y0)[line]
    column = np.clip(_samples_before(x, UNIT // _COLUMNS), 0, size * _COLUMNS)

    turns = np.zeros((num_images, size * _ROWS, size * _COLUMNS + 1), np.int8)
    np.add.at(turns, (image[line], row, column), np.where(y1 > y0, 1, -1)[line].astype(np.int8))
    ink = np.cumsum(turns, 2, dtype=np.int8)[:, :, :-1] != 0
    parts = ink.reshape(num_images, size, _ROWS, size, _COLUMNS)
    samples = _ROWS * _COLUMNS
    # Whole rows first: NumPy is several times quicker than with both at once.
    inked = parts.sum(2, dtype=np.uint8).sum(3, dtype=np.int64)
    return ((inked * 255 + samples // 2) // samples).astype(np.uint8)


def _samples_before(position: np.ndarray, step: int) -> np.ndarray:
    """How many of the samples at step / 2, 3 step / 2, ... lie before a position."""
    return -((step // 2 - position) // step)
