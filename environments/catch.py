"""Catch: a ball falls, a paddle on the bottom row has to be under it. A task learned in seconds.

The rules are bsuite's (Osband et al., 2020, "Behaviour Suite for Reinforcement Learning", Catch):

    . . . o .     The ball starts in the top row, in a uniformly random column, and falls one row a
    . . . . .     step. The paddle starts in the middle and moves by -1, 0 or +1 (actions 0, 1, 2),
    . . . . .     not past the walls. When the ball reaches the bottom row the episode ends with
    . . = . .     reward +1 if the paddle is there, else -1; every other reward is 0.

All episodes last rows - 1 steps, so all environments begin and end together. A board has up to 10
rows and 5 columns; a smaller one is in the observation's upper left. The same game inside of a
compiled program is `in_graph_catch`.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from bmg.environments import base
from bmg.storage.fields import Range, read

ROWS, COLUMNS = 10, 5  # bsuite's
ACTIONS = ("left", "stay", "right")
NUM_ACTIONS = len(ACTIONS)


def check_board(rows: int, columns: int) -> tuple[int, int]:
    """The two; refuses a board without room for the game, or that does not fit the observation.

    Raises:
        ValueError: one line.
    """
    rows = read(Annotated[int, Range(2, ROWS)], rows, "rows")
    return rows, read(Annotated[int, Range(1, COLUMNS)], columns, "columns")


class Catch:
    """N games of Catch; see `base.VectorEnvironment`.

    Frames are uint8 [N, 10, 5, 1], 255 at the ball and at the paddle, else 0.
    """

    def __init__(
        self, num_envs: int, seed: int | np.ndarray, rows: int = ROWS, columns: int = COLUMNS
    ):
        """Args: `seed` is an integer or an array of integers (such as `base.spaced_seeds`)."""
        self._rows, self._columns = check_board(rows, columns)
        self.num_envs = num_envs
        self.spec = base.EnvironmentSpec(
            frame_shape=(ROWS, COLUMNS, 1), num_actions=NUM_ACTIONS, num_stack=1, action_repeat=1
        )
        self._random = np.random.default_rng(seed)
        self._started = False

    def reset(self) -> base.Step:
        """See `base.VectorEnvironment`."""
        self._begin()
        self._started = True
        return base.first_step(self._frame())

    def step(self, actions: np.ndarray) -> base.Step:
        """See `base.VectorEnvironment`."""
        if not self._started:
            raise RuntimeError("step() before reset(): call reset() first")
        actions = base.check_actions(actions, self.num_envs, NUM_ACTIONS)
        self._paddle = np.clip(self._paddle + actions - 1, 0, self._columns - 1)
        self._ball_row += 1
        end = self._ball_row == self._rows - 1
        caught = self._paddle == self._ball_column
        reward = np.where(end, np.where(caught, 1, -1), 0).astype(np.float32)
        if end:
            self._begin()
        return base.Step(
            frame=self._frame(),
            reward=reward,
            discount=np.full(self.num_envs, 1 - end, np.float32),
            first=np.full(self.num_envs, end),
            # The only reward of an episode is its last.
            episode_return=np.where(end, reward, np.nan).astype(np.float32),
        )

    def close(self) -> None:
        """See `base.VectorEnvironment`; there is nothing to free."""

    def _begin(self) -> None:
        self._ball_row = 0
        self._ball_column = self._random.integers(self._columns, size=self.num_envs)
        self._paddle = np.full(self.num_envs, self._columns // 2)

    def _frame(self) -> np.ndarray:
        frame = np.zeros((self.num_envs, *self.spec.frame_shape), np.uint8)
        index = np.arange(self.num_envs)
        frame[index, self._ball_row, self._ball_column] = 255
        frame[index, self._rows - 1, self._paddle] = 255
        return frame
