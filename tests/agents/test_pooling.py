"""Max-pooling against XLA's own, values and derivatives."""

from __future__ import annotations

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.agents.pooling import max_pool_2x2, max_pool_3x3


def pools(size: int):
    """Ours, and XLA's."""
    ours, padding = {3: (max_pool_3x3, "SAME"), 2: (max_pool_2x2, "VALID")}[size]
    return ours, lambda x: hk.max_pool(x, (size, size, 1), (2, 2, 1), padding)


def normal(seed: int, shape, ties: bool) -> np.ndarray:
    """With ties there are flat regions, as black frames give: one maximum takes all of the
    gradient."""
    x = np.random.default_rng(seed).normal(size=shape)
    return (np.round(x) if ties else x).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_and_gradients(size: int, power: int, x, weights):
    """Of ours, and of XLA's: the gradient is that of the weighted sum of powers."""

    def of(pool):
        return pool(x), jax.grad(lambda x: jnp.sum(weights * pool(x) ** power))(x)

    return tuple(map(of, pools(size)))


def some_weights(size: int, x) -> np.ndarray:
    return normal(1, jax.eval_shape(pools(size)[1], x).shape, False)


@pytest.mark.parametrize(
    "shape", [(2, 8, 8, 3), (1, 7, 7, 2), (2, 9, 6, 1), (1, 2, 5, 4), (1, 1, 1, 1)]
)
@pytest.mark.parametrize("ties", [False, True])
def test_values_and_gradients_equal_xlas(shape, ties):
    x = normal(0, shape, ties)
    ours, reference = values_and_gradients(3, 2, x, some_weights(3, x))
    np.testing.assert_array_equal(ours[0], reference[0])
    np.testing.assert_allclose(ours[1], reference[1], rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 7, 7, 2), (2, 9, 6, 1), (1, 2, 5, 4)])
def test_two_by_two_equals_xlas(shape):
    x = normal(0, shape, False)
    weights = some_weights(2, x)
    ours, reference = values_and_gradients(2, 1, x, weights)
    np.testing.assert_array_equal(ours[0], reference[0])
    np.testing.assert_allclose(ours[1], reference[1], rtol=1e-6)
    # Of equal values one takes all: each window passes on what came to it.
    ((_, passed), _) = values_and_gradients(2, 1, normal(0, shape, True), weights)
    (largest, _), (smallest, _) = (
        values_and_gradients(2, 1, sign * passed, weights)[0] for sign in (1, -1)
    )
    np.testing.assert_array_equal(largest - smallest, weights)


@pytest.mark.parametrize("shape", [(1, 8, 6, 2), (1, 7, 7, 1)])
@pytest.mark.parametrize("size", [2, 3])
def test_second_derivatives_equal_xlas_in_both_modes(size, shape):
    x, v = normal(1, (2, *shape), False)

    def gradient(pool):
        return jax.grad(lambda x: jnp.sum(jnp.sin(pool(jnp.sin(x)))))

    def reverse(pool, x):
        return jax.grad(lambda x: jnp.vdot(gradient(pool)(x), v))(x)

    def forward(pool, x):
        return jax.jvp(gradient(pool), (x,), (v,))[1]

    @jax.jit
    def both(x):
        ours, reference = pools(size)
        return reverse(ours, x), forward(ours, x), reverse(reference, x)

    *found, expected = both(x)
    for derivative in found:
        np.testing.assert_allclose(derivative, expected, rtol=1e-5, atol=1e-6)
