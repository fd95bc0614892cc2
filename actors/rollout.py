"""Acting in a vector of environments and cutting what happens into unrolls.

One unroll of T transitions per environment, T = 3 and S = 2 drawn here; all environments are in
lockstep, and consecutive unrolls share S frames (the leading ones and the first):

    agent step    0     1     2     3     4     5     6
    frames     -1 0     1     2     3     4     5     6
    unroll 1   [ f-1 | f0    f1    f2    f3 ]
    unroll 2                     [ f2 |  f3    f4    f5    f6 ]
    actions          a0    a1    a2 |    a3    a4    a5 |

The transition t is (stack at t, a_t, r_{t+1}, discount_{t+1}). Where an episode ends, the next
frame is already the next episode's first one (age 0): there is no transition between episodes,
except for the reset steps after time limits (`environments.base`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from bmg.actors.inference import Actions, Request
from bmg.agents.agent import Spec
from bmg.agents.trajectory import Trajectory
from bmg.environments.base import EnvironmentSpec, Step, VectorEnvironment


class FrameStack:
    """The last S frames of each of N environments, black where the episode is younger.

    For those who act without keeping unrolls.
    """

    def __init__(self, num_envs: int, spec: EnvironmentSpec):
        *shape, self._channels = spec.frame_shape
        stacked = (num_envs, *shape, spec.num_stack * self._channels)
        self.stack = np.zeros(stacked, spec.dtype)  # [N, ..., S * C], oldest first

    def push(self, step: Step) -> None:
        """Appends the newest frames; the stacks of new episodes start black."""
        c = self._channels
        self.stack[..., :-c] = self.stack[..., c:]
        self.stack[step.first] = 0
        self.stack[..., -c:] = step.frame


class Rollout:
    """Acts in N environments and yields unrolls.

    They may come in parts: while one part waits for its actions, another one steps.
    """

    def __init__(
        self,
        environments: Sequence[VectorEnvironment],
        ask: Callable[[Request], Callable[[], Actions]],
        unroll_length: int,
        key: jax.Array,
    ):
        """Resets the environments.

        Args:
          environments: N in all, in parts of the same kind.
          ask: for actions, see `inference.Inference.ask`.
          unroll_length: T.
          key: random key of the actions.
        """
        self._spec = environments[0].spec
        self._length = unroll_length
        self._ask = ask
        ends = np.cumsum([environment.num_envs for environment in environments])
        self._parts = [
            (environment, slice(end - environment.num_envs, end))
            for environment, end in zip(environments, ends)
        ]
        num_envs, stack = int(ends[-1]), self._spec.num_stack
        self._stream = np.zeros((num_envs, 4), np.uint32)
        self._stream[:, :2] = np.asarray(key)
        self._stream[:, 3] = np.arange(num_envs)
        self._frames = np.zeros(
            (num_envs, stack + unroll_length, *self._spec.frame_shape), self._spec.dtype
        )
        self._age = np.zeros((num_envs, unroll_length + 1), np.int32)
        for environment, rows in self._parts:
            self._frames[rows, stack - 1] = environment.reset().frame
        self.seconds = {"environment": 0.0, "inference": 0.0}
        self.not_finite_rewards = 0
        """Rewards that were NaN or infinite so far; 0 took their places."""

    def collect(self, version: int, clock: Callable[[], float]) -> Trajectory:
        """Takes T steps in every environment.

        Args:
          version: learner updates behind the acting parameters.
          clock: seconds, for `self.seconds`.

        Returns:
          A trajectory with a leading axis [N] on each field, owned by the caller.
        """
        num_envs, length = len(self._age), self._length
        stack, frames, age = self._spec.num_stack, self._frames, self._age
        action = np.zeros((num_envs, length), np.int32)
        logits = np.zeros((num_envs, length, self._spec.num_actions), np.float32)
        reward, discount, returns = np.zeros((3, num_envs, length), np.float32)
        reset = np.zeros((num_envs, length), bool)
        answers = [self._request(rows, 0) for _, rows in self._parts]
        for t in range(length):
            for part, (environment, rows) in enumerate(self._parts):
                start = clock()
                action[rows, t], logits[rows, t] = answers[part]()
                middle = clock()
                step = environment.step(action[rows, t])
                frames[rows, stack + t] = step.frame
                age[rows, t + 1] = np.where(step.first, 0, np.minimum(age[rows, t] + 1, stack - 1))
                discount[rows, t] = step.discount
                reward[rows, t], returns[rows, t] = self._finite(step)
                reset[rows, t] = False if step.reset is None else step.reset
                stepped = clock()
                if t + 1 < length:
                    answers[part] = self._request(rows, t + 1)
                self.seconds["environment"] += stepped - middle
                self.seconds["inference"] += middle - start + clock() - stepped
        self._stream[:, 2] += length
        trajectory = Trajectory(
            frames=frames.copy(),
            age=age.copy(),
            action=action,
            reward=reward,
            discount=discount,
            reset=reset,
            behaviour_logits=logits,
            episode_return=returns,
            parameter_version=np.full(num_envs, version, np.int32),
        )
        frames[:, :stack] = frames[:, length:]
        age[:, 0] = age[:, length]
        return trajectory

    def _request(self, rows: slice, t: int) -> Callable[[], Actions]:
        """Asks for the actions of some environments at step t of the unroll."""
        stream = self._stream[rows].copy()
        stream[:, 2] += t
        frames = self._frames[rows, t : t + self._spec.num_stack]
        return self._ask(Request(frames, self._age[rows, t], stream))

    def _finite(self, step: Step) -> tuple[np.ndarray, np.ndarray]:
        """Its rewards, 0 where they are not finite, and the returns of episodes that ended; one
        that is not finite counts for none."""
        finite = np.isfinite(step.reward)
        self.not_finite_rewards += int((~finite).sum())
        returns = np.where(np.isfinite(step.episode_return), step.episode_return, np.nan)
        return np.where(finite, step.reward, 0.0), returns


def trajectory_signature(spec: EnvironmentSpec, unroll_length: int) -> Trajectory:
    """Shapes and dtypes of one unroll of one environment."""
    length, stack = unroll_length, spec.num_stack
    return Trajectory(
        frames=jax.ShapeDtypeStruct((stack + length, *spec.frame_shape), np.dtype(spec.dtype)),
        age=jax.ShapeDtypeStruct((length + 1,), np.int32),
        action=jax.ShapeDtypeStruct((length,), np.int32),
        reward=jax.ShapeDtypeStruct((length,), np.float32),
        discount=jax.ShapeDtypeStruct((length,), np.float32),
        reset=jax.ShapeDtypeStruct((length,), np.bool_),
        behaviour_logits=jax.ShapeDtypeStruct((length, spec.num_actions), np.float32),
        episode_return=jax.ShapeDtypeStruct((length,), np.float32),
        parameter_version=jax.ShapeDtypeStruct((), np.int32),
    )


def agent_spec(spec: EnvironmentSpec) -> Spec:
    """What an agent of that environment is made for."""
    *shape, channels = spec.frame_shape
    return Spec((*shape, spec.num_stack * channels), spec.num_actions)
