"""What each process of the program runs. Heavy modules are imported inside the functions: the log
is opened and the environment variables are set first."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from environments.base import EnvironmentSpec
from launch.config import TrainConfig, to_dict

REPLAY, LEARNER, ACTOR, EVALUATOR = "replay", "learner", "actor", "evaluator"

_FIRST_EVALUATOR_WORKER = 1000  # evaluators' seeds lie beyond those of so many actors
_PARAMETER_DEADLINE = 30.0  # seconds of a call to the learner


def status_file(workdir: pathlib.Path, node: str) -> pathlib.Path:
    """Where a node says how it is."""
    return workdir / "nodes" / f"{node}.json"


def log_file(workdir: pathlib.Path, node: str) -> pathlib.Path:
    """A node's log."""
    return workdir / "logs" / f"{node}.log"


def write_status(workdir: pathlib.Path, node: str, state: str, message: str = "") -> None:
    """Writes a node's state (running, finished, stopped or failed) for the launcher."""
    path = status_file(workdir, node)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"pid": os.getpid(), "state": state, "message": message}))
    os.replace(temporary, path)


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


@contextlib.contextmanager
def reported(config: TrainConfig, node: str) -> Iterator[Callable[[str], None]]:
    """Records how a node ended; yields a function that sets the final state."""
    final = ["stopped"]
    try:
        yield lambda state: final.__setitem__(0, state)
    except BaseException as error:
        traceback.print_exc()
        message = " ".join(str(error).split()) or type(error).__name__
        write_status(config.path, node, "failed", message)
        raise
    write_status(config.path, node, final[0])


def _stop_event():
    import launchpad as lp

    return lp.stop_event()


def replay_tables(config: TrainConfig, spec: EnvironmentSpec):
    """Reverb's tables, in the replay server's process."""
    open_log(config, REPLAY)
    with reported(config, REPLAY) as finish:
        from actors.rollout import trajectory_signature
        from replay.server import make_tables

        finish("running")
        signature = trajectory_signature(spec, config.learner.unroll_length)
        return make_tables(signature, config.replay)


class LearnerNode:
    """The learner's process: what other processes may call, and its run."""

    def __init__(
        self,
        config: TrainConfig,
        spec: EnvironmentSpec,
        replay_client,
        resume: bool,
        protocol: dict[str, Any],
    ):
        """Builds the learner, so that parameters can be served from the start."""
        open_log(config, LEARNER)
        self._config, self._spec, self._replay = config, spec, replay_client
        with reported(config, LEARNER) as finish:
            finish("running")
            self._learner = _make_learner(config, spec, resume, protocol)

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
        from replay.client import occupancy

        config, stop = self._config, _stop_event()
        with reported(config, LEARNER) as finish:
            online, replay = _make_samplers(config, self._spec, self._replay, stop.is_set)
            complete = self._learner.run(
                online=online,
                replay=replay,
                num_extra=config.agent.num_extra_batches,
                occupancy=functools.partial(occupancy, self._replay),
                should_stop=stop.is_set,
            )
            finish("finished" if complete else "stopped")
        # Courier's server ends with this method: stay until actors and evaluators have left.
        stop.wait(60.0)


def _make_samplers(config: TrainConfig, spec: EnvironmentSpec, client, should_stop):
    """Iterators over batches of fresh and of replayed unrolls."""
    import itertools

    from actors.rollout import trajectory_signature
    from learner.update import empty_trajectories
    from replay.sampler import Sampler
    from replay.server import ONLINE
    from replay.server import REPLAY as REPLAY_TABLE

    signature = trajectory_signature(spec, config.learner.unroll_length)
    make = functools.partial(
        Sampler, client, signature=signature, config=config.replay, should_stop=should_stop
    )
    online = make(table=ONLINE, batch_size=config.learner.online_batch)
    if config.learner.replay_batch == 0:
        return iter(online), itertools.repeat(empty_trajectories(signature))
    return iter(online), iter(make(table=REPLAY_TABLE, batch_size=config.learner.replay_batch))


def _make_learner(config: TrainConfig, spec: EnvironmentSpec, resume: bool, protocol):
    import jax

    from actors.rollout import observation_shape
    from learner.learner import Learner, RunInfo
    from learner.update import frames_per_update, make_sharded_agent, select_devices

    agent = make_sharded_agent(
        config.agent,
        config.learner,
        observation_shape(spec),
        spec.num_actions,
        spec.action_repeat,
        select_devices(config.learner),
    )
    info = RunInfo(
        workdir=config.path,
        game=config.game,
        total_frames=config.frames,
        frames_per_update=frames_per_update(config.learner, spec.action_repeat),
        seed=config.seed,
        resume=resume,
        protocol=protocol,
        versions={"python": sys.version.split()[0], "jax": jax.__version__},
        num_evaluators=config.evaluator.num_evaluators,
        final_timeout=config.evaluator.final_timeout,
    )
    return Learner(agent, config.learner, info)


def _acting(config: TrainConfig, spec: EnvironmentSpec):
    """(params, observations, key) -> (actions, logits) of the main task."""
    from actors.rollout import observation_shape
    from agents.agent import acting_policy
    from agents.networks import make_network

    return acting_policy(
        make_network(config.agent.network, observation_shape(spec), spec.num_actions, 1)
    )


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
        import jax

        from actors.actor import run_actor as act_and_write
        from actors.rollout import Rollout, trajectory_signature
        from environments.factory import make
        from replay.writer import Writer

        stop = _stop_event()
        environment = make(
            config.game,
            num_envs=config.actors.envs_per_actor,
            seed=config.seed,
            worker_index=index,
            config=config.atari,
            num_threads=config.actors.env_threads,
        )
        key = jax.random.fold_in(jax.random.PRNGKey(config.seed), index + 1)
        rollout = Rollout(environment, _acting(config, spec), config.learner.unroll_length, key)
        signature = trajectory_signature(spec, config.learner.unroll_length)
        writer = Writer(replay_client, signature, config.replay, stop.is_set)
        parameters = _parameter_client(config, learner)
        try:
            act_and_write(
                rollout,
                parameters,
                writer.append,
                lambda metrics: learner.futures.report(node, metrics),
                stop.is_set,
                config.actors.report_interval,
            )
        finally:
            parameters.close()
            writer.close()
            environment.close()


def run_evaluator(config: TrainConfig, spec: EnvironmentSpec, index: int, learner):
    """An evaluator's process. It yields its core to actors and learner when they want it."""
    node = f"{EVALUATOR}_{index}"
    open_log(config, node)
    with reported(config, node):
        import jax

        from actors.evaluator import run_evaluator as evaluate
        from environments.factory import make

        if config.launch == "local_mp":
            os.nice(10)
        stop = _stop_event()
        worker = _FIRST_EVALUATOR_WORKER + index
        environment = make(
            config.game,
            num_envs=config.evaluator.episodes,
            seed=config.seed,
            worker_index=worker,
            config=config.atari,
            num_threads=1,
        )
        parameters = _parameter_client(config, learner)
        key = jax.random.fold_in(jax.random.PRNGKey(config.seed), worker + 1)
        report = learner.futures.report_evaluation
        try:
            evaluate(
                environment,
                _acting(config, spec),
                parameters,
                lambda evaluation: report(evaluation).result(timeout=_PARAMETER_DEADLINE),
                stop.is_set,
                config.evaluator.interval,
                key,
            )
            stop.wait()
        finally:
            parameters.close()
            environment.close()


def protocol(config: TrainConfig) -> dict[str, Any]:
    """What the scores in results.json were measured under."""
    atari = {} if config.game == "catch" else to_dict(config.atari)
    return {
        "algorithm": config.agent.algorithm,
        "preset": config.preset,
        "seed": config.seed,
        "training_return": "mean raw return of the last 100 training episodes",
        "evaluation_return": f"mean raw return of {config.evaluator.episodes} full episodes, "
        "actions sampled from the policy",
        "environment": atari,
    }
