"""Differentiable optimisers: optax's values, true derivatives, also at zero."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bmg.meta.optimizers import clip_by_global_norm, clip_by_running_norm, scale_by_rms
from tests.tables import named

pytestmark = pytest.mark.usefixtures("doubles")


def gradients(seed: int = 0, scale: float = 1.0):
    rng = np.random.default_rng(seed)
    shapes = {"w": (3, 2), "b": (2,)}
    return {k: jnp.asarray(scale * rng.normal(size=shape)) for k, shape in shapes.items()}


def assert_trees_close(actual, expected, rtol):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol), actual, expected)


def clipped(tree, max_norm=0.3):
    transformation = clip_by_global_norm(max_norm)
    return transformation.update(tree, transformation.init(tree))[0]


def test_clip_is_optaxs():
    for norm in [0.0, 1e-6, 0.29, 0.3, 0.31, 100.0]:
        with named(norm):
            tree = gradients()
            tree = jax.tree.map(lambda x: x * norm / optax.global_norm(tree), tree)
            reference = optax.clip_by_global_norm(0.3)
            expected, _ = reference.update(tree, reference.init(tree))
            assert_trees_close(clipped(tree), expected, rtol=1e-12)
            np.testing.assert_allclose(optax.global_norm(clipped(tree)), min(norm, 0.3), rtol=1e-12)


def test_clip_by_the_running_norm():
    """To twice the weighted mean of the norms as they were left; the first one stays."""
    clip = clip_by_running_norm(2.0, decay=0.5)
    state, kept = clip.init(gradients()), []
    for seed, norm in enumerate([3.0, 1.0, 100.0, 5.0]):
        tree = gradients(seed)
        tree = jax.tree.map(lambda x: x * norm / optax.global_norm(tree), tree)
        weights = [0.5 ** (len(kept) - 1 - i) for i in range(len(kept))]
        most = 2 * np.average(kept, weights=weights) if kept else np.inf
        kept.append(min(norm, most))
        found, state = clip.update(tree, state)
        expected = jax.tree.map(lambda x: x * kept[-1] / max(norm, 1e-9), tree)
        assert_trees_close(found, expected, rtol=1e-6)
    assert kept[2] < 4 and kept[3] == 5


def test_norms_that_say_nothing_do_not_count_for_the_running_one():
    """Of zeros, and of what no float32 holds: the first other one stays, and later ones go on."""
    one = {"w": jnp.ones(4, jnp.float32) / 2}
    for first, kept in ((0.0, 0.0), (1e-30, 1e-30), (1e30, 0.0)):
        clip = clip_by_running_norm(2.0)
        state = clip.init(one)
        found = []
        for scale in (first, 1.0, 100.0):
            updates, state = clip.update(jax.tree.map(lambda x, s=scale: x * s, one), state)
            found.append(float(2 * updates["w"][0]))
        np.testing.assert_allclose(found, [kept, 1.0, 2.0], rtol=1e-5)


def check_derivative(function, x, rtol=1e-6):
    """`jax.grad` of a scalar function of one array against central differences."""
    gradient = np.asarray(jax.grad(function)(x))
    for index in np.ndindex(*x.shape):
        e = np.zeros(x.shape)
        e[index] = 1e-6
        difference = (function(x + e) - function(x - e)) / 2e-6
        np.testing.assert_allclose(gradient[index], difference, rtol=rtol, atol=1e-9)
    return gradient


@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_derivative_of_the_clip(scale):
    """Below the limit the identity's, above it the projection's."""
    tree = gradients(scale=scale)
    weights = gradients(seed=1)
    assert (optax.global_norm(tree) > 0.3) == (scale == 1.0)

    def function(w):
        result = clipped({"w": w, "b": tree["b"]})
        return sum(jnp.sum(result[k] * weights[k]) for k in result)

    gradient = check_derivative(function, tree["w"])
    if scale < 1.0:
        np.testing.assert_allclose(gradient, weights["w"], rtol=1e-12)


def test_derivative_of_the_clip_at_zero():
    """The identity's, where optax's own is not finite."""
    zeros = jax.tree.map(jnp.zeros_like, gradients())
    gradient = jax.grad(lambda t: sum(jnp.sum(x) for x in jax.tree.leaves(clipped(t))))(zeros)
    assert_trees_close(gradient, jax.tree.map(jnp.ones_like, zeros), rtol=1e-12)


@pytest.mark.parametrize("in_root", [True, False])
def test_rms_is_optaxs(in_root):
    """Over several steps, the first from a second moment of zero."""
    mine = scale_by_rms(0.9, 1e-4, in_root)
    reference = optax.scale_by_rms(decay=0.9, eps=1e-4, eps_in_sqrt=in_root)
    tree = gradients()
    state, expected_state = mine.init(tree), reference.init(tree)
    for seed in range(3):
        updates, state = mine.update(gradients(seed, 0.1), state)
        expected, expected_state = reference.update(gradients(seed, 0.1), expected_state)
        assert_trees_close(updates, expected, rtol=1e-6)
        assert_trees_close(state.nu, expected_state.nu, rtol=1e-12)


@pytest.mark.parametrize("in_root", [True, False])
def test_rms_without_jax(in_root):
    transformation, g = scale_by_rms(0.9, 1e-2, in_root), np.array([[0.3, -0.02]])
    state = transformation.init(jnp.asarray(g))
    second = np.zeros_like(g)
    for _ in range(2):
        updates, state = transformation.update(jnp.asarray(g), state)
        second = 0.9 * second + 0.1 * g**2
        root = np.sqrt(second + 1e-2) if in_root else np.sqrt(second) + 1e-2
        np.testing.assert_allclose(updates, g / root, rtol=1e-6)


@pytest.mark.parametrize("in_root", [True, False])
@pytest.mark.parametrize("second", [0.0, 0.04])
def test_derivative_of_rms(in_root, second):
    """Through the update and the second moment; the second step goes through both."""
    transformation = scale_by_rms(0.9, 1e-2, in_root)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3)))

    def function(g):
        state = optax.ScaleByRmsState(nu=jnp.full(g.shape, second))
        first, state = transformation.update(g, state)
        again, _ = transformation.update(2.0 * g, state)
        return jnp.sum(weights * (first + again**2))

    check_derivative(function, jnp.asarray(np.random.default_rng(3).normal(size=(2, 3))))


@pytest.mark.parametrize("in_root", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_derivative_of_rms_at_zero_is_finite(in_root, dtype):
    """A gradient of exactly zero from a second moment of zero, at the paper's epsilon."""
    transformation = scale_by_rms(0.99, 1e-4, in_root)

    def function(g):
        updates, _ = transformation.update(g, transformation.init(g))
        return jnp.sum(updates)

    gradient = jax.grad(function)(jnp.zeros(3, dtype))
    np.testing.assert_allclose(gradient, 100.0 if in_root else 1e4, rtol=1e-3)
