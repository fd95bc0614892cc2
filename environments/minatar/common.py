"""What MinAtar's games share: parameters, sticky actions, the end of an episode, planes."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bmg.environments.in_graph import GameTransition, begun_anew
from bmg.storage.fields import Share, read

SIZE = 10  # cells along an edge

PyTree = Any
State = TypeVar("State")


class Params(NamedTuple):
    """A variant of any game."""

    sticky: jax.Array  # float32 [], probability that a step repeats the last action instead
    ramping: jax.Array  # bool [], whether the difficulty rises; Breakout's and Freeway's never does


def make_params(sticky: float = 0.1, ramping: bool = True) -> Params:
    """MinAtar's own settings, or others.

    Raises:
      ValueError: `sticky` is no probability, or `ramping` is not true or false; one line.
    """
    sticky, ramping = read(Share, sticky, "sticky"), read(bool, ramping, "ramping")
    return Params(np.float32(sticky), np.bool_(ramping))


def executed(params: Params, state: PyTree, action: jax.Array, draw: jax.Array) -> jax.Array:
    """The action that is executed, int32 []: the one before with probability `params.sticky`.

    `draw` is uniform in [0, 1). The one before is the executed one, at first none (0), and may be
    that of an episode which has ended.
    """
    return jnp.where(draw < params.sticky, state.last_action, action.astype(jnp.int32))


def towards(action: jax.Array, back: int, forth: int) -> jax.Array:
    """A move along an axis, int32 []: 1 by action `forth`, -1 by `back`, else 0."""
    return (action == forth).astype(jnp.int32) - (action == back)


def transition(
    after: State, anew: State, reward: jax.Array, ended: jax.Array
) -> tuple[State, GameTransition]:
    """What `step` returns.

    Args:
      after: the state after the step, with the episode's return before it.
      anew: the next episode's first state.
      reward: of any type [].
      ended: bool [].
    """
    reward = reward.astype(jnp.float32)
    episode_return = after.episode_return + reward
    after = after._replace(episode_return=episode_return)
    anew = anew._replace(last_action=after.last_action)
    after = begun_anew(ended, anew, after)
    return after, GameTransition(reward, 1.0 - ended.astype(jnp.float32), episode_return)


def line(place: jax.Array) -> jax.Array:
    """[..., 10], true at `place` of [...] alone: nowhere if it is outside."""
    return place[..., None] == jnp.arange(SIZE)


def cell(row: jax.Array, column: jax.Array) -> jax.Array:
    """A plane [10, 10], true at one cell alone: nowhere if it is outside."""
    return line(row)[:, None] & line(column)


def picture(*planes: jax.Array) -> jax.Array:
    """Planes [10, 10] as an observation: bool [10, 10, planes]."""
    return jnp.stack(planes, axis=-1).astype(bool)


def integer(draw: jax.Array, below: jax.Array | int) -> jax.Array:
    """A uniform draw in [0, 1) as an integer below a number: int32 of its shape."""
    # Rounding may reach the end of the range for draws next to 1.
    return jnp.minimum((draw * below).astype(jnp.int32), below - 1)
