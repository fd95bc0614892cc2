"""The ring against a list."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bmg.replay import ring


def unrolls(first, count):
    return {
        "x": np.arange(first, first + count),
        "y": np.arange(first, first + count)[:, None] + 0.5,
    }


def test_the_newest_stay_and_are_drawn_alike():
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), unrolls(0, 1))
    found, stored = ring.init(one, 6), []
    for step in range(7):
        found = ring.append(found, unrolls(2 * step, 2))
        stored = (stored + [2 * step, 2 * step + 1])[-6:]
        drawn = ring.sample(found, jax.random.PRNGKey(step), 3_000)
        counts = np.array([np.sum(drawn["x"] == x) for x in stored])
        assert counts.sum() == 3_000  # nothing else
        expected = 3_000 / len(stored)
        assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
        np.testing.assert_array_equal(drawn["y"][:, 0], drawn["x"] + 0.5)
        assert int(found.appended) < 12  # however long it goes on
    assert int(found.appended) % 6 == 14 % 6


def test_what_does_not_divide_is_refused():
    one = {"x": jax.ShapeDtypeStruct((), np.int32)}
    with pytest.raises(ValueError, match="6 unrolls cannot be filled 4 at a time"):
        ring.append(ring.init(one, 6), {"x": np.zeros(4, np.int32)})
