"""Random deformations of outlines.

All numbers come from a counter-based generator's raw integers, and only sums, products and
quotients are made of them, one element at a time: the same bits on every machine and with every
NumPy.
"""

from __future__ import annotations

import numpy as np

# Ours: about what the drawers of Omniglot differ by, and little enough that the nearest classes
# remain distinct. Parts of the glyph's half side, where nothing else is said.
_TURN = 0.08  # tangent of half the angle: up to 9 degrees
_SLANT = 0.15
_STRETCH = 0.12
_SHIFT = 0.12
_BEND = 0.3  # of the control points of a cubic patch; points move by about a third of it

_CONTROLS = 4  # a side
_NUMBERS = 6 + 2 * _CONTROLS**2


def uniforms(seed: int, stream: int, shape: tuple[int, ...]) -> np.ndarray:
    """float64 of that shape, uniform in [-1, 1); streams of a seed are independent."""
    raw = np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(int(np.prod(shape)))
    return (raw >> np.uint64(11)).reshape(shape) * 2.0**-52 - 1


def deformed(points: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Bends, stretches, slants, turns and shifts points.

    Args:
      points: float64 [N, 2]; a glyph's lie in [-1, 1].
      numbers: float64 [`_NUMBERS`] in [-1, 1]; zeros change nothing.
    """
    turn, slant, stretch_x, stretch_y, shift_x, shift_y = numbers[:6]
    x, y = points.T
    bend = _BEND * numbers[6:].reshape(2, _CONTROLS, _CONTROLS)
    # The patch covers [-1.25, 1.25]: the Bernstein polynomials of degree three.
    weights_x, weights_y = _bernstein((x / 1.25 + 1) / 2), _bernstein((y / 1.25 + 1) / 2)
    for i in range(_CONTROLS):
        for j in range(_CONTROLS):
            weight = weights_x[i] * weights_y[j]
            x, y = x + weight * bend[0, i, j], y + weight * bend[1, i, j]
    x, y = x * (1 + _STRETCH * stretch_x), y * (1 + _STRETCH * stretch_y)
    x = x + y * (_SLANT * slant)
    t = _TURN * turn
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    x, y = x * cosine - y * sine, x * sine + y * cosine
    return np.stack([x + _SHIFT * shift_x, y + _SHIFT * shift_y], 1)


def _bernstein(u: np.ndarray) -> tuple[np.ndarray, ...]:
    v = 1 - u
    return v * v * v, 3 * u * (v * v), 3 * (u * u) * v, u * u * u


def deformations(seed: int, stream: int, count: int) -> np.ndarray:
    """The numbers of `count` deformations: float64 [count, `_NUMBERS`]."""
    return uniforms(seed, stream, (count, _NUMBERS))
