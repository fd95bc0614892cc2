"""Sums over leaves: their value, their derivative, and that they are compiled once."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bmg.meta.optimizers import clip_by_global_norm
from bmg.meta.trees import add_up, squared_norm
from tests.tables import named


@pytest.mark.usefixtures("doubles")
def test_squared_norm():
    rng = np.random.default_rng(0)
    tree = {"w": jnp.asarray(rng.normal(size=(3, 2))), "b": (jnp.asarray(rng.normal()),)}
    np.testing.assert_allclose(squared_norm(tree), optax.global_norm(tree) ** 2, rtol=1e-12)
    slope = jax.grad(squared_norm)(tree)
    jax.tree.map(lambda s, x: np.testing.assert_allclose(s, 2 * x, rtol=1e-12), slope, tree)


def test_add_up():
    for terms in [[], [3.0], [1.5, -2.0, 4.0], [True, False, True]]:
        with named(terms):
            total = add_up(jnp.asarray(x) for x in terms)
            assert total.shape == () and total == sum(terms)


def test_what_is_not_finite_stays_so():
    assert jnp.isnan(add_up(jnp.float32(x) for x in (1.0, np.nan)))
    assert jnp.isposinf(add_up(jnp.float32(x) for x in (1.0, np.inf)))


def test_a_norm_that_every_leaf_needs_is_compiled_once():
    """An addition chain would stand in each of the n leaves' updates: n * n additions."""
    n = 16
    clip = clip_by_global_norm(0.3)
    tree = [jnp.ones((2, size + 2)) for size in range(n)]
    compiled = jax.jit(lambda tree: clip.update(tree, None)[0]).lower(tree).compile()
    additions = len(re.findall(r" add\(", compiled.as_text()))
    assert n <= additions < 4 * n
