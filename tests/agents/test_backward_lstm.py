"""The LSTM against a loop in numpy, and its derivative against finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.agents.backward_lstm import backward_lstm, init

T, N, INPUTS, UNITS = 5, 3, 2, 4


def some(rng):
    shapes = jax.eval_shape(lambda key: init(key, INPUTS, UNITS), jax.random.PRNGKey(0))
    weights = jax.tree.map(lambda x: rng.normal(size=x.shape), shapes)
    keep = np.ones((T, N))
    keep[2, 1] = keep[4, 0] = keep[0, 2] = 0
    return weights, rng.normal(size=(T, N, INPUTS)), keep


def slow(weights, x, keep):
    """One number after the other, from the last step to the first."""
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    inputs, recurrent, bias = weights
    out = np.zeros((T, N, UNITS))
    for n in range(N):
        h, c = np.zeros(UNITS), np.zeros(UNITS)
        for t in reversed(range(T)):
            if keep[t, n] == 0:
                h, c = np.zeros(UNITS), np.zeros(UNITS)
            new_h, new_c = np.zeros(UNITS), np.zeros(UNITS)
            for u in range(UNITS):
                i, g, f, o = (
                    x[t, n] @ inputs[:, gate * UNITS + u]
                    + h @ recurrent[:, gate * UNITS + u]
                    + bias[gate * UNITS + u]
                    for gate in range(4)
                )
                new_c[u] = sigmoid(f + 1) * c[u] + sigmoid(i) * np.tanh(g)
                new_h[u] = sigmoid(o) * np.tanh(new_c[u])
            h, c = new_h, new_c
            out[t, n] = h
    return out


@pytest.mark.usefixtures("doubles")
def test_a_step_after_the_other():
    weights, x, keep = some(np.random.default_rng(0))
    found = jax.jit(backward_lstm)(weights, x, keep)
    np.testing.assert_allclose(found, slow(weights, x, keep), rtol=1e-12)


@pytest.mark.usefixtures("doubles")
def test_the_derivative_is_that_of_finite_differences():
    """Of every weight and every input, through resets; also recomputed and mapped."""
    rng = np.random.default_rng(1)
    weights, x, keep = some(rng)
    target = rng.normal(size=(T, N, UNITS))

    def loss(weights, x):
        return jnp.sum(jnp.sin(backward_lstm(weights, x, keep)) * target)

    value, slopes = jax.jit(loss), jax.jit(jax.grad(loss, argnums=(0, 1)))
    found = slopes(weights, x)
    for argument, gradient in zip(("weights", "x"), found):
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            direction = rng.normal(size=leaf.shape)

            def along(e, argument=argument, path=path, direction=direction):
                moved = {"weights": weights, "x": x}
                moved[argument] = jax.tree_util.tree_map_with_path(
                    lambda p, value: value + e * direction if p == path else value, moved[argument]
                )
                return value(**moved)

            slope = (along(1e-6) - along(-1e-6)) / 2e-6
            np.testing.assert_allclose(np.vdot(leaf, direction), slope, rtol=1e-7)
    again = jax.jit(jax.grad(jax.checkpoint(loss), argnums=(0, 1)))(weights, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), again, found)
    stacked = np.stack([x, 2 * x])
    mapped = jax.jit(jax.grad(lambda w: jnp.sum(jax.vmap(lambda x: loss(w, x))(stacked))))(weights)
    one_by_one = jax.tree.map(np.add, *(slopes(weights, x)[0] for x in stacked))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), mapped, one_by_one)


def test_nothing_passes_a_reset():
    """Whatever comes after it, the outputs before stay to the last bit, and their derivatives."""
    weights, x, keep = jax.tree.map(np.float32, some(np.random.default_rng(2)))
    other = x.copy()
    other[3:, 1] += 100.0  # after step 2, which sequence 1 has reset at
    outputs = jax.jit(backward_lstm)
    before, after = (np.asarray(outputs(weights, y, keep)) for y in (x, other))
    np.testing.assert_array_equal(before[:3], after[:3])
    assert np.all(before[3:, 1] != after[3:, 1])
    slope = jax.grad(lambda x: jnp.sum(backward_lstm(weights, x, keep)[:3, 1]))
    slope = np.asarray(jax.jit(slope)(x))
    assert np.all(slope[3:] == 0) and np.all(slope[:3, 1] != 0)
