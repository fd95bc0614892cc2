"""Who chooses the actions: each actor with parameters of its own, or one batch for many threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np

from actors.parameters import Parameters
from agents.messages import VersionedParameters
from agents.trajectory import stack_frames

Actions = tuple[np.ndarray, np.ndarray]  # int32 [N], and the policy's logits float32 [N, A]


class Inference(Protocol):
    """What an actor asks."""

    def latest(self, should_stop: Callable[[], bool]) -> VersionedParameters | None:
        """The newest parameters, which later calls of `act` use; None when asked to stop."""
        ...

    def act(self, frames: np.ndarray, age: np.ndarray) -> Actions:
        """Chooses actions.

        Args:
          frames: uint8 [N, S, H, W, C], the newest S single frames of each environment.
          age: int32 [N], frames since the episode's first one.
        """
        ...


def _acting_step(act: Callable) -> Callable:
    """Compiles (params, frames, age, key) -> (actions, logits, next key)."""

    def step(params, frames, age, key):
        # Stacked as the learner does it, and where it is fast: not by copies on the host.
        observation = jax.vmap(stack_frames)(frames, age[:, None])[:, 0]
        key, subkey = jax.random.split(key)
        return *act(params, observation, subkey), key

    return jax.jit(step)


class LocalInference:
    """Acts for one actor, with the same parameters for a whole unroll."""

    def __init__(self, act: Callable, parameters: Parameters, key: jax.Array):
        """Compiles nothing yet.

        Args:
          act: (params, uint8 [N, H, W, S * C], key) -> (actions int32 [N], logits [N, A]).
          parameters: where they come from.
          key: random key of the actions.
        """
        self._act, self._parameters, self._key = _acting_step(act), parameters, key
        self._latest: VersionedParameters | None = None

    def latest(self, should_stop: Callable[[], bool]) -> VersionedParameters | None:
        """See `Inference.latest`."""
        self._latest = self._parameters.wait(should_stop)
        return self._latest

    def act(self, frames: np.ndarray, age: np.ndarray) -> Actions:
        """See `Inference.act`."""
        actions, logits, self._key = self._act(self._latest.params, frames, age, self._key)
        return np.asarray(actions), np.asarray(logits)


class _Request:
    """One actor's environments, which wait for their actions."""

    def __init__(self, frames: np.ndarray, age: np.ndarray):
        self.frames, self.age = frames, age
        self.answer: Actions | Exception | None = None


class BatchedInference:
    """Acts for all actor threads of a process, each batch with the newest parameters.

        actor threads ──► waiting requests ──► one batch on the device ──► each its actions

    Whoever finds the device free takes all that wait along with its own request; what comes
    meanwhile makes up the next batch. So there is no time to wait that would have to be chosen, and
    a single actor acts without a detour. A batch is padded to a power of two of requests, so that
    few programs are compiled. Parameters may change within an unroll; it is stamped with those of
    its start, and the logits in it are always those that chose the action.
    """

    def __init__(self, act: Callable, parameters: Parameters, key: jax.Array):
        """Compiles nothing yet; arguments as of `LocalInference`."""
        self._act, self._parameters, self._key = _acting_step(act), parameters, key
        self._changed = threading.Condition()  # guards the next two, and requests' answers
        self._waiting: list[_Request] = []
        self._busy = False  # somebody is at the device, and `_key` is theirs

    def latest(self, should_stop: Callable[[], bool]) -> VersionedParameters | None:
        """See `Inference.latest`."""
        return self._parameters.wait(should_stop)

    def act(self, frames: np.ndarray, age: np.ndarray) -> Actions:
        """See `Inference.act`; from any thread. All callers have equally many environments.

        Raises:
          Exception: what went wrong on the device, for everyone whose request was in the batch.
        """
        request = _Request(frames, age)
        with self._changed:
            self._waiting.append(request)
            self._changed.wait_for(lambda: request.answer is not None or not self._busy)
            if request.answer is None:
                self._busy = True
                batch, self._waiting = self._waiting, []
        if request.answer is None:
            try:
                answers = self._answer(batch)
            except Exception as error:  # noqa: BLE001 - raised in the threads that it concerns
                answers = [error] * len(batch)
            with self._changed:
                for one, answer in zip(batch, answers):
                    one.answer = answer
                self._busy = False
                self._changed.notify_all()
        if isinstance(request.answer, Exception):
            raise request.answer
        return request.answer

    def _answer(self, requests: list[_Request]) -> list[Actions]:
        params = self._parameters.wait(lambda: False).params
        frames = _joined([request.frames for request in requests])
        age = _joined([request.age for request in requests])
        actions, logits, self._key = self._act(params, frames, age, self._key)
        actions, logits = np.asarray(actions), np.asarray(logits)
        ends = np.cumsum([len(request.age) for request in requests])
        return [(actions[a:b], logits[a:b]) for a, b in zip([0, *ends], ends)]


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """Along the first axis, the last one repeated until there would be a power of two of them."""
    if len(arrays) == 1:
        return arrays[0]
    wanted = 2 ** (len(arrays) - 1).bit_length()
    return np.concatenate(arrays + arrays[-1:] * (wanted - len(arrays)))
