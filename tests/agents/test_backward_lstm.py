"""The LSTM against a loop in numpy, and its derivative against finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.agents.backward_lstm import backward_lstm, init

T, N, INPUTS, UNITS = 5, 3, 2, 4


def some(rng):
    weights = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape)), init(jax.random.PRNGKey(0), INPUTS, UNITS)
    )
    keep = np.ones((T, N))
    keep[2, 1] = keep[4, 0] = keep[0, 2] = 0
    return weights, jnp.asarray(rng.normal(size=(T, N, INPUTS))), jnp.asarray(keep)


def slow(weights, x, keep):
    """One number after the other, from the last step to the first."""
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    inputs, recurrent, bias = map(np.asarray, weights)
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
    np.testing.assert_allclose(backward_lstm(weights, x, keep), slow(weights, x, keep), rtol=1e-12)


@pytest.mark.usefixtures("doubles")
def test_the_derivative_is_that_of_finite_differences():
    """Of every weight and every input, through resets; also recomputed and mapped."""
    rng = np.random.default_rng(1)
    weights, x, keep = some(rng)
    target = jnp.asarray(rng.normal(size=(T, N, UNITS)))

    def loss(weights, x):
        return jnp.sum(jnp.sin(backward_lstm(weights, x, keep)) * target)

    found = jax.grad(loss, argnums=(0, 1))(weights, x)
    for argument, gradient in zip(("weights", "x"), found):
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            direction = jnp.asarray(rng.normal(size=leaf.shape))

            def along(e, argument=argument, path=path, direction=direction):
                moved = {"weights": weights, "x": x}
                moved[argument] = jax.tree_util.tree_map_with_path(
                    lambda p, value: value + e * direction if p == path else value, moved[argument]
                )
                return loss(**moved)

            slope = (along(1e-6) - along(-1e-6)) / 2e-6
            np.testing.assert_allclose(jnp.vdot(leaf, direction), slope, rtol=1e-7)
    again = jax.grad(jax.checkpoint(loss), argnums=(0, 1))(weights, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), again, found)
    stacked = jnp.stack([x, 2 * x])
    mapped = jax.grad(lambda w: jnp.sum(jax.vmap(lambda x: loss(w, x))(stacked)))(weights)
    one_by_one = jax.tree.map(jnp.add, *(jax.grad(loss)(weights, x) for x in stacked))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), mapped, one_by_one)


def test_nothing_passes_a_reset():
    """Whatever comes after it, the outputs before stay to the last bit, and their derivatives."""
    weights, x, keep = jax.tree.map(jnp.float32, some(np.random.default_rng(2)))
    other = x.at[3:, 1].add(100.0)  # after step 2, which sequence 1 has reset at
    before, after = (backward_lstm(weights, y, keep) for y in (x, other))
    np.testing.assert_array_equal(before[:3], after[:3])
    assert np.all(before[3:, 1] != after[3:, 1])
    slope = jax.grad(lambda x: jnp.sum(backward_lstm(weights, x, keep)[:3, 1]))(x)
    assert np.all(slope[3:] == 0) and np.all(slope[:3, 1] != 0)
