"""Which step sizes the agents of a world begin with: those that brought the most so far (Eq. 6).

    p(arm)  ~  exp((R(arm) + rho / sqrt(N(arm))) / tau)

R is the mean of an arm's last ten final returns, N how many there were. Not stated in the paper: R
is scaled to [0, 1] over the arms of a world, since tau is the same for all worlds; an arm that was
never drawn counts as the best, with N = 1.

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020, appendix B.1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

_MEMORY = 10


class Bandit(NamedTuple):
    """Of W worlds with A arms each."""

    returns: jax.Array  # float32 [W, A, 10], the last final returns, the oldest one overwritten
    counts: jax.Array  # int32 [W, A], lifetimes so far


def init(worlds: int, arms: int) -> Bandit:
    """No lifetime has ended yet."""
    return Bandit(jnp.zeros((worlds, arms, _MEMORY)), jnp.zeros((worlds, arms), jnp.int32))


def logits(bandit: Bandit, temperature: float, exploration: float) -> jax.Array:
    """Of the arms of each world: [W, A]."""
    known = jnp.minimum(bandit.counts, _MEMORY)
    mask = jnp.arange(_MEMORY) < known[..., None]
    mean = jnp.sum(jnp.where(mask, bandit.returns, 0.0), -1) / jnp.maximum(known, 1)
    tried = known > 0
    best = jnp.max(jnp.where(tried, mean, -jnp.inf), axis=1, keepdims=True)
    worst = jnp.min(jnp.where(tried, mean, jnp.inf), axis=1, keepdims=True)
    span = jnp.where(best > worst, best - worst, 1.0)
    scaled = jnp.where(tried, (mean - worst) / span, 1.0)
    bonus = exploration / jnp.sqrt(jnp.maximum(bandit.counts, 1))
    return (scaled + bonus) / temperature


def told(bandit: Bandit, world: jax.Array, arm: jax.Array, final: jax.Array, counts: jax.Array):
    """After lifetimes, one after the other.

    Args:
      bandit: before.
      world: int32 [N], of each lifetime.
      arm: int32 [N].
      final: float32 [N], final returns.
      counts: bool [N], whether a lifetime has ended and counts.
    """

    def one(bandit: Bandit, lifetime):
        world, arm, final, counts = lifetime
        counts &= jnp.isfinite(final)
        place = bandit.counts[world, arm] % _MEMORY
        kept = bandit.returns[world, arm, place]
        returns = bandit.returns.at[world, arm, place].set(jnp.where(counts, final, kept))
        return Bandit(returns, bandit.counts.at[world, arm].add(counts.astype(jnp.int32))), None

    return jax.lax.scan(one, bandit, (world, arm, final, counts))[0]
