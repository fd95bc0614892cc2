"""Max-pooling against XLA's own, values and derivatives."""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.agents.pooling import max_pool


def reference(x):
    return hk.max_pool(x, window_shape=(3, 3, 1), strides=(2, 2, 1), padding="SAME")


@pytest.mark.parametrize(
    "shape", [(2, 8, 8, 3), (1, 7, 7, 2), (2, 9, 6, 1), (1, 1, 1, 1), (1, 2, 5, 4)]
)
@pytest.mark.parametrize("ties", [False, True])
def test_values_and_gradients_equal_xlas(shape, ties):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    if ties:  # flat regions, as black frames give: the first maximum takes the whole gradient
        x = np.round(x)
    weights = jnp.asarray(rng.normal(size=reference(x).shape).astype(np.float32))
    np.testing.assert_array_equal(max_pool(x), reference(x))

    def gradient(pool):
        return jax.grad(lambda x: jnp.sum(weights * pool(x) ** 2))(x)

    np.testing.assert_allclose(gradient(max_pool), gradient(reference), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 6, 2), (1, 7, 7, 1)])
def test_second_derivatives_equal_xlas_in_both_modes(shape):
    rng = np.random.default_rng(1)
    x, v = rng.normal(size=(2, *shape)).astype(np.float32)

    def gradient(pool):
        return jax.grad(lambda x: jnp.sum(jnp.sin(pool(jnp.sin(x)))))

    def reverse(pool):
        return jax.grad(lambda x: jnp.vdot(gradient(pool)(x), v))(x)

    def forward(pool):
        return jax.jvp(gradient(pool), (x,), (v,))[1]

    np.testing.assert_allclose(reverse(max_pool), reverse(reference), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(forward(max_pool), reverse(reference), rtol=1e-5, atol=1e-6)
