"""Max-pooling against XLA's own, values and derivatives."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    "shape", [(2, 8, 8, 3), (1, 7, 7, 2), (2, 9, 6, 1), (1, 2, 5, 4), (1, 1, 1, 1)]
)
@pytest.mark.parametrize("ties", [False, True])
def test_values_and_gradients_equal_xlas(shape, ties):
    ours, reference = pools(3)
    x = normal(0, shape, ties)
    weights = jnp.asarray(normal(1, reference(x).shape, False))
    np.testing.assert_array_equal(ours(x), reference(x))

    def gradient(pool):
        return jax.grad(lambda x: jnp.sum(weights * pool(x) ** 2))(x)

    np.testing.assert_allclose(gradient(ours), gradient(reference), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 7, 7, 2), (2, 9, 6, 1), (1, 2, 5, 4)])
def test_two_by_two_equals_xlas(shape):
    ours, reference = pools(2)
    x = normal(0, shape, False)
    weights = jnp.asarray(normal(1, reference(x).shape, False))
    np.testing.assert_array_equal(ours(x), reference(x))

    def gradient(pool, x):
        return jax.grad(lambda x: jnp.sum(weights * pool(x)))(x)

    np.testing.assert_allclose(gradient(ours, x), gradient(reference, x), rtol=1e-6)
    # Of equal values one takes all: each window passes on what came to it.
    passed = gradient(ours, normal(0, shape, True))
    np.testing.assert_array_equal(ours(passed) - ours(-passed), weights)


@pytest.mark.parametrize("shape", [(1, 8, 6, 2), (1, 7, 7, 1)])
@pytest.mark.parametrize("size", [2, 3])
def test_second_derivatives_equal_xlas_in_both_modes(size, shape):
    ours, reference = pools(size)
    x, v = normal(1, (2, *shape), False)

    def gradient(pool):
        return jax.grad(lambda x: jnp.sum(jnp.sin(pool(jnp.sin(x)))))

    def reverse(pool):
        return jax.grad(lambda x: jnp.vdot(gradient(pool)(x), v))(x)

    def forward(pool):
        return jax.jvp(gradient(pool), (x,), (v,))[1]

    np.testing.assert_allclose(reverse(ours), reverse(reference), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(forward(ours), reverse(reference), rtol=1e-5, atol=1e-6)
