"""The corridor as pure functions: it can be part of a compiled program. Run in this folder:

bmg train --game compiled_corridor:make --runtime in-graph --seeds 4 --frames 200000
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmg.environments.in_graph import GameTransition, World, begun_anew

NUM_ACTIONS = 2
OBSERVATION_SHAPE = (2,)


class State(NamedTuple):
    place: jax.Array
    total: jax.Array  # rewards of the episode


def reset(length, key):
    return State(jax.random.randint(key, (), 0, length // 2), jnp.float32(0.0))


def draw(length, key, shape):
    return jax.random.split(key, shape)  # what a step draws: a key for the next episode


def step(length, state, action, key):
    place = jnp.maximum(state.place + jnp.where(action == 1, 1, -1), 0)
    arrived = place == length
    after = State(place, state.total + jnp.where(arrived, 1.0, -0.01))
    found = GameTransition(after.total - state.total, 1.0 - arrived, after.total)
    return begun_anew(arrived, reset(length, key), after), found


def observe(length, state):
    return jnp.array([state.place / length, 1.0])


def make(length=8):
    return World(sys.modules[__name__], length)
