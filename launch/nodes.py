"""What each process of the Launchpad program runs. Heavy modules are imported inside the functions:
the log is opened and the environment variables are set first."""

from __future__ import annotations

import os
import sys

from environments.base import EnvironmentSpec
from launch.config import TrainConfig
from launch.status import ACTOR, EVALUATOR, LEARNER, REPLAY, log_file, reported, write_status

_PARAMETER_DEADLINE = 30.0  # seconds of a call to the learner


def open_log(config: TrainConfig, node: str) -> None:
    """Sends this process's output to the node's log; threads of one process share the console."""
    if config.launch == "local_mp":
        sys.stdout.flush()
        sys.stderr.flush()
        descriptor = os.open(
            log_file(config.path, node), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
        )
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    write_status(config.path, node, "running")


def _stop_event():
    import launchpad as lp

    return lp.stop_event()


def replay_tables(config: TrainConfig, spec: EnvironmentSpec):
    """Reverb's tables, in the replay server's process."""
    open_log(config, REPLAY)
    with reported(config, REPLAY) as finish:
        from launch.parts import signature
        from replay.server import make_tables

        finish("running")
        return make_tables(signature(config, spec), config.replay)


def _replay(config: TrainConfig, spec: EnvironmentSpec, client):
    from launch.parts import signature
    from replay.remote import RemoteReplay

    return RemoteReplay(client, signature(config, spec), config.replay, _stop_event().is_set)


class LearnerNode:
    """The learner's process: what other processes may call, and its run."""

    def __init__(self, config: TrainConfig, spec: EnvironmentSpec, replay_client, resume: bool):
        """Builds the learner, so that parameters can be served from the start."""
        open_log(config, LEARNER)
        self._config, self._spec, self._client = config, spec, replay_client
        with reported(config, LEARNER) as finish:
            from launch.parts import make_learner

            finish("running")
            self._learner = make_learner(config, spec, resume)

    def get_parameters(self, version: int):
        """See `Learner.get_parameters`."""
        return self._learner.get_parameters(version)

    def report(self, source: str, metrics: dict[str, float]) -> None:
        """See `Learner.report`."""
        self._learner.report(source, metrics)

    def report_evaluation(self, evaluation) -> None:
        """See `Learner.report_evaluation`."""
        self._learner.report_evaluation(evaluation)

    def run(self) -> None:
        """Learns until the run is complete or stopped."""
        from launch.parts import learn

        config, stop = self._config, _stop_event()
        with reported(config, LEARNER) as finish:
            replay = _replay(config, self._spec, self._client)
            complete = learn(self._learner, config, self._spec, replay, stop.is_set)
            finish("finished" if complete else "stopped")
        # Courier's server ends with this method: stay until actors and evaluators have left.
        stop.wait(60.0)


def _parameter_client(config: TrainConfig, learner):
    import concurrent.futures

    from actors.parameters import ParameterClient

    stop = _stop_event()

    def fetch(version: int):
        # A call to a learner that has left never returns, and Courier would keep this process
        # for it: look for the stop while waiting, and cancel.
        call = learner.futures.get_parameters(version)
        try:
            for _ in range(int(_PARAMETER_DEADLINE / 0.2)):
                try:
                    return call.result(timeout=0.2)
                except concurrent.futures.TimeoutError:
                    if stop.is_set():
                        return None
            raise TimeoutError(f"no answer within {_PARAMETER_DEADLINE:g} s")
        finally:
            call.cancel()

    return ParameterClient(fetch, config.actors.parameter_interval)


def run_actor(config: TrainConfig, spec: EnvironmentSpec, index: int, learner, replay_client):
    """An actor's process."""
    node = f"{ACTOR}_{index}"
    open_log(config, node)
    with reported(config, node):
        from actors.inference import LocalInference
        from launch.parts import act, acting, random_key

        replay = _replay(config, spec, replay_client)
        parameters = _parameter_client(config, learner)
        policy = acting(config.agent, spec)
        inference = LocalInference(policy, parameters, random_key(config, index))
        try:
            act(
                config,
                index,
                inference,
                replay.append,
                lambda metrics: learner.futures.report(node, metrics),
                _stop_event().is_set,
            )
        finally:
            parameters.close()
            replay.close()


def run_evaluator(config: TrainConfig, spec: EnvironmentSpec, index: int, learner):
    """An evaluator's process. It yields its core to actors and learner when they want it."""
    node = f"{EVALUATOR}_{index}"
    open_log(config, node)
    with reported(config, node):
        from launch.parts import acting, evaluate

        if config.launch == "local_mp":
            os.nice(10)
        stop = _stop_event()
        parameters = _parameter_client(config, learner)
        report = learner.futures.report_evaluation
        try:
            evaluate(
                config,
                index,
                acting(config.agent, spec),
                parameters,
                lambda evaluation: report(evaluation).result(timeout=_PARAMETER_DEADLINE),
                stop.is_set,
            )
            stop.wait()
        finally:
            parameters.close()
