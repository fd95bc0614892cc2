"""The parts that every runtime makes a run of: learner, actors, evaluators, and their seeds.

They know neither processes nor threads: what connects them is handed in.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from bmg.actors.actor import run_actor
from bmg.actors.config import ActorConfig
from bmg.actors.evaluator import run_evaluator
from bmg.actors.inference import BatchedInference, Inference, Request
from bmg.actors.parameters import LocalParameters, Parameters
from bmg.actors.rollout import Rollout, agent_spec, trajectory_signature
from bmg.agents.agent import Agent
from bmg.agents.config import AgentConfig
from bmg.agents.factory import make_agent
from bmg.agents.messages import Evaluation
from bmg.agents.trajectory import Trajectory
from bmg.environments.base import EnvironmentSpec, VectorEnvironment
from bmg.environments.factory import make
from bmg.environments.games import kind_of, read_options
from bmg.launch import provenance
from bmg.launch.config import TrainConfig, fixed_fields, shared_fields
from bmg.learner.guard import FORMER_PATHS, guarded
from bmg.learner.hosts import ONE_HOST, Hosts, code_digest, join
from bmg.learner.learner import Learner
from bmg.learner.placement import Devices
from bmg.learner.progress import check_checkpoint
from bmg.learner.record import RunInfo
from bmg.learner.update import (
    empty_trajectories,
    frames_per_update,
    make_sharded_agent,
    with_precision,
)
from bmg.replay.interface import Replay
from bmg.storage import checkpoint
from bmg.storage.fields import MOST_NODES
from bmg.storage.run_directory import to_dict

# Every start of an actor or an evaluator has a number of its own, and with it seeds of its own,
# over all stretches of a run: start s of actor i is 2000 s + i, of evaluator i 2000 s + 1000 + i.
_NODES_OF_A_KIND = MOST_NODES


class LearnerSays(Protocol):
    """Who takes what a learner says, such as `status.Node`."""

    def note(self, message: str) -> None:
        """A line for the user."""

    def abandon(self, message: str) -> None:
        """A line about a missing host; ends the process."""

    def publish_results(self, results: Mapping[str, Any]) -> None:
        """What goes into results.json."""


def signature(config: TrainConfig, spec: EnvironmentSpec) -> Trajectory:
    """Shapes and dtypes of one unroll."""
    return trajectory_signature(spec, config.learner.unroll_length)


def run_info(config: TrainConfig, spec: EnvironmentSpec, resume: bool) -> RunInfo:
    """What a learner must know of its run."""
    return RunInfo(
        workdir=config.path,
        game=config.game,
        total_frames=config.frames,
        frames_per_update=frames_per_update(config.learner, spec.action_repeat),
        seed=config.seed,
        resume=resume,
        protocol=protocol(config, spec),
        versions=provenance.versions(),
        command=provenance.command(),
        num_evaluators=config.evaluator.num_evaluators,
        final_timeout=config.evaluator.final_timeout,
        identity=fixed_fields(config),
    )


def make_learner(
    config: TrainConfig,
    spec: EnvironmentSpec,
    devices: Devices,
    resume: bool,
    node: LearnerSays,
) -> Learner:
    """The learner on its devices, from its seed or from the newest checkpoint that is whole; what
    it has to say goes to `node`."""
    agent = make_sharded_agent(
        config.agent,
        config.learner,
        agent_spec(spec),
        spec.action_repeat,
        devices.learner,
    )
    info = run_info(config, spec, resume)
    hosts = ONE_HOST
    if config.hosts.count > 1:
        unrolls = config.learner.online_batch // config.hosts.count
        hosts = Hosts(config.hosts, agent.mesh, unrolls, config.learner.unroll_length, node.abandon)
    return Learner(agent, config.learner, info, node.note, node.publish_results, hosts)


def join_hosts(config: TrainConfig) -> None:
    """Meets the other hosts, where there are any; see `learner.hosts.join`."""
    root = pathlib.Path(__file__).resolve().parents[2]
    versions = {"python": sys.version.split()[0], "jax": jax.__version__}
    join(config.hosts, {**shared_fields(config), **versions, "code": code_digest(root)})


def load_newest(
    config: TrainConfig, spec: EnvironmentSpec
) -> tuple[Agent, checkpoint.Checkpoint, list[str]]:
    """A run's agent, its newest checkpoint that can be used, and a line for each newer one that
    cannot.

    Raises:
      CheckpointError: none can; one line.
    """
    agent = make_agent(config.agent, agent_spec(spec))
    frames = frames_per_update(config.learner, spec.action_repeat)
    template = jax.eval_shape(guarded(agent, frames).init, jax.random.PRNGKey(0))
    usable = functools.partial(check_checkpoint, frames_per_update=frames)
    found, problems = checkpoint.load_newest(
        config.path / "checkpoints", template, fixed_fields(config), usable, FORMER_PATHS
    )
    return agent, found, problems


def learn(
    learner: Learner,
    config: TrainConfig,
    spec: EnvironmentSpec,
    replay: Replay,
    node_metrics: Callable[[], dict[str, float]],
    should_stop: Callable[[], bool],
) -> bool:
    """Runs the learner over what the actors write; whether the run is complete."""
    hosts = config.hosts.count
    if config.learner.replay_batch:
        replayed = replay.sample_replay(config.learner.replay_batch // hosts)
    else:
        replayed = itertools.repeat(empty_trajectories(signature(config, spec)))
    return learner.run(
        online=replay.sample_online(config.learner.online_batch // hosts),
        replay=replayed,
        occupancy=replay.occupancy,
        node_metrics=node_metrics,
        should_stop=should_stop,
    )


def acting(agent: AgentConfig, spec: EnvironmentSpec) -> Callable:
    """The agent's policy, see `Agent.act`."""
    return make_agent(agent, agent_spec(spec)).act


def local_parameters(learner: Learner, devices: Devices) -> list[LocalParameters]:
    """The learner's parameters on each device that acts."""
    published = functools.partial(learner.get_parameters, -1)
    return [LocalParameters(published, device) for device in devices.inference]


def serve(
    config: TrainConfig,
    spec: EnvironmentSpec,
    devices: Devices,
    parameters: list[LocalParameters],
) -> BatchedInference:
    """The inference server for all actors of this host, compiled."""
    inference = BatchedInference(
        acting(with_precision(config.agent, devices.inference[0]), spec),
        parameters,
        size=max(split_sizes(config.actors)),
        # One request of each actor, while the other ones' environments step.
        slots=-(-config.actors.num_actors // len(parameters)),
        patience=config.actors.patience,
    )
    inference.warm_up(
        Request(
            np.zeros((1, spec.num_stack, *spec.frame_shape), spec.dtype),
            np.zeros(1, np.int32),
            np.zeros((1, 4), np.uint32),
        )
    )
    return inference


def split_sizes(config: ActorConfig) -> list[int]:
    """Environments of each split of an actor's."""
    environments = config.envs_per_actor
    splits = min(config.splits, environments)
    ends = [environments * (split + 1) // splits for split in range(splits)]
    return [end - start for start, end in zip([0, *ends], ends)]


def _make_environments(
    config: TrainConfig, number: int, num_envs: int, threads: int, first: int = 0
) -> VectorEnvironment:
    return make(
        config.game,
        num_envs=num_envs,
        seed=config.seed,
        worker_index=number,
        config=config.atari,
        num_threads=threads,
        first=first,
        options=config.game_options,
    )


def actor_number(config: TrainConfig, index: int, start: int) -> int:
    """Of an actor of this host that was started `start` times before, in the whole life of its
    run."""
    return 2 * _NODES_OF_A_KIND * start + config.hosts.index * config.actors.num_actors + index


def evaluator_number(index: int, start: int) -> int:
    """Likewise of an evaluator; no two starts of any nodes share one."""
    return 2 * _NODES_OF_A_KIND * start + _NODES_OF_A_KIND + index


def random_key(config: TrainConfig, number: int) -> jax.Array:
    """The random key of an actor's or an evaluator's actions."""
    return jax.random.fold_in(jax.random.PRNGKey(config.seed), number + 1)


def act(
    config: TrainConfig,
    number: int,
    inference: Inference,
    central_inference: bool,
    append: Callable[[Trajectory], bool],
    report: Callable[[dict[str, float]], None],
    should_stop: Callable[[], bool],
) -> None:
    """Runs an actor until it is asked to stop; with central inference one split of its environments
    steps while the others wait for their actions."""
    actors = config.actors
    sizes = split_sizes(config.actors) if central_inference else [actors.envs_per_actor]
    with contextlib.ExitStack() as stack:
        environments = []
        for size, end in zip(sizes, itertools.accumulate(sizes)):
            environments.append(
                _make_environments(config, number, size, actors.env_threads, end - size)
            )
            stack.callback(environments[-1].close)
        rollout = Rollout(
            environments, inference.ask, config.learner.unroll_length, random_key(config, number)
        )
        run_actor(rollout, inference, append, report, should_stop, actors.report_interval)


def evaluate(
    config: TrainConfig,
    number: int,
    policy: Callable,
    parameters: Parameters,
    report: Callable[[Evaluation], Any],
    should_stop: Callable[[], bool],
) -> None:
    """Runs an evaluator until the last evaluation, or until it is asked to stop."""
    environment = _make_environments(config, number, config.evaluator.episodes, 1)
    try:
        run_evaluator(
            environment,
            policy,
            parameters,
            report,
            should_stop,
            config.evaluator.interval,
            random_key(config, number),
        )
    finally:
        environment.close()


def protocol(
    config: TrainConfig, spec: EnvironmentSpec, episodes: int | None = None
) -> dict[str, Any]:
    """What the scores in results.json, or of so many evaluation episodes, were measured under."""
    if kind_of(config.game) == "atari":
        environment = to_dict(config.atari)
    else:
        options = {"options": read_options(config.game_options)}
        environment = {**spec._asdict(), "frame_shape": list(spec.frame_shape), **options}
    return {
        "algorithm": config.agent.algorithm,
        "preset": config.preset,
        "seed": config.seed,
        "training_return": "mean raw return of the last 100 training episodes",
        "evaluation_return": "mean raw return of "
        f"{episodes or config.evaluator.episodes} full episodes, "
        "actions sampled from the policy",
        "environment": environment,
    }
