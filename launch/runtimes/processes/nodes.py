"""What each process of the Launchpad program runs. Heavy modules are imported inside the functions:
the log is opened and the environment variables are set first."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable

import launchpad as lp

from bmg.environments.base import EnvironmentSpec
from bmg.launch.config import TrainConfig
from bmg.launch.runtimes.board import ADDRESS, Board
from bmg.launch.runtimes.status import (
    ACTOR,
    EVALUATOR,
    LEARNER,
    REPLAY,
    Node,
    log_file,
    node_metrics,
    node_names,
)
from bmg.replay.signature import ArraySpec
from bmg.storage.processes import is_running

LAUNCHER = "BMG_LAUNCHER"  # environment variable: the launcher's `storage.processes.name_of`
CALL_DEADLINE = 30.0  # seconds of a call to the learner
_ANSWER_INTERVAL = 0.2  # seconds between looks at whether to stop
_LEAVE_SECONDS = 15.0  # that a node without a launcher takes to leave in order
_LOOK_INTERVAL = 2.0  # seconds between looks at whether the launcher is there


class _Log(io.TextIOBase):
    """A node's output. What a full disk does not take is lost, and not the node."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            os.write(1, text.encode(errors="replace"))
        return len(text)

    def fileno(self) -> int:
        return 1


def begin(config: TrainConfig, name: str) -> Node:
    """Sends this process's output to the node's log (threads of one process share the console), and
    sees to it that the process leaves with its launcher."""
    if config.launch == "local_mp":
        sys.stdout.flush()
        sys.stderr.flush()
        descriptor = _open_log(log_file(config.path, name))
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        sys.stdout = sys.stderr = _Log()
        # Who was told to outlive its terminal ignores the hang-up; Launchpad knows SIGTERM alone.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        leave_with_launcher()
    return Node(config, name, _board(config))


def _board(config: TrainConfig) -> Board:
    return Board.at(node_names(config), os.environ[ADDRESS])


def _open_log(path: pathlib.Path) -> int:
    """A descriptor for a node's output, which goes nowhere where the log cannot be made."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:  # a full disk, a run directory that is gone
        return os.open(os.devnull, os.O_WRONLY)


def leave_with_launcher() -> None:
    """Ends this process after the launcher was killed: in order, then at once."""
    threading.Thread(target=_leave_with_launcher, daemon=True).start()


def _leave_with_launcher() -> None:
    while is_running(os.environ[LAUNCHER]):
        time.sleep(_LOOK_INTERVAL)
    print("the launcher is gone; this node leaves as well", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LEAVE_SECONDS)
    os._exit(1)


def _answer(call, should_stop: Callable[[], bool]):
    """The answer to a courier call, or None when asked to stop while waiting.

    Raises:
      TimeoutError: none came; one line.
    """
    # Courier would keep this process for a call that is not answered: look for the stop while
    # waiting, and cancel.
    try:
        for _ in range(int(CALL_DEADLINE / _ANSWER_INTERVAL)):
            with contextlib.suppress(concurrent.futures.TimeoutError):
                return call.result(timeout=_ANSWER_INTERVAL)
            if should_stop():
                return None
        raise TimeoutError(f"no answer from the learner's process within {CALL_DEADLINE:g} s")
    finally:
        call.cancel()


def run_replay(config: TrainConfig, arrays: list[ArraySpec], address: lp.Address):
    """The replay server's process; it needs no JAX."""
    node = begin(config, REPLAY)
    with node.recording_failure():
        from bmg.replay.server import Server

        server = Server(arrays, config.replay, lp.get_port_from_address(address.resolve()))
    lp.wait_for_stop()
    del server  # it serves until then


def _replay(
    config: TrainConfig,
    spec: EnvironmentSpec,
    address: lp.Address,
    should_stop: Callable[[], bool],
    node: Node,
):
    from bmg.launch.runtimes.assembly import signature
    from bmg.replay.remote import RemoteReplay

    shapes = signature(config, spec)
    return RemoteReplay(address.resolve(), shapes, config.replay, should_stop, node.stalled)


class LearnerNode:
    """The learner's process: what other processes may call, and its run."""

    def __init__(
        self,
        config: TrainConfig,
        spec: EnvironmentSpec,
        replay: lp.Address,
        resume: bool,
        central_inference: bool,
    ):
        """Builds the learner, so that parameters can be served from the start, and the inference
        server where actors ask for their actions."""
        self._node = begin(config, LEARNER)
        self._config, self._spec, self._replay = config, spec, replay
        with self._node.recording_failure():
            from bmg.launch.runtimes.assembly import (
                join_hosts,
                local_parameters,
                make_learner,
                serve,
            )
            from bmg.learner.placement import place

            join_hosts(config)
            devices = place(config.devices, config.learner.platform, central_inference)
            self._learner = make_learner(config, spec, devices, resume, self._node)
            self._requests = {}  # memory by actor
            self._inference = None
            if central_inference:
                parameters = local_parameters(self._learner, devices)
                self._inference = serve(config, spec, devices, parameters)

    def get_parameters(self, version: int):
        """See `Learner.get_parameters`."""
        return self._learner.get_parameters(version)

    def newest(self):
        """See `BatchedInference.newest`."""
        return tuple(self._inference.newest(lambda: False))

    def attach(self, actor: str, address) -> None:
        """Takes note of the memory that an actor shares its requests in."""
        from bmg.actors.shared import Address, SharedRequests

        self._requests[actor] = SharedRequests(Address(*address))

    def act(self, actor: str, first: int, number: int):
        """See `BatchedInference.ask`: what these environments of an actor shall do."""
        return tuple(self._inference.ask(self._requests[actor].get(first, number))())

    def report(self, source: str, metrics: dict[str, float]) -> None:
        """See `Learner.report`."""
        self._learner.report(source, metrics)

    def report_evaluation(self, evaluation) -> None:
        """See `Learner.report_evaluation`."""
        self._learner.report_evaluation(evaluation)

    def run(self) -> None:
        """Learns until the run is complete or stopped."""
        from bmg.launch.runtimes.assembly import learn

        config, node, stop, inference = self._config, self._node, lp.stop_event(), self._inference
        with node.ending() as finish:
            replay = _replay(config, self._spec, self._replay, stop.is_set, node)
            board = _board(config)

            def metrics() -> dict[str, float]:
                served = inference.metrics() if inference else {}
                return {**node_metrics(board), "learner/stalls": float(node.stalls), **served}

            def should_stop() -> bool:
                if inference:
                    inference.check()
                return stop.is_set()

            complete = learn(self._learner, config, self._spec, replay, metrics, should_stop)
            finish("finished" if complete else "stopped")
        # Courier's server ends with this method: stay until actors and evaluators have left.
        stop.wait(60.0)


def parameter_client(config: TrainConfig, learner, should_stop: Callable[[], bool]):
    """Keeps the newest parameters of the learner's process at hand, whose courier client this
    is."""
    from bmg.actors.parameters import ParameterClient

    def fetch(version: int):
        return _answer(learner.futures.get_parameters(version), should_stop)

    return ParameterClient(fetch, config.actors.parameter_interval, config.actors.parameter_timeout)


class _RemoteInference:
    """Asks the learner's process; see `actors.inference.Inference`."""

    def __init__(
        self,
        config: TrainConfig,
        spec: EnvironmentSpec,
        actor: str,
        learner,
        should_stop: Callable[[], bool],
    ):
        from bmg.actors.shared import SharedRequests

        self._actor, self._calls, self._should_stop = actor, learner.futures, should_stop
        frames_shape = (spec.num_stack, *spec.frame_shape)
        self._requests = SharedRequests.make(config.actors.envs_per_actor, frames_shape, spec.dtype)
        self._attach(config.actors.parameter_timeout)

    def _attach(self, seconds: float) -> None:
        """The server may be compiling, or wait for other hosts: nobody answers before."""
        address = tuple(self._requests.address)
        for _ in range(max(int(seconds / CALL_DEADLINE), 1)):
            try:
                _answer(self._calls.attach(self._actor, address), self._should_stop)
                return
            except Exception as error:  # noqa: BLE001 - the last one is raised
                last = error
        raise TimeoutError(f"no inference server within {seconds:g} s: {last}")

    def newest(self, should_stop: Callable[[], bool]):
        from bmg.actors.inference import Newest

        newest = _answer(self._calls.newest(), should_stop)
        return newest and Newest(*newest)

    def ask(self, request):
        from bmg.actors.inference import Actions, AskedToStop

        call = self._calls.act(self._actor, *self._requests.put(request))

        def actions() -> Actions:
            answer = _answer(call, self._should_stop)
            if answer is None:
                raise AskedToStop
            return Actions(*answer)

        return actions


def run_actor(
    config: TrainConfig,
    spec: EnvironmentSpec,
    index: int,
    learner,
    replay: lp.Address,
    central_inference: bool,
):
    """An actor's process; it asks the learner's for its actions, or chooses them itself."""
    node = begin(config, f"{ACTOR}_{index}")
    with node.ending(), contextlib.ExitStack() as stack:
        from bmg.actors.inference import LocalInference
        from bmg.launch.runtimes.assembly import act, acting, actor_number

        should_stop = node.alive(lp.stop_event().is_set)
        replay = _replay(config, spec, replay, should_stop, node)
        stack.callback(replay.close)
        if central_inference:
            inference = _RemoteInference(config, spec, node.name, learner, should_stop)
        else:
            parameters = parameter_client(config, learner, lp.stop_event().is_set)
            stack.callback(parameters.close)
            inference = LocalInference(acting(config.agent, spec), parameters)

        def report(metrics: dict[str, float]) -> None:
            learner.futures.report(node.name, {**metrics, "stalls": float(node.stalls)})

        number = actor_number(config, index, node.start)
        act(config, number, inference, central_inference, replay.append, report, should_stop)


def run_evaluator(config: TrainConfig, spec: EnvironmentSpec, index: int, learner):
    """An evaluator's process. It yields its core to actors and learner when they want it."""
    node = begin(config, f"{EVALUATOR}_{index}")
    with node.ending():
        from bmg.launch.runtimes.assembly import acting, evaluate, evaluator_number

        if config.launch == "local_mp":
            os.nice(10)
        stop = lp.stop_event()
        parameters = parameter_client(config, learner, stop.is_set)
        report = learner.futures.report_evaluation
        should_stop = node.alive(stop.is_set)
        try:
            evaluate(
                config,
                evaluator_number(index, node.start),
                acting(config.agent, spec),
                parameters,
                lambda evaluation: report(evaluation).result(timeout=CALL_DEADLINE),
                should_stop,
            )
            while not stop.wait(1.0):
                should_stop()
        finally:
            parameters.close()
