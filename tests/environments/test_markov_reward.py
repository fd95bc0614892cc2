"""The ten-state Markov reward process."""

from __future__ import annotations

import jax
import numpy as np

from bmg.environments import markov_reward

PAPERS = markov_reward.make_params()


def test_even_states_tell_and_odd_ones_do_not():
    rewards = np.asarray(markov_reward.episodes(PAPERS, jax.random.PRNGKey(0), 20_000))
    assert rewards.shape == (20_000, 10) and rewards.dtype == np.float32
    np.testing.assert_array_equal(rewards[:, ::2], np.float32(0.1))
    odd = rewards[:, 1::2]
    np.testing.assert_allclose(odd.mean(axis=0), 0.0, atol=0.03)
    np.testing.assert_allclose(odd.std(axis=0), 1.0, atol=0.03)
    correlation = np.corrcoef(odd.T) - np.eye(5)
    assert np.abs(correlation).max() < 0.03


def test_true_values_are_the_expected_sums():
    expected = [0.5, 0.4, 0.4, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1, 0.0]
    np.testing.assert_allclose(markov_reward.true_values(PAPERS), expected, atol=1e-6)


def test_an_episode_is_its_steps():
    """Step by step as all at once, also of a shorter process; then the next one begins."""
    for length in (10, 4):
        params = markov_reward.make_params(length=length, even_reward=0.3, noise=2.0)
        key = jax.random.PRNGKey(3)
        rewards = markov_reward.episodes(params, key, 2)
        noise = markov_reward.draw(params, key, (2, 10))
        state = markov_reward.reset(params, key)
        for episode in range(2):
            for i in range(length):
                assert state == i
                seen = markov_reward.observe(params, state)
                np.testing.assert_allclose(seen, [i / (length - 1)], rtol=1e-6)
                state, transition = markov_reward.step(params, state, 0, noise[episode, i])
                assert transition.reward == rewards[episode, i]
                assert transition.discount == (i < length - 1)
                expected = 0.3 if i % 2 == 0 else 2.0 * noise[episode, i]
                np.testing.assert_allclose(transition.reward, expected, rtol=1e-6)
        assert not np.any(rewards[:, length:])
        values = markov_reward.true_values(params)
        np.testing.assert_allclose(values[0], 0.3 * length / 2, rtol=1e-6)
        assert not np.any(values[length:])
