"""The gate of a run of processes: what stands behind it, and what those who come in are told."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from bmg import __version__
from bmg.environments.base import MOST_WORKERS
from bmg.launch.config import TrainConfig
from bmg.launch.remote.gate import Gate, listen
from bmg.launch.remote.secret import JOIN, Join
from bmg.launch.runtimes.board import Board
from bmg.launch.runtimes.status import ACTOR, GATE, count_start, gate_status, starts_file
from bmg.storage.fields import host_and_port
from bmg.storage.run_directory import to_dict


class _Address(Protocol):
    """Where a server of the run listens, as Launchpad has it."""

    def resolve(self) -> str:
        """HOST:PORT in the run's network."""
        ...


def open_gate(
    config: TrainConfig,
    join: Join,
    context: ssl.SSLContext,
    servers: Mapping[str, _Address],
    board: Board,
    notify: Callable[[str], None],
) -> Gate:
    """Opens the gate of a run.

    Args:
      config: the run.
      join: what one joins it with.
      context: of the gate, see `secret.keep`.
      servers: the run's, by name.
      board: where the gate counts the remote actors.
      notify: takes a line for the console.
    """
    starts = 0

    def welcome(service: str) -> dict[str, Any]:
        nonlocal starts
        told = {"version": __version__, "config": to_dict(config)}
        if service == ACTOR:
            # Where it cannot be written, this stretch still counts for itself.
            starts = max(count_start(starts_file(config.path, "remote_actors")), starts)
            told["number"] = remote_actor_number(config, starts)
            starts += 1
        return told

    def counted(actors: int, lost: int) -> None:
        board.put(GATE, gate_status(actors, lost))

    counted(0, 0)
    behind = {name: host_and_port(server.resolve()) for name, server in servers.items()}
    gate = Gate(listen(config.gate_port), context, join.token, behind, welcome, counted)
    notify(
        f"actors on other machines join at port {gate.port}: copy {config.path / JOIN} there, then "
        f"bmg actors --learner HOST:{gate.port} --join {JOIN}"
    )
    return gate


def remote_actor_number(config: TrainConfig, start: int) -> int:
    """Of an actor that joined this host after so many others in the whole life of its run. The
    run's own nodes are numbered from 0 (`assembly.actor_number`), these from the other end."""
    return MOST_WORKERS - 1 - (config.hosts.count * start + config.hosts.index)
