"""Convolutions by the ways that XLA is quick at."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

Convolution = Literal["lax", "im2col"]
Padding = Literal["SAME", "VALID"]


def strided(x: jax.Array, w: jax.Array, stride: int, space_to_depth: bool = False) -> jax.Array:
    """A convolution without padding.

    Args:
      x: [N, H, W, C].
      w: [K, K, C, F].
      stride: in both directions.
      space_to_depth: each square of stride x stride pixels becomes one of as many times the
        channels, over which a smaller kernel then moves by one: the same sums, whose derivatives
        take a CPU less time. Without effect where the stride does not divide K, or is 1.

    Returns:
      [N, (H - K) // stride + 1, (W - K) // stride + 1, F].
    """
    size, (height, width, channels) = w.shape[0], x.shape[1:]
    if space_to_depth and stride > 1 and size % stride == 0:
        cells = size // stride  # of the smaller kernel
        rows, columns = ((side - size) // stride + cells for side in (height, width))
        x = x[:, : rows * stride, : columns * stride]
        x = x.reshape(-1, rows, stride, columns, stride, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, rows, columns, stride * stride * channels)
        w = w.reshape(cells, stride, cells, stride, channels, -1).transpose(0, 2, 1, 3, 4, 5)
        w = w.reshape(cells, cells, stride * stride * channels, -1)
        stride = 1
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, (stride, stride), "VALID", dimension_numbers=numbers)


def conv3x3(
    x: jax.Array, w: jax.Array, convolution: Convolution = "lax", padding: Padding = "SAME"
) -> jax.Array:
    """A 3x3 convolution with stride 1.

    Args:
      x: [N, H, W, C].
      w: [3, 3, C, F].
      convolution: "lax" is XLA's own. On a CPU it is the quickest, but not inside of a loop (ten
        times slower), nor differentiated twice in reverse mode. "im2col" is one product with all
        nine neighbours side by side.
      padding: "SAME" keeps height and width: outside are zeros. "VALID" takes two from each.

    Returns:
      [N, H, W, F], or [N, H - 2, W - 2, F].
    """
    if convolution == "lax":
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=numbers)
    if padding == "SAME":
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1] - 2, x.shape[2] - 2
    shifted = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1) @ w.reshape(-1, w.shape[-1])
