"""The ten-state Markov reward process."""

from __future__ import annotations

import jax
import numpy as np

from bmg.environments import markov_reward


def test_even_states_tell_and_odd_ones_do_not():
    rewards = np.asarray(markov_reward.episodes(jax.random.PRNGKey(0), 20_000))
    assert rewards.shape == (20_000, 10) and rewards.dtype == np.float32
    np.testing.assert_array_equal(rewards[:, ::2], np.float32(0.1))
    odd = rewards[:, 1::2]
    np.testing.assert_allclose(odd.mean(axis=0), 0.0, atol=0.03)
    np.testing.assert_allclose(odd.std(axis=0), 1.0, atol=0.03)
    correlation = np.corrcoef(odd.T) - np.eye(5)
    assert np.abs(correlation).max() < 0.03


def test_true_values_are_the_expected_sums():
    expected = [0.5, 0.4, 0.4, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1, 0.0]
    np.testing.assert_allclose(markov_reward.true_values(), expected, atol=1e-6)
