"""What environments of Gymnasium, dm_env and a user's own give, checked wherever it comes in."""

from __future__ import annotations

from typing import Any

import numpy as np

from bmg.environments import base
from bmg.storage.modules import failing_as

_LARGEST = np.finfo(np.float32).max


def call(game: str, environment: Any, method: str, *arguments: Any) -> Any:
    """Calls a method of an environment.

    Raises:
      ValueError: whatever it raises, with the game's name; one line.
    """
    with failing_as(f"{game} fails in {method}"):
        return getattr(environment, method)(*arguments)


def frames(
    game: str, observation: Any, spec: base.EnvironmentSpec, leading: tuple[int, ...] = ()
) -> np.ndarray:
    """An observation as the frame that was declared; an image of one channel may lack that axis.

    Args:
      game: its name.
      observation: of one environment, or of [*leading] ones.
      spec: what was declared.
      leading: axes before those of a frame.

    Returns:
      [*leading, *spec.frame_shape] of the declared dtype.

    Raises:
      ValueError: it is another array, or has a NaN or an infinity; one line.
    """
    found, shape = _array(observation), (*leading, *spec.frame_shape)
    flat_image = len(spec.frame_shape) == 3 and shape[-1] == 1 and found.shape == shape[:-1]
    fits = found.shape == shape or flat_image
    if not fits or not np.can_cast(found.dtype, spec.dtype, "same_kind"):
        raise ValueError(
            f"{game} observes {_kind(found)}, and declared {spec.dtype}{list(shape)}; make it "
            "observe what it declared."
        )
    with np.errstate(over="ignore"):
        frame = found.astype(spec.dtype, copy=False).reshape(shape)
    if frame.dtype.kind == "f" and not np.isfinite(frame).all():
        raise ValueError(f"{game} observes NaN or infinity; allowed are finite numbers.")
    return frame


def rewards(game: str, given: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Rewards [*shape], of whatever numbers they came in.

    Raises:
      ValueError: they are not as many numbers, finite as float32; one line.
    """
    found = _array(given)
    if found.dtype.kind not in "buif" or found.size != np.prod(shape):
        what = _kind(found) if found.shape else repr(given)
        allowed = f"numbers {list(shape)}" if shape else "one number"
        raise ValueError(f"{game} gives the reward {short(what)}; allowed is {allowed}.")
    finite = np.abs(found) <= _LARGEST
    if not finite.all():
        raise ValueError(
            f"{game} gives the reward {found[~finite][0]}; allowed are finite numbers."
        )
    return found.reshape(shape)


def short(found: Any) -> str:
    """What was found, in one line that is not endless."""
    text = " ".join(str(found).split())
    return text if len(text) <= 80 else f"{text[:80]}..."


class CheckedVector:
    """A user's vector; see `base.VectorEnvironment`."""

    def __init__(self, vector: base.VectorEnvironment, game: str):
        """Args: `game` is its name."""
        self.spec, self.num_envs = vector.spec, vector.num_envs
        self._vector, self._game = vector, game

    def reset(self) -> base.Step:
        """See `base.VectorEnvironment`."""
        return self._checked(call(self._game, self._vector, "reset"))

    def step(self, actions: np.ndarray) -> base.Step:
        """See `base.VectorEnvironment`."""
        actions = base.check_actions(actions, self.num_envs, self.spec.num_actions)
        return self._checked(call(self._game, self._vector, "step", actions))

    def close(self) -> None:
        """See `base.VectorEnvironment`."""
        call(self._game, self._vector, "close")

    def _checked(self, step: base.Step) -> base.Step:
        """Raises ValueError: it is not what `base` describes; one line."""
        if not isinstance(step, base.Step):
            raise ValueError(
                f"{self._game} gives a {type(step).__name__} for a step; give a "
                "bmg.environments.base.Step."
            )
        several = (self.num_envs,)
        for name in ("discount", "first", "episode_return", "reset"):
            value = getattr(step, name)
            if np.shape(value) != several and (name, value) != ("reset", None):
                raise ValueError(
                    f"{self._game} gives {name} of shape {list(np.shape(value))}; allowed is "
                    f"{list(several)}."
                )
        return step._replace(
            frame=frames(self._game, step.frame, self.spec, several),
            reward=rewards(self._game, step.reward, several).astype(np.float32),
        )


def _array(given: Any) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError:  # parts of several shapes
        return np.empty((), object)


def _kind(found: np.ndarray) -> str:
    return f"{found.dtype}{list(found.shape)}"
