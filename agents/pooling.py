"""Max-pooling with stride 2 whose derivatives of any order are cheap on a CPU.

XLA differentiates `reduce_window` by `select_and_scatter`, which on a CPU takes longer than the
convolutions around it. Here the derivative is a sum over the window's offsets, each masked where
that offset holds the maximum: 2 to 8 times faster, and differentiable again, forwards and
backwards. Among equal values the first counts, as in XLA. (That of `jnp.max` divides by how many
equal the maximum: none does where a program computes them twice and rounds in another way.)

3x3 windows overlap:

    rows of x     0 1 2 3 4 5 ...          window a covers rows 2a, 2a + 1, 2a + 2 (after the
    phase 0       0   2   4                "SAME" padding), that is phase 0 at a, phase 1 at a,
    phase 1         1   3   5              phase 0 at a + 1; columns likewise
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_SIZE, _STRIDE = 3, 2


def _padding(size: int) -> tuple[int, int, int]:
    """Windows along an axis of `size`, and the padding before and after it.

    "SAME" padding before; after it so much that both phases have one element more than windows.
    """
    windows = -(-size // _STRIDE)
    before = max((windows - 1) * _STRIDE + _SIZE - size, 0) // 2
    return windows, before, _STRIDE * (windows + 1) - size - before


def _offsets(x: jax.Array, fill: float) -> list[jax.Array]:
    """The nine elements of each window: nine arrays of the pooled shape.

    Splits and slices only: their transposes are concatenations and paddings.
    """
    n, height, width, channels = x.shape
    rows, top, bottom = _padding(height)
    columns, left, right = _padding(width)
    config = ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    x = jax.lax.pad(x, jnp.asarray(fill, x.dtype), config)
    x = x.reshape(n, rows + 1, _STRIDE, columns + 1, _STRIDE, channels)
    phases = [
        [p.reshape(n, rows + 1, columns + 1, channels) for p in jax.lax.split(half, (1, 1), 4)]
        for half in jax.lax.split(x, (1, 1), 2)
    ]
    return [
        phases[i % 2][j % 2][:, i // 2 : i // 2 + rows, j // 2 : j // 2 + columns]
        for i in range(_SIZE)
        for j in range(_SIZE)
    ]


@jax.custom_jvp
def max_pool_3x3(x: jax.Array) -> jax.Array:
    """3x3 max-pooling, stride 2, "SAME": float [N, H, W, C] -> [N, ceil(H/2), ceil(W/2), C]."""
    window, strides = (1, _SIZE, _SIZE, 1), (1, _STRIDE, _STRIDE, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, "SAME")


@max_pool_3x3.defjvp
def _max_pool_3x3_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    y = max_pool_3x3(x)
    index = jnp.full(y.shape, _SIZE * _SIZE, jnp.int8)  # which offset is the (first) maximum
    for k, element in reversed(list(enumerate(_offsets(x, -jnp.inf)))):
        index = jnp.where(element == y, jnp.int8(k), index)
    elements = enumerate(_offsets(x_dot, 0.0))
    return y, sum(jnp.where(index == k, element, 0.0) for k, element in elements)


@jax.custom_jvp
def max_pool_2x2(x: jax.Array) -> jax.Array:
    """2x2 max-pooling, stride 2: float [N, H, W, C] -> [N, H // 2, W // 2, C]; a last odd row or
    column is left out."""
    shape = (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, shape, shape, "VALID")


@max_pool_2x2.defjvp
def _max_pool_2x2_jvp(primals, tangents):
    """Rows first, then columns: the first of equal values as `reduce_window` has it, but where a
    row's second is as large as another row's first."""
    (x,), (x_dot,) = primals, tangents
    top, bottom = _pairs(x, 1)
    chosen = jnp.where(top >= bottom, *_pairs(x_dot, 1))
    left, right = _pairs(jnp.maximum(top, bottom), 2)
    return max_pool_2x2(x), jnp.where(left >= right, *_pairs(chosen, 2))


def _pairs(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The first and the second of each two along an axis; a last odd one is left out."""
    count = x.shape[axis] // 2
    x = jax.lax.slice_in_dim(x, 0, 2 * count, axis=axis)
    x = x.reshape(*x.shape[:axis], count, 2, *x.shape[axis + 1 :])
    return tuple(jnp.squeeze(half, axis + 1) for half in jax.lax.split(x, (1, 1), axis + 1))
