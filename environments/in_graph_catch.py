"""Catch in the compiled program: the game of `catch`, which has the rules.

It keeps the protocol of `in_graph`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmg.environments import catch
from bmg.environments.in_graph import GameTransition, begun_anew

ACTIONS, NUM_ACTIONS = catch.ACTIONS, catch.NUM_ACTIONS
OBSERVATION_SHAPE = (catch.ROWS, catch.COLUMNS, 1)


class Params(NamedTuple):
    """A variant."""

    rows: jax.Array  # int32 []
    columns: jax.Array  # int32 []


def make_params(rows: int = catch.ROWS, columns: int = catch.COLUMNS) -> Params:
    """bsuite's board, or a smaller one.

    Raises:
      ValueError: it has no room for the game, or does not fit into the observation; one line.
    """
    rows, columns = catch.check_board(rows, columns)
    return Params(np.int32(rows), np.int32(columns))


class State(NamedTuple):
    """Where everything is."""

    row: jax.Array  # int32 [], the ball's
    column: jax.Array  # int32 []
    paddle: jax.Array  # int32 [], its column


def _begin(params: Params, draw: jax.Array) -> State:
    """The state at the beginning of an episode, from a uniform draw."""
    # Rounding may reach the end of the range for draws next to 1.
    column = jnp.minimum((draw * params.columns).astype(jnp.int32), params.columns - 1)
    return State(jnp.int32(0), column, params.columns // 2)


def reset(params: Params, key: jax.Array) -> State:
    """The first episode's beginning."""
    return _begin(params, jax.random.uniform(key))


def draw(params: Params, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random numbers of so many steps, for the balls' columns: float32 [*shape] in [0, 1)."""
    del params
    return jax.random.uniform(key, shape)


def step(
    params: Params, state: State, action: jax.Array, random: jax.Array
) -> tuple[State, GameTransition]:
    """One move of paddle and ball; see `in_graph.Environment`."""
    paddle = jnp.clip(state.paddle + action.astype(jnp.int32) - 1, 0, params.columns - 1)
    row = state.row + 1
    ended = row == params.rows - 1
    reward = jnp.where(ended, jnp.where(paddle == state.column, 1, -1), 0).astype(jnp.float32)
    after = State(row, state.column, paddle)
    anew = _begin(params, random)
    after = begun_anew(ended, anew, after)
    # The only reward of an episode is its last.
    return after, GameTransition(reward, 1.0 - ended.astype(jnp.float32), reward)


def observe(params: Params, state: State) -> jax.Array:
    """bool [10, 5, 1], where the ball and the paddle are."""
    rows, columns = jnp.arange(catch.ROWS)[:, None], jnp.arange(catch.COLUMNS)
    ball = (rows == state.row) & (columns == state.column)
    paddle = (rows == params.rows - 1) & (columns == state.paddle)
    return (ball | paddle)[..., None]
