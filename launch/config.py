"""The configuration of a training run, and its file in the run directory."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import typing
from typing import Any, Literal

from actors.config import ActorConfig, EvaluatorConfig
from agents.config import AgentConfig
from environments.atari import AtariConfig
from learner.config import LearnerConfig
from replay.config import ReplayConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train an agent on one game; everything a run needs."""

    preset: Literal["local", "paper"] = "local"
    """Where the other defaults come from: local fits two cores, paper is BMG Table 2 in full."""
    game: str = "pong"
    """Atari ROM name, such as pong or ms_pacman, or catch."""
    frames: int = 2_000_000
    """Environment frames to train for (agent steps times the action repeat)."""
    workdir: str = ""
    """Run directory; empty for runs/GAME."""
    seed: int = 0
    """Seeds parameters, actions and environments."""
    resume: bool = False
    """Go on from the newest checkpoint in the run directory, with the configuration found there."""
    launch: Literal["local_mp", "local_mt"] = "local_mp"
    """Processes, or threads of one process for debugging."""
    agent: AgentConfig = AgentConfig()
    atari: AtariConfig = AtariConfig()
    actors: ActorConfig = ActorConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    replay: ReplayConfig = ReplayConfig()
    learner: LearnerConfig = LearnerConfig()

    @property
    def path(self) -> pathlib.Path:
        """The run directory."""
        return pathlib.Path(self.workdir or f"runs/{self.game}")

    def __post_init__(self):
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}; give a positive number.")
        if self.actors.num_actors < 1 or self.actors.envs_per_actor < 1:
            raise ValueError("num_actors and envs_per_actor must be at least 1.")


# What a resumed run may not change: the rest only says where and how long it runs.
_FIXED = (
    "game", "seed", "agent", "atari",
    "learner.unroll_length", "learner.online_batch", "learner.replay_batch",
)  # fmt: skip


def to_dict(config) -> dict[str, Any]:
    """A configuration as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls, values: dict[str, Any]):
    """A configuration from JSON values; fields that are missing keep their defaults.

    Raises:
      ValueError: for a field that is not known, in one line.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {unknown[0]!r}.")
    fields = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(hints[name], value)
        elif isinstance(value, list):
            value = tuple(value)
        fields[name] = value
    return cls(**fields)


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def check_same(config: TrainConfig, saved: TrainConfig) -> None:
    """Refuses to go on with a run under another configuration.

    Raises:
      ValueError: in one line, naming the first field that differs.
    """
    now, then = _flatten(to_dict(config)), _flatten(to_dict(saved))
    for name in now:
        fixed = any(name == f or name.startswith(f + ".") for f in _FIXED)
        if fixed and now[name] != then[name]:
            raise ValueError(
                f"{config.path} holds a run with {name} = {then[name]!r}, not {now[name]!r}; "
                "leave that option out to resume it, or give another --workdir."
            )


def config_file(workdir: pathlib.Path) -> pathlib.Path:
    """The resolved configuration's file."""
    return workdir / "config.json"


def load_config(workdir: pathlib.Path) -> TrainConfig:
    """The configuration of the run in `workdir`.

    Raises:
      ValueError: no run there, or not readable; one line.
    """
    try:
        return from_dict(TrainConfig, json.loads(config_file(workdir).read_text()))
    except FileNotFoundError:
        raise ValueError(f"no run in {workdir} ({config_file(workdir)} is missing).") from None
    except (json.JSONDecodeError, TypeError, OSError) as error:
        raise ValueError(f"{config_file(workdir)} cannot be read: {error}") from None
