"""Environments of Gymnasium or dm_env, one object each, as a vector.

Frames, action repeat and stacking are what the environment itself makes of them: a frame is what it
observes, an environment frame one call of its `step`. A time limit (Gymnasium's `truncated`, in
dm_env a last step whose discount is above 0) cuts an episode that could have gone on; see `base`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from bmg.environments import base, checked
from bmg.environments.checked import short


class Outcome(NamedTuple):
    """What one step of one environment brings."""

    observation: Any
    reward: float
    terminated: bool  # the game is over
    truncated: bool  # a time limit cut it


class Separate(Protocol):
    """One environment."""

    name: str  # for messages
    spec: base.EnvironmentSpec

    def reset(self, seed: int | None) -> Any:
        """The first observation of an episode; a seed before the first one."""
        ...

    def step(self, action: int) -> Outcome:
        """One step."""
        ...

    def close(self) -> None:
        """Frees it."""
        ...


class SeparateEnvironments:
    """N such environments, stepped one after the other; see `base.VectorEnvironment`."""

    def __init__(self, environments: Sequence[Separate], seeds: np.ndarray):
        """Args: `environments` are N of the same kind; `seeds` are integers [N]."""
        self.spec, self.num_envs = environments[0].spec, len(environments)
        self._environments = environments
        self._seeds: list[int | None] = [int(seed) for seed in seeds]
        self._returns: np.ndarray | None = None  # [N] of the running episodes
        self._cut = np.zeros(self.num_envs, bool)  # by a time limit, with the step before

    def reset(self) -> base.Step:
        """See `base.VectorEnvironment`."""
        self._returns = np.zeros(self.num_envs)
        self._cut[:] = False
        return base.first_step(np.stack([self._begin(n) for n in range(self.num_envs)]))

    def step(self, actions: np.ndarray) -> base.Step:
        """See `base.VectorEnvironment`."""
        if self._returns is None:
            raise RuntimeError("step() before reset(): call reset() first")
        actions = base.check_actions(actions, self.num_envs, self.spec.num_actions)
        frame = np.empty((self.num_envs, *self.spec.frame_shape), self.spec.dtype)
        reward = np.zeros(self.num_envs, np.float32)
        reset, over = self._cut.copy(), self._cut.copy()
        for n, environment in enumerate(self._environments):
            if not reset[n]:
                outcome = checked.call(environment.name, environment, "step", int(actions[n]))
                reward[n] = given = checked.rewards(environment.name, outcome.reward)
                self._returns[n] += given
                over[n] = outcome.terminated
                self._cut[n] = outcome.truncated and not outcome.terminated
                if not over[n]:
                    frame[n] = self._frame(environment, outcome.observation)
            if over[n]:
                frame[n] = self._begin(n)
        self._cut &= ~reset
        episode_return = np.where(over, self._returns, np.nan).astype(np.float32)
        self._returns[over] = 0
        return base.Step(
            frame, reward, 1 - over.astype(np.float32), over, episode_return, reset=reset
        )

    def close(self) -> None:
        """See `base.VectorEnvironment`."""
        for environment in self._environments:
            checked.call(environment.name, environment, "close")

    def _begin(self, n: int) -> np.ndarray:
        seed, self._seeds[n] = self._seeds[n], None
        environment = self._environments[n]
        return self._frame(environment, checked.call(environment.name, environment, "reset", seed))

    def _frame(self, environment: Separate, observation: Any) -> np.ndarray:
        return checked.frames(environment.name, observation, self.spec)


def wrap(environment: Any, name: str) -> Separate:
    """A Gymnasium or a dm_env environment.

    Raises:
      ValueError: it is neither, or its actions or observations do not fit; one line.
    """
    if hasattr(environment, "observation_space") and hasattr(environment, "action_space"):
        return _Gymnasium(environment, name)
    if hasattr(environment, "observation_spec") and hasattr(environment, "action_spec"):
        return _DmEnv(environment, name)
    raise ValueError(
        f"{name} gives a {type(environment).__name__}; give an environment of Gymnasium or dm_env, "
        "or a vector of them as bmg/environments/base.py describes it."
    )


class _Gymnasium:
    """Of Gymnasium's interface."""

    def __init__(self, environment: Any, name: str):
        self.name, self._environment = name, environment
        actions, observations = environment.action_space, environment.observation_space
        if not hasattr(actions, "n") or np.ndim(actions.n):
            raise _wrong_actions(name, actions)
        if type(observations).__name__ != "Box":
            raise _wrong_observations(name, observations)
        self._first = int(getattr(actions, "start", 0))
        self.spec = _make_spec(name, int(actions.n), observations.shape, observations.dtype)

    def reset(self, seed: int | None) -> Any:
        observation, _ = self._environment.reset(seed=seed)
        return observation

    def step(self, action: int) -> Outcome:
        observation, reward, terminated, truncated, _ = self._environment.step(self._first + action)
        return Outcome(observation, reward, bool(terminated), bool(truncated))

    def close(self) -> None:
        self._environment.close()


class _DmEnv:
    """Of dm_env's interface, which knows no seeds: whoever makes the environment seeds it."""

    def __init__(self, environment: Any, name: str):
        self.name, self._environment = name, environment
        actions, observations = environment.action_spec(), environment.observation_spec()
        number = getattr(actions, "num_values", None)
        if number is None:
            raise _wrong_actions(name, actions)
        if not hasattr(observations, "shape"):
            raise _wrong_observations(name, observations)
        self.spec = _make_spec(name, int(number), observations.shape, observations.dtype)

    def reset(self, seed: int | None) -> Any:
        del seed
        return self._environment.reset().observation

    def step(self, action: int) -> Outcome:
        timestep = self._environment.step(action)
        over = timestep.last() and not timestep.discount
        return Outcome(timestep.observation, timestep.reward, over, timestep.last() and not over)

    def close(self) -> None:
        self._environment.close()


def _make_spec(name: str, num_actions: int, shape: Sequence[int], dtype: Any):
    shape = tuple(map(int, shape))
    if len(shape) == 2:
        shape = (*shape, 1)  # an image without channels
    if len(shape) not in (1, 3) or not np.prod(shape) or np.dtype(dtype).kind not in "buif":
        raise _wrong_observations(name, f"{np.dtype(dtype)}{list(shape)}")
    stored = "uint8" if np.dtype(dtype) == np.uint8 else "float32"
    return base.EnvironmentSpec(shape, num_actions, dtype=stored)


def _wrong_actions(name: str, found: Any) -> ValueError:
    return ValueError(
        f"{name} has actions {short(found)}; allowed are discrete ones; wrap it so that it has."
    )


def _wrong_observations(name: str, found: Any) -> ValueError:
    return ValueError(
        f"{name} has observations {short(found)}; allowed is one array, an image [H, W, C] or a "
        "vector; wrap it, as with gymnasium.wrappers.FlattenObservation."
    )
