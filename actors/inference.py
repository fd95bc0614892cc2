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
        self.answered = threading.Event()
        self.answer: Actions | None = None  # stays None when inference ended


class BatchedInference:
    """Acts for all actor threads of a process, each batch with the newest parameters.

        actor threads ──► waiting requests ──► one batch on the device ──► each its actions

    What comes while the device is busy makes up the next batch, so there is no time to wait that
    would have to be chosen. A batch is padded to a power of two of requests, so that few
    programs are compiled. Parameters may change within an unroll; it is stamped with those of its
    start, and the logits in it are always those that chose the action.
    """

    def __init__(self, act: Callable, parameters: Parameters, key: jax.Array):
        """Starts the thread; arguments as of `LocalInference`."""
        self._act, self._parameters, self._key = _acting_step(act), parameters, key
        self._changed = threading.Condition()  # guards the next two
        self._waiting: list[_Request] = []
        self._stopped = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def latest(self, should_stop: Callable[[], bool]) -> VersionedParameters | None:
        """See `Inference.latest`."""
        return self._parameters.wait(should_stop)

    def act(self, frames: np.ndarray, age: np.ndarray) -> Actions:
        """See `Inference.act`; from any thread. All callers have equally many environments.

        Raises:
          RuntimeError: inference failed, or was closed; one line.
        """
        request = _Request(frames, age)
        with self._changed:
            if not self._stopped:
                self._waiting.append(request)
                self._changed.notify()
            else:
                request.answered.set()
        request.answered.wait()
        if request.answer is None:
            reason = " ".join(str(self._error).split()) if self._error else "it was closed"
            raise RuntimeError(f"no actions from inference: {reason}") from self._error
        return request.answer

    def close(self) -> None:
        """Stops the thread; those who still wait get an error."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while requests := self._take():
            try:
                self._answer(requests)
            except Exception as error:  # noqa: BLE001 - raised again in the actors' threads
                with self._changed:
                    self._error, self._stopped = error, True
            for request in requests:
                request.answered.set()
        for request in self._waiting:  # no more are added once it is stopped
            request.answered.set()

    def _take(self) -> list[_Request]:
        """All that wait, at least one; none when stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            if self._stopped:
                return []
            requests, self._waiting = self._waiting, []
            return requests

    def _answer(self, requests: list[_Request]) -> None:
        latest = self._parameters.wait(lambda: self._stopped)
        if latest is None:
            return
        frames, age = (
            _pad(np.concatenate([getattr(request, name) for request in requests]), len(requests))
            for name in ("frames", "age")
        )
        actions, logits, self._key = self._act(latest.params, frames, age, self._key)
        actions, logits = np.asarray(actions), np.asarray(logits)
        end = 0
        for request in requests:
            start, end = end, end + len(request.age)
            request.answer = actions[start:end], logits[start:end]
            request.answered.set()


def _pad(array: np.ndarray, num_requests: int) -> np.ndarray:
    """Repeats the last row until the requests would be a power of two."""
    per_request = len(array) // num_requests
    wanted = per_request * 2 ** (num_requests - 1).bit_length()
    return np.concatenate([array, np.repeat(array[-1:], wanted - len(array), axis=0)])
