"""Environments that are part of the compiled program: one protocol, pure functions without a batch.

The random numbers of a step are its argument, so that those of a rollout can be drawn at once:

    random = world.draw(params, key, (T,))
    def act(state, random):
        action = policy(world.observe(params, state))
        state, transition = world.step(params, state, action, random)
        return state, (action, transition)
    jax.lax.scan(act, world.reset(params, reset_key), random)

Variants of an environment differ in their parameters, a NamedTuple of arrays: `jax.vmap` over
stacked ones runs many variants in one program. Sizes are padded: arrays have the largest
variant's shape. Parameters that are constants of the program cost nothing there.

The modules `two_colors`, `snake`, `markov_reward`, `grid`, `chain`, `in_graph_catch` and the games
of `minatar` are such environments.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bmg.environments.base import EnvironmentSpec

PyTree = Any


class Transition(NamedTuple):
    """What one step brings; a game's is a `GameTransition`."""

    reward: jax.Array  # float32 [], r_t
    discount: jax.Array  # float32 [], 0 where the episode ended, else 1


class GameTransition(NamedTuple):
    """What one step of a game brings that `bmg train` plays."""

    reward: jax.Array  # float32 []
    discount: jax.Array  # float32 [], 0 where the episode ended, else 1
    episode_return: jax.Array  # float32 [], of the episode up to and with this step


class Environment(Protocol):
    """An in-graph environment; a module is one."""

    NUM_ACTIONS: int
    OBSERVATION_SHAPE: tuple[int, ...]

    def reset(self, params: PyTree, key: jax.Array) -> PyTree:
        """The state at the beginning."""

    def draw(self, params: PyTree, key: jax.Array, shape: tuple[int, ...]) -> PyTree:
        """Random numbers of so many steps: arrays [*shape, ...]."""

    def step(
        self, params: PyTree, state: PyTree, action: jax.Array, random: PyTree
    ) -> tuple[PyTree, Transition]:
        """One step; after an episode's last one the state is the next one's first.

        Args:
          params: of the environment.
          state: before the step.
          action: int32 [], below `NUM_ACTIONS`.
          random: one element of what `draw` gives.
        """

    def observe(self, params: PyTree, state: PyTree) -> jax.Array:
        """What the agent sees: float32 or bool of `OBSERVATION_SHAPE`."""


def begun_anew(ended: jax.Array, anew: PyTree, after: PyTree) -> PyTree:
    """A state after a step: the next episode's first one where the last one ended, bool []."""
    return jax.tree.map(lambda new, old: jnp.where(ended, new, old), anew, after)


class World(NamedTuple):
    """A game with its parameters, as constants of the program."""

    environment: Any  # an `Environment`
    params: PyTree

    def reset(self, key: jax.Array) -> PyTree:
        """The state at the beginning."""
        return self.environment.reset(self.params, key)

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> PyTree:
        """Random numbers of so many steps: arrays [*shape, ...]."""
        return self.environment.draw(self.params, key, shape)

    def step(
        self, state: PyTree, action: jax.Array, random: PyTree
    ) -> tuple[PyTree, GameTransition]:
        """One step."""
        return self.environment.step(self.params, state, action, random)

    def frame(self, state: PyTree) -> jax.Array:
        """What the agent sees, as actors store it: planes of bool are pixels of 0 and 255."""
        observation = self.environment.observe(self.params, state)
        if observation.dtype == bool:
            return 255 * observation.astype(jnp.uint8)
        return observation

    @property
    def spec(self) -> EnvironmentSpec:
        """Shapes of the vector environment that it makes."""
        frame = jax.eval_shape(
            lambda key: self.frame(self.reset(key)), jax.ShapeDtypeStruct((2,), np.uint32)
        )
        return EnvironmentSpec(frame.shape, self.environment.NUM_ACTIONS, dtype=frame.dtype.name)
