"""The configuration of a training run."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, Literal

from bmg.actors.config import ActorConfig, EvaluatorConfig
from bmg.agents.config import AgentConfig
from bmg.environments.atari import AtariConfig
from bmg.environments.games import folder_name, kind_of, read_options
from bmg.learner.config import DevicesConfig, HostsConfig, LearnerConfig, check_shares
from bmg.replay.config import ReplayConfig
from bmg.storage.fields import (
    MOST_NODES,
    Environments,
    Few,
    Port,
    Seconds,
    Seed,
    Steps,
    check_fields,
    check_seeds,
)
from bmg.storage.run_directory import host_folder, load_config, select


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train an agent on one game; everything a run needs."""

    preset: Literal["local", "paper", "paper-mean-loss", "paper-mean"] = "local"
    """Where the other defaults come from: local fits two cores; paper is BMG Table 2 in full, read
    as its Table 3 suggests; paper-mean-loss and paper-mean read it otherwise; docs/readings.md."""
    game: str = "pong"
    """Atari ROM name, such as pong or ms_pacman; catch, snake, grid, minatar/breakout and the other
    MinAtar games; gymnasium:ID, any environment that is registered with Gymnasium; or
    package.module:function for your own; docs/environments.md."""
    game_options: str = ""
    """JSON object of options for gymnasium's make, your own function, or a game other than Atari's,
    such as '{"size": 9}'."""
    frames: Steps = 2_000_000
    """Environment frames to train for (agent steps times the action repeat)."""
    workdir: str = ""
    """Run directory; empty for runs/GAME."""
    seed: Seed = 0
    """Seeds parameters, actions and environments."""
    resume: bool = False
    """Go on from the newest checkpoint in the run directory, with the configuration found there."""
    runtime: Literal["auto", "launchpad", "local-threads", "in-graph"] = "auto"
    """launchpad: processes around a Reverb server. local-threads: one process, anywhere, inference
    batched on the learner's device. in-graph: acting, replay and learning are one compiled program,
    for environments that are pure functions. auto: launchpad where it is installed, else
    local-threads. Runs go on under any."""
    seeds: Environments = 1
    """Runs side by side, of this seed and the next ones; in-graph alone."""
    launch: Literal["local_mp", "local_mt"] = "local_mp"
    """Launchpad's processes, or its threads of one process for debugging; unread by local-threads.
    """
    network: Literal["private", "host"] = "private"
    """private: the run's processes have a network of their own with nothing but a loopback, where
    the kernel allows it (Linux); nobody else can reach them. host: the machine's. Unread by
    local-threads, which opens no port."""
    gate_port: Port = 0
    """TCP port of this machine at which actors on others join the run: bmg actors; 0 for none.
    Launchpad alone; docs/devices.md."""
    restarts: Few = 0
    """How often the run goes on from its newest checkpoint by itself after it has failed; not where
    it has failed of what you have to mend (exit code 2)."""
    node_restarts: Few = 10
    """Deaths of one actor or evaluator within ten minutes, after each of which it starts again; one
    more ends the run."""
    wandb: str = ""
    """Project of Weights & Biases that the metrics are sent to as well; empty for none."""
    silence_timeout: Seconds = 600.0
    """Seconds without a sign of life after which an actor's or an evaluator's process is taken for
    hung, killed and started again; longer than its policy takes to compile."""
    agent: AgentConfig = AgentConfig()
    atari: AtariConfig = AtariConfig()
    actors: ActorConfig = ActorConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    replay: ReplayConfig = ReplayConfig()
    learner: LearnerConfig = LearnerConfig()
    devices: DevicesConfig = DevicesConfig()
    hosts: HostsConfig = HostsConfig()

    @property
    def root(self) -> pathlib.Path:
        """The run directory."""
        return pathlib.Path(self.workdir or f"runs/{folder_name(self.game)}")

    @property
    def path(self) -> pathlib.Path:
        """This host's part of the run directory; the first host's is the whole."""
        return host_folder(self.root, self.hosts.index)

    def __post_init__(self):
        check_fields(self)
        kind = kind_of(self.game)
        if read_options(self.game_options) and kind == "atari":
            raise ValueError(f"game_options are given, and {self.game} has none; leave them out.")
        if self.seeds > 1 and self.runtime != "in-graph":
            raise ValueError(f"seeds is {self.seeds}; several need --runtime in-graph.")
        check_seeds("seed", self.seed, self.seeds)
        check_shares(self.learner, self.hosts.count, "hosts")
        if self.hosts.count * self.actors.num_actors > MOST_NODES:
            raise ValueError(
                f"{self.hosts.count} hosts with {self.actors.num_actors} actors each are too many; "
                f"give --actors.num-actors {MOST_NODES // self.hosts.count} at most."
            )


# What a resumed run may not change: the rest only says where and how long it runs.
FIXED = (
    "game", "game_options", "seed", "seeds", "atari",
    "agent.algorithm", "agent.network", "agent.loss", "agent.optimizer", "agent.meta",
    "agent.lpg.learning_rate", "agent.lpg.prediction_cost", "agent.lpg.baseline",
    "learner.unroll_length", "learner.online_batch", "learner.replay_batch",
)  # fmt: skip

_SHARED = (
    *FIXED, "frames", "learner.publish_interval", "actors.num_actors",
    "devices.learner", "hosts.count", "hosts.check_updates",
)  # fmt: skip


def load_run(workdir: str) -> TrainConfig:
    """The run in a directory, which may have been moved, with the rule that it kept.

    Raises:
      ValueError: there is none, or several seeds are; one line.
    """
    config = load_config(pathlib.Path(workdir), TrainConfig)
    if config.seeds > 1:
        last = config.seed + config.seeds - 1
        raise ValueError(
            f"{workdir} holds {config.seeds} seeds; give one of them, {workdir}/seed-{config.seed} "
            f"to seed-{last}, as --workdir."
        )
    return with_kept_rule(dataclasses.replace(config, workdir=workdir))


def with_kept_rule(config: TrainConfig) -> TrainConfig:
    """With the rule that lies in the run directory since the run began, where one does: the file
    that it was copied from may be gone, or hold another one."""
    kept = kept_rule(config)
    if config.agent.algorithm != "lpg" or not kept.exists():
        return config
    lpg = dataclasses.replace(config.agent.lpg, rule=str(kept))
    return dataclasses.replace(config, agent=dataclasses.replace(config.agent, lpg=lpg))


def kept_rule(config: TrainConfig) -> pathlib.Path:
    """Where a run keeps the rule of its agent."""
    return config.path / "rule.npz"


def fixed_fields(config: TrainConfig) -> dict[str, Any]:
    """What a resumed run may not change, `group.name` -> JSON value."""
    return select(config, FIXED)


def shared_fields(config: TrainConfig) -> dict[str, Any]:
    """What all hosts of a run must have in common, `group.name` -> JSON value."""
    return select(config, _SHARED)
