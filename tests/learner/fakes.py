"""A small agent, its random data and endless samplers, which the tests of `learner` share."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from bmg.agents.agent import Spec
from bmg.agents.config import AgentConfig, MetaConfig, NetworkConfig, OptimizerConfig
from bmg.agents.trajectory import Trajectory, UpdateBatch
from bmg.learner.config import LearnerConfig
from bmg.learner.learner import Learner
from bmg.learner.record import RunInfo
from bmg.learner.update import ShardedAgent, frames_per_update, make_sharded_agent
from bmg.storage import checkpoint
from tests.waiting import DEADLINE

SHAPE, NUM_STACK, NUM_ACTIONS, LENGTH, ACTION_REPEAT = (3, 4, 1), 2, 3, 5, 4
OBSERVATION_SHAPE = (3, 4, NUM_STACK)
SPEC = Spec(OBSERVATION_SHAPE, NUM_ACTIONS)

# L = 2, so that an update takes a batch of replay beside the main one.
AGENT = AgentConfig(
    network=NetworkConfig(torso="mlp", features=8, head_hidden=(6,)),
    optimizer=OptimizerConfig(learning_rate=1e-2, decay_frames=4_800),
    meta=MetaConfig(target_steps=2),
)
LEARNER = LearnerConfig(unroll_length=LENGTH, online_batch=2, replay_batch=4, log_interval=0.0)


def trajectories(seed: int, batch: int, version: int = 0, returns: float | None = None):
    """`batch` random unrolls; with `returns`, one episode ends in the first with that return."""
    rng = np.random.default_rng(seed)
    shape = (batch, LENGTH)
    episode_return = np.full(shape, np.nan, np.float32)
    if returns is not None:
        episode_return[0, 1] = returns
    return Trajectory(
        frames=rng.integers(0, 256, (batch, NUM_STACK + LENGTH, *SHAPE)).astype(np.uint8),
        age=rng.integers(0, NUM_STACK, (batch, LENGTH + 1)).astype(np.int32),
        action=rng.integers(0, NUM_ACTIONS, shape).astype(np.int32),
        reward=rng.normal(size=shape).astype(np.float32),
        discount=(rng.random(shape) > 0.2).astype(np.float32),
        reset=np.zeros(shape, bool),
        behaviour_logits=rng.normal(size=(*shape, NUM_ACTIONS)).astype(np.float32),
        episode_return=episode_return,
        parameter_version=np.full([batch], version, np.int32),
    )


def update_batch(seed: int, config: LearnerConfig = LEARNER, num_extra: int = 1) -> UpdateBatch:
    """A host batch of one update."""
    return UpdateBatch(
        trajectories(3 * seed, config.online_batch),
        trajectories(3 * seed + 1, config.replay_batch),
        tuple(trajectories(3 * seed + 2 + 10_000 * i, config.replay_batch)
              for i in range(num_extra)),
    )  # fmt: skip


@functools.cache  # one for all tests of a process, with what is compiled for it
def make_agent(
    agent: AgentConfig = AGENT, config: LearnerConfig = LEARNER, num_devices: int = 1
) -> ShardedAgent:
    """The agent on the first `num_devices` devices."""
    devices = jax.devices()[:num_devices]
    return make_sharded_agent(agent, config, SPEC, ACTION_REPEAT, devices)


def online_stream(config: LearnerConfig = LEARNER, returns=(), versions=()) -> Iterator[Trajectory]:
    """Endless fresh batches; the i-th has the i-th return and version, as far as there are any."""
    for i in itertools.count():
        yield trajectories(
            1_000 + i,
            config.online_batch,
            version=versions[i] if i < len(versions) else 0,
            returns=returns[i] if i < len(returns) else None,
        )


def replay_stream(config: LearnerConfig = LEARNER) -> Iterator[Trajectory]:
    """Endless replay batches."""
    return (trajectories(50_000 + i, config.replay_batch) for i in itertools.count())


def run_info(workdir: pathlib.Path, updates: int, **changes) -> RunInfo:
    """A run of so many updates of `LEARNER`."""
    info = RunInfo(
        workdir=workdir,
        game="catch",
        total_frames=updates * frames_per_update(LEARNER, ACTION_REPEAT),
        frames_per_update=frames_per_update(LEARNER, ACTION_REPEAT),
        seed=3,
        resume=False,
        protocol={"seed": 3},
        versions={"python": "3.10"},
        num_evaluators=0,
        final_timeout=DEADLINE,
        identity={"game": "catch", "seed": 3},
    )
    return info._replace(**changes)


def make_learner(
    agent: ShardedAgent,
    workdir: pathlib.Path,
    updates: int,
    changes: dict | None = None,
    notify=print,
    publish_results=lambda results: None,
    **info,
) -> Learner:
    """A learner of that agent; `changes` are of `LEARNER`."""
    config = dataclasses.replace(LEARNER, **(changes or {}))
    return Learner(agent, config, run_info(workdir, updates, **info), notify, publish_results)


REPLAY_METRICS = {
    f"replay/{table}_{name}": 7
    for table in ("online", "replay")
    for name in ("size", "inserted", "sampled")
}


NODE_METRICS = {"memory_mib/learner": 100.0, "nodes/restarts": 2.0}


def never() -> bool:
    """A run that nobody stops."""
    return False


def run(learner: Learner, online=None, replay=None, should_stop=never) -> bool:
    """Runs a learner, over endless samplers where none are given."""
    return learner.run(
        online or online_stream(),
        replay or replay_stream(),
        occupancy=lambda: REPLAY_METRICS,
        node_metrics=lambda: NODE_METRICS,
        should_stop=should_stop,
    )


def rows_of(workdir: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def results_of(workdir: pathlib.Path) -> dict:
    """results.json."""
    return json.loads((workdir / "results.json").read_text())


def checkpoints_of(workdir: pathlib.Path) -> list[str]:
    """Names of the checkpoints, oldest first."""
    return [path.name for path in checkpoint.list_checkpoints(workdir / "checkpoints")]


def assert_same(a, b) -> None:
    """The same tree, and bit-equal arrays of the same types."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
        name = jax.tree_util.keystr(path)
        x, y = np.asarray(x), np.asarray(y)
        assert (x.shape, x.dtype) == (y.shape, y.dtype), name
        assert x.tobytes() == y.tobytes(), name


def one_line(error: BaseException) -> str:
    """The error's message, which must be one line."""
    text = str(error)
    assert text and "\n" not in text
    return text
