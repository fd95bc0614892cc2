"""In-graph environments as a vector, for actors: each step is a compiled program on the CPU."""

from __future__ import annotations

import functools

import jax
import numpy as np

from bmg.environments import base
from bmg.environments.in_graph import World

_DRAWN = 256  # steps whose random numbers are made at once


class CompiledEnvironments:
    """N of them; see `base.VectorEnvironment`."""

    def __init__(self, world: World, seeds: np.ndarray):
        """Args: `seeds` are integers [N]; what happens in one environment follows from its own."""
        self.spec, self.num_envs = world.spec, len(seeds)
        self._device = jax.local_devices(backend="cpu")[0]
        self._keys = np.stack([_key(seed) for seed in seeds])
        self._state, self._drawn = None, 0
        try:
            functions = _compiled(world)
        except TypeError:  # its parameters are arrays, which have no hash
            functions = _compiled.__wrapped__(world)
        self._begin, self._draw, self._step = functions

    def reset(self) -> base.Step:
        """See `base.VectorEnvironment`."""
        with jax.default_device(self._device):
            self._state, self._keys, frame = self._begin(self._keys)
        self._drawn = 0
        return base.first_step(np.array(frame))

    def step(self, actions: np.ndarray) -> base.Step:
        """See `base.VectorEnvironment`."""
        if self._state is None:
            raise RuntimeError("step() before reset(): call reset() first")
        actions = base.check_actions(actions, self.num_envs, self.spec.num_actions)
        with jax.default_device(self._device):
            if self._drawn % _DRAWN == 0:
                self._keys, self._random = self._draw(self._keys)
            index = np.int32(self._drawn % _DRAWN)
            self._state, *found = self._step(self._state, actions, self._random, index)
        self._drawn += 1
        frame, reward, discount, episode_return = map(np.array, found)
        over = discount == 0
        returns = np.where(over, episode_return, np.nan).astype(np.float32)
        return base.Step(frame, reward, discount, over, returns)

    def close(self) -> None:
        """See `base.VectorEnvironment`; there is nothing to free."""


def _key(seed: int) -> np.ndarray:
    """`jax.random.PRNGKey` of a seed, without a device."""
    return np.array([0, seed], np.uint32)


@functools.lru_cache(maxsize=8)
def _compiled(world: World):
    """Of N environments: keys -> (states, keys, frames); keys -> (keys, draws of many steps);
    (states, actions, draws, which of them) -> (states, frames, rewards, discounts, returns)."""

    def begin(keys):
        keys, own = _split(keys)
        state = jax.vmap(world.reset)(own)
        return state, keys, jax.vmap(world.frame)(state)

    def draw(keys):
        keys, own = _split(keys)
        return keys, jax.vmap(lambda key: world.draw(key, (_DRAWN,)))(own)

    def step(state, actions, random, index):
        random = jax.tree.map(lambda x: x[:, index], random)
        state, found = jax.vmap(world.step)(state, actions, random)
        frame = jax.vmap(world.frame)(state)
        return state, frame, found.reward, found.discount, found.episode_return

    def _split(keys):
        pairs = jax.vmap(jax.random.split)(keys)
        return pairs[:, 0], pairs[:, 1]

    return jax.jit(begin), jax.jit(draw), jax.jit(step)
