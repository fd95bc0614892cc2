"""Probabilities of arms by hand, and what lifetimes tell."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bmg.experiments.lpg import bandit


def tell(state, *lifetimes):
    """(world, arm, final return, whether it counts) of each."""
    world, arm, final, counts = map(jnp.asarray, zip(*lifetimes))
    return bandit.told(state, world, arm, final.astype(jnp.float32), counts)


def test_probabilities_by_hand():
    """Arms of world 0: 4.0 (one lifetime), 2.0 (a mean of four), never drawn. Of world 1: none."""
    state = bandit.init(2, 3)
    state = tell(state, (0, 0, 4.0, True), *[(0, 1, x, True) for x in (1.0, 3.0, 2.0, 2.0)])
    found = jax.nn.softmax(bandit.logits(state, temperature=0.5, exploration=0.2))
    scores = np.array([1 + 0.2 / 1, 0 + 0.2 / np.sqrt(4), 1 + 0.2 / 1]) / 0.5
    np.testing.assert_allclose(found[0], np.exp(scores) / np.exp(scores).sum(), rtol=1e-6)
    np.testing.assert_allclose(found[1], 1 / 3, rtol=1e-6)


def test_the_last_ten_lifetimes_count():
    state = bandit.init(1, 2)
    for i in range(13):
        state = tell(state, (0, 1, float(i), True))
    assert state.counts.tolist() == [[0, 13]]
    assert sorted(state.returns[0, 1].tolist()) == list(map(float, range(3, 13)))
    # Two arms: the mean of 3 ... 12 against another.
    state = tell(state, (0, 0, 7.4, True))
    logits = bandit.logits(state, 1.0, 0.0)
    np.testing.assert_allclose(logits, [[0.0, 1.0]])


def test_what_does_not_count_changes_nothing():
    """Cut short, without an episode (0 / 0), or infinite."""
    state = tell(bandit.init(1, 1), (0, 0, 5.0, True))
    after = tell(state, (0, 0, 1.0, False), (0, 0, np.nan, True), (0, 0, np.inf, True))
    jax.tree.map(np.testing.assert_array_equal, after, state)
    assert bool(jnp.all(jnp.isfinite(bandit.logits(after, 0.1, 0.2))))
