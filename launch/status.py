"""How the nodes of a run say how they are: a file each, which the launcher watches, and a log."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import traceback
from collections.abc import Callable, Iterator

from launch.config import TrainConfig

REPLAY, LEARNER, ACTOR, EVALUATOR = "replay", "learner", "actor", "evaluator"


def node_names(config: TrainConfig) -> list[str]:
    """Names of all nodes, as in their logs; a runtime may lack the replay server."""
    return [
        REPLAY,
        LEARNER,
        *(f"{ACTOR}_{i}" for i in range(config.actors.num_actors)),
        *(f"{EVALUATOR}_{i}" for i in range(config.evaluator.num_evaluators)),
    ]


def status_file(workdir: pathlib.Path, node: str) -> pathlib.Path:
    """Where a node says how it is."""
    return workdir / "nodes" / f"{node}.json"


def log_file(workdir: pathlib.Path, node: str) -> pathlib.Path:
    """A node's log."""
    return workdir / "logs" / f"{node}.log"


def write_status(workdir: pathlib.Path, node: str, state: str, message: str = "") -> None:
    """Writes a node's state: running, finished, stopped or failed."""
    path = status_file(workdir, node)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"pid": os.getpid(), "state": state, "message": message}))
    os.replace(temporary, path)


def read_statuses(config: TrainConfig) -> dict[str, dict]:
    """What each node last said of itself."""
    statuses = {}
    for name in node_names(config):
        with contextlib.suppress(FileNotFoundError):
            statuses[name] = json.loads(status_file(config.path, name).read_text())
    return statuses


def failed_nodes(statuses: dict[str, dict]) -> list[str]:
    """Those that say so."""
    return [name for name, status in statuses.items() if status["state"] == "failed"]


def is_finished(statuses: dict[str, dict]) -> bool:
    """Whether the run is complete."""
    return statuses.get(LEARNER, {}).get("state") == "finished"


@contextlib.contextmanager
def reported(config: TrainConfig, node: str) -> Iterator[Callable[[str], None]]:
    """Records how a node ended, an error in its log as well; yields a function that sets the final
    state."""
    final = ["stopped"]
    try:
        yield lambda state: final.__setitem__(0, state)
    except BaseException as error:
        with open(log_file(config.path, node), "a") as log:
            traceback.print_exc(file=log)
        message = " ".join(str(error).split()) or type(error).__name__
        write_status(config.path, node, "failed", message)
        raise
    write_status(config.path, node, final[0])
