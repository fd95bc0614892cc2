"""What a meta-gradient keeps in memory, as XLA lays it out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from bmg.meta import core
from bmg.meta.differentiation import inner_gradient
from bmg.meta.objectives import final_value


def peak_bytes(differentiation: str, num_steps: int) -> int:
    """XLA's temporary memory of a meta-gradient through a deep network on a large batch."""
    width, depth, rows = 16, 3, 4096

    def deep(params, x):
        for w in params:
            x = jnp.tanh(x @ w)
        return x

    def squared(y, constants, scale, x):
        return jnp.mean(jnp.square(scale * y - jnp.sin(x))), ()

    gradient = inner_gradient(deep, squared, differentiation)

    def step(w, params, x, key):
        g, _ = gradient(params, w, x)
        return [p - 0.1 * u for p, u in zip(params, g)], ()

    objective = final_value(
        lambda params, x, key: (jnp.mean(jnp.square(deep(params, x) - 1.0)), {})
    )
    compute = core.meta_gradient(core.online_start, step, objective, differentiation)
    params = [jnp.full((width, width), 0.1)] * depth
    x = jnp.ones((rows, width))
    lowered = jax.jit(compute).lower(1.0, params, (x,) * num_steps, x, jax.random.PRNGKey(0))
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.long
def test_memory_does_not_grow_with_the_unroll():
    """One step's memory does for all of them; kept whole, each adds its own."""
    assert peak_bytes("mixed", 8) < 1.1 * peak_bytes("mixed", 2)
    assert peak_bytes("plain", 8) > 3 * peak_bytes("plain", 2)
