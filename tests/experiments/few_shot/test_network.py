"""The network: its size, its parts, ways to convolve."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.experiments.few_shot.network import conv3x3, make_network, max_pool, normalise
from tests.experiments.few_shot import oracle

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.PRNGKey(0)


def test_its_size_is_the_papers():
    network = make_network((84, 84, 3), ways=5, filters=32)
    params = jax.eval_shape(network.init, KEY)
    sizes = [x.size for x in jax.tree.leaves(params)]
    assert sum(sizes) == 32_773 and sum(x.size for x in params.offsets) == 128
    assert params.weights.head.w.shape == (800, 5)
    assert jax.eval_shape(network.apply, params, jnp.zeros((25, 84, 84, 3))).shape == (25, 5)


@pytest.mark.usefixtures("doubles")
def test_it_is_the_slow_loop():
    params, task = oracle.some_params(), oracle.some_task()
    found = jax.jit(oracle.small_network().apply)(params, task.support_x)
    expected = oracle.logits(params.weights, params.offsets, task.support_x, oracle.convolve)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("convolution", ["im2col", "shifts"])
def test_ways_to_convolve_are_alike(convolution):
    rng = np.random.default_rng(0)
    x, w, b = (jnp.asarray(rng.normal(size=size)) for size in ((2, 5, 6, 3), (3, 3, 3, 4), (4,)))

    def squares(x, w, b, convolution):
        return jnp.sum(jnp.square(conv3x3(x, w, b, convolution)))

    for argument in range(3):
        found, expected = (
            jax.grad(squares, argument)(x, w, b, name) for name in (convolution, "lax")
        )
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(conv3x3(x, w, b, convolution), conv3x3(x, w, b, "lax"), atol=1e-12)


def test_normalising_is_by_the_batch_with_an_offset():
    x = 3 + 2 * np.random.default_rng(0).normal(size=(4, 5, 6, 2))
    y = normalise(jnp.asarray(x), jnp.array([1.0, -2.0]))
    np.testing.assert_allclose(y.mean((0, 1, 2)), [1, -2], atol=1e-5)
    variance = x.var((0, 1, 2))
    np.testing.assert_allclose(y.var((0, 1, 2)), variance / (variance + 1e-3), rtol=1e-5)


def test_pooling_leaves_out_the_last_odd_row_and_column():
    x = jnp.arange(2 * 5 * 7 * 1).reshape(2, 5, 7, 1)
    y = max_pool(x)
    assert y.shape == (2, 2, 3, 1)
    np.testing.assert_array_equal(y[0, :, :, 0], [[8, 10, 12], [22, 24, 26]])
