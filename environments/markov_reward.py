"""The Markov reward process of ten states, whose odd states have rewards of noise only.

    s_0 -> s_1 -> ... -> s_9 -> end        r_i = 0.1 for even i, a draw of N(0, 1) for odd i

Nothing is chosen: an episode is its ten rewards.

References:
  Xu et al., "Meta-Gradient Reinforcement Learning", NeurIPS 2018.
  Bonnet et al., "One Step at a Time", 2021, appendix B.1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

NUM_STATES = 10
EVEN_REWARD = 0.1


def episodes(key: jax.Array, number: int) -> jax.Array:
    """The rewards of so many episodes: float32 [number, 10]."""
    noise = jax.random.normal(key, (number, NUM_STATES))
    even = jnp.arange(NUM_STATES) % 2 == 0
    return jnp.where(even, EVEN_REWARD, noise)


def true_values() -> np.ndarray:
    """Expected undiscounted sum of rewards from each state on: float32 [10]."""
    expected = np.where(np.arange(NUM_STATES) % 2 == 0, EVEN_REWARD, 0.0)
    return np.cumsum(expected[::-1])[::-1].astype(np.float32)
