"""An environment of your own in one file. Run in this folder, it is solved in half a minute:

bmg train --game corridor:make --game-options '{"length": 12}' --frames 100000
"""

import gymnasium
import numpy as np


class Corridor(gymnasium.Env):
    """Walk to the right end: 1 there, -0.01 for each step."""

    def __init__(self, length):
        self.length = length
        self.action_space = gymnasium.spaces.Discrete(2)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(self.length // 2))
        return self._observe(), {}

    def step(self, action):
        self.place = max(self.place + (1 if action == 1 else -1), 0)
        arrived = self.place == self.length
        return self._observe(), 1.0 if arrived else -0.01, arrived, False, {}

    def _observe(self):
        return np.array([self.place / self.length, 1.0], np.float32)


def make(length=8):
    return gymnasium.wrappers.TimeLimit(Corridor(length), max_episode_steps=100)
