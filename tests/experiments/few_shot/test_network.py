"""The network: its size, its parts, ways to convolve."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.agents.convolution import conv3x3
from bmg.experiments.few_shot.network import (
    make_network,
    normalise_and_halve,
)
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
def test_ways_to_convolve_are_alike():
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=size)) for size in ((2, 5, 6, 3), (3, 3, 3, 4)))

    def squares(x, w, convolution):
        return jnp.sum(jnp.square(conv3x3(x, w, convolution)))

    for argument in range(2):
        found, expected = (jax.grad(squares, argument)(x, w, name) for name in ("im2col", "lax"))
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(conv3x3(x, w, "im2col"), conv3x3(x, w, "lax"), atol=1e-12)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("side", [6, 7])
def test_maxima_of_what_is_normalised_by_the_batch(side):
    """Odd rows and columns have no maximum, and count for mean and variance."""
    x = 3 + 2 * np.random.default_rng(0).normal(size=(4, side, 8, 2))
    offset = np.array([1.0, -2.0])
    every = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3) + offset
    expected = np.maximum(every[:, :6].reshape(4, 3, 2, 4, 2, 2).max((2, 4)), 0)
    found = normalise_and_halve(jnp.asarray(x), jnp.asarray(offset))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
