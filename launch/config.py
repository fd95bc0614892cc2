"""The configuration of a training run; configurations and their files in run directories."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from actors.config import ActorConfig, EvaluatorConfig
from agents.config import AgentConfig
from environments.atari import AtariConfig
from environments.scores import validate_game
from learner.config import DevicesConfig, HostsConfig, LearnerConfig, check_shares
from replay.config import ReplayConfig
from storage.fields import MOST_NODES, Few, Seconds, Seed, Steps, check_fields, from_dict, number

Config = TypeVar("Config")

_LARGEST_FILE = 2**20  # bytes; a configuration has a few thousand


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train an agent on one game; everything a run needs."""

    preset: Literal["local", "paper", "paper-mean-loss", "paper-mean"] = "local"
    """Where the other defaults come from: local fits two cores; paper is BMG Table 2 in full, read
    as its Table 3 suggests; paper-mean-loss and paper-mean read it otherwise; docs/readings.md."""
    game: str = "pong"
    """Atari ROM name, such as pong or ms_pacman, or catch."""
    frames: Steps = 2_000_000
    """Environment frames to train for (agent steps times the action repeat)."""
    workdir: str = ""
    """Run directory; empty for runs/GAME."""
    seed: Seed = 0
    """Seeds parameters, actions and environments."""
    resume: bool = False
    """Go on from the newest checkpoint in the run directory, with the configuration found there."""
    runtime: Literal["auto", "launchpad", "local-threads"] = "auto"
    """launchpad: processes around a Reverb server. local-threads: one process, anywhere, inference
    batched on the learner's device. auto: launchpad where it is installed, else local-threads.
    Runs go on under either."""
    launch: Literal["local_mp", "local_mt"] = "local_mp"
    """Launchpad's processes, or its threads of one process for debugging; unread by local-threads.
    """
    network: Literal["private", "host"] = "private"
    """private: the run's processes have a network of their own with nothing but a loopback, where
    the kernel allows it (Linux); nobody else can reach them. host: the machine's. Unread by
    local-threads, which opens no port."""
    restarts: Few = 0
    """How often the run goes on from its newest checkpoint by itself after it has failed."""
    node_restarts: Few = 10
    """Deaths of one actor or evaluator within ten minutes, after each of which it starts again; one
    more ends the run."""
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
        return pathlib.Path(self.workdir or f"runs/{self.game}")

    @property
    def path(self) -> pathlib.Path:
        """This host's part of the run directory; the first host's is the whole."""
        return host_folder(self.root, self.hosts.index)

    def __post_init__(self):
        check_fields(self)
        validate_game(self.game)
        check_shares(self.learner, self.hosts.count, "hosts")
        if self.hosts.count * self.actors.num_actors > MOST_NODES:
            raise ValueError(
                f"{self.hosts.count} hosts with {self.actors.num_actors} actors each are too many; "
                f"give --actors.num-actors {MOST_NODES // self.hosts.count} at most."
            )


# What a resumed run may not change: the rest only says where and how long it runs.
_FIXED = (
    "game", "seed", "agent", "atari",
    "learner.unroll_length", "learner.online_batch", "learner.replay_batch",
)  # fmt: skip

_SHARED = (
    *_FIXED, "frames", "learner.publish_interval", "learner.skip_update", "actors.num_actors",
    "devices.learner", "hosts.count", "hosts.check_updates",
)  # fmt: skip


def to_dict(config) -> dict[str, Any]:
    """A configuration as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def fixed_fields(config: TrainConfig) -> dict[str, Any]:
    """What a resumed run may not change, `group.name` -> JSON value."""
    return {name: x for name, x in _flatten(to_dict(config)).items() if _is_fixed(name, _FIXED)}


def shared_fields(config: TrainConfig) -> dict[str, Any]:
    """What all hosts of a run must have in common, `group.name` -> JSON value."""
    return {name: x for name, x in _flatten(to_dict(config)).items() if _is_fixed(name, _SHARED)}


def _is_fixed(name: str, fixed: Sequence[str]) -> bool:
    return any(name == f or name.startswith(f + ".") for f in fixed)


def check_same(config, saved, fixed: Sequence[str] = _FIXED) -> None:
    """Refuses to go on with a run under another configuration.

    Args:
      config: what is asked for; its `path` is the run directory.
      saved: what the run was started with.
      fixed: fields, or groups of them, that may not differ.

    Raises:
      ValueError: in one line, naming the first field that differs.
    """
    now, then = _flatten(to_dict(config)), _flatten(to_dict(saved))
    for name in now:
        if _is_fixed(name, fixed) and now[name] != then[name]:
            raise ValueError(
                f"{config.path} holds a run with {name} = {then[name]!r}, not {now[name]!r}; "
                "leave that option out to resume it, or give another --workdir."
            )


def check_workdir(config, fixed: Sequence[str] = _FIXED) -> None:
    """Refuses a run directory that holds another run, or none where one is to be resumed.

    Args:
      config: what is asked for, with `path` and `resume`.
      fixed: fields that a resumed run may not change.

    Raises:
      ValueError: one line.
    """
    workdir = config.path
    if config_file(workdir).exists():
        saved = load_config(workdir, type(config))
        if config.resume:
            check_same(config, saved, fixed)
        else:
            raise ValueError(
                f"{workdir} holds a run already; give --resume to go on with it, or another "
                "--workdir."
            )
    elif _holds_a_run(workdir):
        raise ValueError(
            f"{workdir} holds checkpoints or metrics of a run, and no {config_file(workdir).name}; "
            "bring that back, or give another --workdir."
        )
    elif config.resume:
        raise ValueError(f"no run to resume in {workdir}; leave --resume out to start one there.")


def _holds_a_run(workdir: pathlib.Path) -> bool:
    """Whether something is there that a new run would mix with its own."""
    results = ("metrics.jsonl", "results.csv", "results.json")
    checkpoints = workdir / "checkpoints"
    return any((workdir / name).exists() for name in results) or (
        checkpoints.is_dir() and any(checkpoints.iterdir())
    )


def host_folder(root: pathlib.Path, index: int) -> pathlib.Path:
    """Where host `index` of a run writes."""
    return root / "hosts" / str(index) if index else root


def config_file(workdir: pathlib.Path) -> pathlib.Path:
    """The resolved configuration's file."""
    return workdir / "config.json"


def load_config(workdir: pathlib.Path, cls: type[Config] = TrainConfig) -> Config:
    """The configuration of the run in `workdir`, of the given kind.

    Raises:
      ValueError: no run there, or not readable; one line.
    """
    path = config_file(workdir)
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large")
        # Python may refuse to read integers of many digits, which no field takes.
        values = json.loads(path.read_text("utf-8"), parse_int=number)
    except FileNotFoundError:
        raise ValueError(f"no run in {workdir} ({path} is missing).") from None
    except RecursionError:
        raise ValueError(f"{path} cannot be read: it is nested too deeply.") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    try:
        return from_dict(cls, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
