"""Delayed chains against a slow game in plain Python."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.environments import chain

KEY = jax.random.PRNGKey(5)


def bits(word: int, first: int, count: int = 1) -> list[int]:
    return [int(word) >> (first + i) & 1 for i in range(count)]


@pytest.mark.parametrize("length, noisy", [(2, True), (5, False), (5, True), (9, True)])
def test_a_game_is_the_slow_one(length, noisy):
    """One list of choices an episode, with the right answer on top."""
    params, rng = chain.make_params(length, noisy), np.random.default_rng(1)
    state = chain.reset(params, KEY)
    words = np.asarray(chain.draw(params, KEY, (200,)))
    first = int(state.noise)
    right, chosen, noise, total = bits(first, 20)[0], [], bits(first, 0, 20), 0.0
    step, paid, numbers = jax.jit(chain.step), collections.Counter(), set()
    for t in range(200):
        assert state.right == right
        expected = [right == 0, bool(chosen) and chosen[0] == right, *noise]
        np.testing.assert_array_equal(chain.observe(params, state), expected)
        number = int(chain.index(params, state))
        assert number < chain.num_states(params) == 2 + 4 * (length - 1)
        numbers.add((number, len(chosen), right, *chosen[:1]))
        action = int(rng.integers(2))
        state, transition = step(params, state, jnp.int32(action), words[t])
        chosen.append(action)
        reward = 0.0
        if len(chosen) == length:
            reward = 1.0 if chosen[0] == right else -1.0
        elif noisy and len(chosen) > 1:
            reward = 1.0 if bits(words[t], 21)[0] else -1.0
        total += reward
        ended = len(chosen) == length
        assert transition == (reward, 1.0 - ended, total)
        paid[ended, reward] += 1
        noise = bits(words[t], 0, 20)
        if ended:
            right, chosen, total = bits(words[t], 20)[0], [], 0.0
    assert paid[True, 1] and paid[True, -1]
    assert bool(paid[False, 1] and paid[False, -1]) == (noisy and length > 2)
    # All states that differ have numbers of their own.
    assert len({number for number, *_ in numbers}) == len(numbers) == 2 + 4 * (length - 1)


def test_what_is_drawn_is_fair_and_independent():
    params = chain.make_params(5, True)
    words = np.asarray(chain.draw(params, KEY, (20_000,)))
    drawn = np.array([bits(word, 0, 22) for word in words], float)
    np.testing.assert_allclose(drawn.mean(0), 0.5, atol=0.02)  # 5 deviations
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.eye(22), atol=0.04)
