"""What a person sees of a game, where an agent sees less: the game is played twice.

    the agent's   observations, such as small grey frames, or a vector
    the screen    whole and in colour, from the same seed, by the same actions

Atari's emulator shows its screen; a Gymnasium environment what it renders.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np

from bmg.environments import atari, base, factory, games, separate


class Screen:
    """Pictures of one episode, of an environment beside the one that an agent plays."""

    def __init__(
        self, environment: base.VectorEnvironment, look: Callable[[base.Step], np.ndarray]
    ):
        """Args: `environment` is the same one once more, of one; `look` gives uint8 [H, W, 3]."""
        self._environment, self._look = environment, look
        self.pictures: list[np.ndarray] = []  # before each action, and after the last one
        self.alike = True
        """Whether each step brought the same in both, and could be drawn."""

    def reset(self) -> None:
        """Begins as the agent's does."""
        self._see(self._environment.reset())

    def follow(self, actions: np.ndarray, step: base.Step) -> None:
        """Takes a step, by what the agent's environment was told.

        Args:
          actions: int [1].
          step: what it brought there.
        """
        if not self.alike:
            return
        try:
            own = self._environment.step(actions)
        except ValueError:  # it fails where it has to draw
            self.alike = False
        else:
            self.alike = own.reward[0] == step.reward[0] and own.first[0] == step.first[0]
            self._see(own)

    def close(self) -> None:
        """Ends the environment."""
        self._environment.close()

    def _see(self, step: base.Step) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                picture = np.array(self._look(step))
        except Exception:  # noqa: BLE001 there is no end to what drawing may raise
            self.alike = False
            return
        self.alike &= picture.dtype == np.uint8 and picture.shape[2:] == (3,)
        self.pictures.append(picture)


def make_screen(
    game: str, seed: int, worker_index: int, config: atari.AtariConfig, options: str
) -> Screen | None:
    """Beside `factory.make(game, 1, ...)`; None where there is no more to see than agents see.

    Args:
      game: its name.
      seed: of the run.
      worker_index: of the worker.
      config: how Atari is played.
      options: JSON object, as of `factory.make`.
    """
    kind = games.kind_of(game)
    if kind == "atari":
        whole = dataclasses.replace(config, height=210, width=160, grayscale=False)
        if whole == config:
            return None
        environment = factory.make(game, 1, seed, worker_index, whole, num_threads=1)
        return Screen(environment, lambda step: step.frame[0])
    if kind not in ("gymnasium", "own"):
        return None
    seeds = base.spaced_seeds(seed, worker_index, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of environments that cannot render
        try:
            drawn = factory.make_drawn(game, int(seeds[0]), options)
        except ValueError:
            return None
    if drawn is None:
        return None
    environment = separate.SeparateEnvironments([separate.wrap(drawn, game)], seeds)
    return Screen(environment, lambda step: drawn.render())
