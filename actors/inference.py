"""Who chooses the actions: each actor by itself, or one server that batches all actors of a host.

    actors                         server, on its device or devices
    half of the environments ──► waiting requests ──► one batch of fixed shape ──► each its actions
    steps, while the other waits

What is drawn depends on the actor's key, the step and the environment alone, not on who else is in
the batch: all ways of asking give the same trajectories.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

import jax
import numpy as np

from bmg.actors.parameters import Parameters
from bmg.agents.messages import VersionedParameters
from bmg.agents.trajectory import stack_frames


class Request(NamedTuple):
    """N environments that wait for their actions."""

    frames: np.ndarray  # [N, S, *frame_shape], the newest S single frames of each
    age: np.ndarray  # int32 [N], frames since the episode's first one
    stream: np.ndarray  # uint32 [N, 4]: the actor's key (2), its step, the environment's number


class Actions(NamedTuple):
    """What they get."""

    action: np.ndarray  # int32 [N]
    logits: np.ndarray  # float32 [N, A], of the policy that they were drawn from


class Newest(NamedTuple):
    """The newest parameters, by name."""

    version: int  # learner updates behind them
    final: bool  # nothing more is learned


class AskedToStop(Exception):
    """An answer was waited for, and the run stopped."""


class Inference(Protocol):
    """What an actor asks."""

    def newest(self, should_stop: Callable[[], bool]) -> Newest | None:
        """The newest parameters, which later requests are answered with, or with newer ones; None
        when asked to stop."""
        ...

    def ask(self, request: Request) -> Callable[[], Actions]:
        """Asks for actions; the function that is returned waits for them.

        Raises (that function):
          AskedToStop: before there was an answer.
        """
        ...


def _acting_step(act: Callable) -> Callable:
    """Compiles (params, request) -> actions."""

    def key(stream):
        return jax.random.fold_in(jax.random.fold_in(stream[:2], stream[2]), stream[3])

    def step(params, request: Request) -> Actions:
        # Stacked as the learner does it, and where it is fast: not by copies on the host.
        observation = jax.vmap(stack_frames)(request.frames, request.age[:, None])[:, 0]
        return Actions(*act(params, observation, jax.vmap(key)(request.stream)))

    return jax.jit(step)


class LocalInference:
    """Acts for one actor, with the same parameters for a whole unroll."""

    def __init__(self, act: Callable, parameters: Parameters):
        """Compiles nothing yet.

        Args:
          act: (params, observations [N, ...], keys [N, 2]) -> (actions int32 [N], logits [N, A]).
          parameters: where they come from.
        """
        self._act, self._parameters = _acting_step(act), parameters
        self._latest: VersionedParameters | None = None

    def newest(self, should_stop: Callable[[], bool]) -> Newest | None:
        """See `Inference.newest`."""
        self._latest = self._parameters.wait(should_stop)
        return self._latest and Newest(self._latest.version, self._latest.final)

    def ask(self, request: Request) -> Callable[[], Actions]:
        """See `Inference.ask`."""
        actions = self._act(self._latest.params, request)
        return lambda: Actions(*map(np.asarray, actions))


class _Waiting(NamedTuple):
    """A request on its way into a batch."""

    request: Request
    since: float  # seconds of `time.monotonic`
    answer: Future


class BatchedInference:
    """Acts for all actors of a host, each batch with the newest parameters.

    A device takes a batch as soon as there are `slots` requests, or the oldest has waited for
    `patience` seconds; while it computes, the next batch gathers. What is missing in a batch is
    filled up, so that one program alone is compiled. Parameters may change within an unroll; it is
    stamped with those of its start, and the logits in it are always those that chose the action.
    """

    def __init__(
        self,
        act: Callable,
        parameters: Sequence[Parameters],
        size: int,
        slots: int,
        patience: float,
    ):
        """Starts a thread for each device; compiles nothing yet.

        Args:
          act: as of `LocalInference`.
          parameters: where they come from, on each device that acts.
          size: environments of a request, at most.
          slots: requests of a full batch.
          patience: seconds that a request waits for others at most.
        """
        self._act, self._parameters = _acting_step(act), parameters
        self._size, self._slots, self._patience = size, slots, patience
        self._gathering = threading.Lock()  # of the device whose batch is next
        self._changed = threading.Condition()  # guards what follows
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._closed = False
        self._error: Exception | None = None
        self._counts = _Counts(time.monotonic())
        for index, of_device in enumerate(parameters):
            threading.Thread(
                target=self._serve, args=(of_device,), name=f"inference_{index}", daemon=True
            ).start()

    def warm_up(self, request: Request) -> None:
        """Compiles, and acts once on every device; the request's values do not matter."""
        for parameters in self._parameters:
            self._answer([request], parameters, _Buffers(request, self._size, self._slots))

    def newest(self, should_stop: Callable[[], bool]) -> Newest | None:
        """See `Inference.newest`."""
        latest = self._parameters[0].wait(should_stop)
        return latest and Newest(latest.version, latest.final)

    def ask(self, request: Request) -> Callable[[], Actions]:
        """See `Inference.ask`; from any thread.

        Raises (the function that is returned):
          AskedToStop: closed meanwhile.
          Exception: what went wrong on the device, for everyone whose request was in the batch.
        """
        waiting = _Waiting(request, time.monotonic(), Future())
        with self._changed:
            if self._closed:
                raise AskedToStop
            self._waiting.append(waiting)
            self._changed.notify_all()
        return waiting.answer.result

    def check(self) -> None:
        """Raises what went wrong on a device, so that it ends the run.

        Raises:
          RuntimeError: one line.
        """
        if self._error is not None:
            raise RuntimeError(f"inference failed: {self._error}") from self._error

    def metrics(self) -> dict[str, float]:
        """Since the last call: environments per slot for them, agent steps per second, the share of
        their time in which the devices computed, and milliseconds from a request to its answer."""
        now = time.monotonic()
        with self._changed:
            counts, self._counts = self._counts, _Counts(now)
        seconds, batches = max(now - counts.since, 1e-9), max(counts.batches, 1)
        return {
            "inference/occupancy": counts.steps / (batches * self._slots * self._size),
            "inference/steps_per_second": counts.steps / seconds,
            "inference/busy": counts.computing / (seconds * len(self._parameters)),
            "inference/milliseconds": 1000 * counts.waited / max(counts.requests, 1),
        }

    def close(self) -> None:
        """Stops; who waits is told."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, collections.deque()
            self._changed.notify_all()
        for one in waiting:
            one.answer.set_exception(AskedToStop())

    def _serve(self, parameters: Parameters) -> None:
        buffers = None
        while batch := self._gather():
            start = time.monotonic()
            requests = [one.request for one in batch]
            try:
                buffers = buffers or _Buffers(requests[0], self._size, self._slots)
                answers = self._answer(requests, parameters, buffers)
            except Exception as error:  # noqa: BLE001 - raised in the threads that it concerns
                self._error = error
                for one in batch:
                    one.answer.set_exception(error)
                continue
            now = time.monotonic()
            for one, answer in zip(batch, answers):
                one.answer.set_result(answer)
            with self._changed:
                self._counts.add(batch, start, now)

    def _gather(self) -> list[_Waiting]:
        """The next batch; empty when closed."""
        with self._gathering, self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return []
            patience = self._waiting[0].since + self._patience - time.monotonic()
            self._changed.wait_for(
                lambda: len(self._waiting) >= self._slots or self._closed, max(patience, 0.0)
            )
            number = min(len(self._waiting), self._slots)
            return [self._waiting.popleft() for _ in range(number)]

    def _answer(
        self, requests: list[Request], parameters: Parameters, buffers: _Buffers
    ) -> list[Actions]:
        params = parameters.wait(lambda: False).params
        action, logits = map(np.asarray, self._act(params, buffers.fill(requests)))
        return [
            Actions(action[row : row + number], logits[row : row + number])
            for row, number in zip(
                range(0, len(action), self._size), (len(request.age) for request in requests)
            )
        ]


class _Buffers:
    """One batch of `slots` requests of up to `size` environments; what is left over stays as it
    is."""

    def __init__(self, request: Request, size: int, slots: int):
        self._size = size
        self._batch = Request(
            *(np.zeros((slots * size, *np.shape(x)[1:]), np.asarray(x).dtype) for x in request)
        )

    def fill(self, requests: list[Request]) -> Request:
        """The batch; the next call overwrites it."""
        for index, request in enumerate(requests):
            row = index * self._size
            for whole, part in zip(self._batch, request):
                whole[row : row + len(part)] = part
        return self._batch


class _Counts:
    """What was done since a time."""

    def __init__(self, since: float):
        self.since = since
        self.batches = self.requests = self.steps = 0
        self.computing = self.waited = 0.0

    def add(self, batch: list[_Waiting], start: float, now: float) -> None:
        self.batches += 1
        self.requests += len(batch)
        self.steps += sum(len(one.request.age) for one in batch)
        self.computing += now - start
        self.waited += sum(now - one.since for one in batch)
