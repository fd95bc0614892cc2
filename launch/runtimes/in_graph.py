"""The program as one compiled program: see `learner.in_graph`.

workdir/                 one seed: a run directory like any other
workdir/seed-3/, ...     several: one for each, and results.json over them
.../playing/             where environments and ring are, beside the newest checkpoint
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import threading
from typing import Any

import numpy as np

from bmg.environments.base import EnvironmentSpec
from bmg.launch.config import TrainConfig
from bmg.launch.runtimes.board import Board
from bmg.launch.runtimes.status import LEARNER, Node, failed_nodes, is_finished
from bmg.storage.files import write_json
from bmg.storage.run_directory import config_file, to_dict

_LEAVE_SECONDS = 12.0  # a chunk, or a compilation, cannot be interrupted


def of_seeds(config: TrainConfig) -> list[TrainConfig]:
    """The run of each seed, in its own run directory."""
    if config.seeds == 1:
        return [config]
    return [
        dataclasses.replace(
            config, seed=seed, seeds=1, workdir=str(config.path / f"seed-{seed}"),
        )
        for seed in range(config.seed, config.seed + config.seeds)
    ]  # fmt: skip


def directories(config: TrainConfig) -> list[pathlib.Path]:
    """The run directory of each seed."""
    return [own.path for own in of_seeds(config)]


def folders(config: TrainConfig) -> list[pathlib.Path]:
    """All that a run writes into: its own, and that of each of several seeds."""
    return list(dict.fromkeys([config.path, *directories(config)]))


class InGraph:
    """The running program: a thread that says on a board how it is."""

    def __init__(self, config: TrainConfig, spec: EnvironmentSpec, resume: bool):
        """Starts it."""
        from bmg.experiments.runner import use_all_cores

        self.failed: list[str] = []
        self.board = Board.make([LEARNER])
        self._config, self._spec, self._resume = config, spec, resume
        self._stop = threading.Event()
        use_all_cores(config.seeds)  # before JAX is first used
        self._thread = Node(config, LEARNER, self.board, has_log=False).start_thread(self._learn)

    def poll(self) -> str:
        """running, finished or failed."""
        statuses = self.board.statuses()
        self.failed = failed_nodes(statuses)
        if self.failed:
            return "failed"
        return "finished" if is_finished(statuses) else "running"

    def stop(self) -> bool:
        """Asks it to leave and waits; whether it has left."""
        self._stop.set()
        self._thread.join(_LEAVE_SECONDS)
        return not self._thread.is_alive()

    def kill(self) -> None:
        """Nothing: a thread ends with its process."""

    def _learn(self, node: Node) -> str:
        from bmg.agents.factory import make_agent
        from bmg.environments.factory import make_world
        from bmg.launch.runtimes.assembly import agent_spec, run_info
        from bmg.learner.in_graph_learner import InGraphLearner, axis_name, spread
        from bmg.learner.placement import local_devices
        from bmg.learner.record import RunRecord
        from bmg.learner.update import with_precision

        config, spec = self._config, self._spec
        devices = local_devices(config.learner.platform)[: config.devices.learner or None]
        mesh = spread(config.seeds, config.learner, devices)
        if mesh.size < len(devices):
            node.note(
                f"{mesh.size} of {len(devices)} devices are used: --seeds, --learner.online-batch "
                "and --learner.replay-batch divide evenly over no more"
            )
        made_for = agent_spec(spec)._replace(axis_name=axis_name(mesh))
        agent = make_agent(with_precision(config.agent, devices[0]), made_for)
        world = make_world(config.game, config.game_options)
        found: dict[int, dict[str, Any]] = {}
        records = []
        # A process may end after it wrote those of some seeds: the ones before are needed.
        kept = max(config.learner.checkpoints_kept, 2 if config.seeds > 1 else 1)
        for index, own in enumerate(of_seeds(config)):
            if config.seeds > 1:
                write_json(config_file(own.path), to_dict(dataclasses.replace(own, resume=False)))
            info = run_info(own, spec, self._resume)
            publish = node.publish_results
            if config.seeds > 1:
                publish = functools.partial(found.__setitem__, index)
            records.append(RunRecord(info, kept, node.note, publish))
        learner = InGraphLearner(
            agent, world, config.learner, config.evaluator.episodes, config.evaluator.interval,
            config.replay.replay_capacity, records, mesh, node.note,
        )  # fmt: skip
        try:
            return "finished" if learner.run(self._stop.is_set) else "stopped"
        finally:
            if config.seeds > 1 and len(found) == config.seeds:
                results = summary([found[index] for index in range(config.seeds)])
                node.publish_results(results)
                write_json(config.path / "results.json", results)


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Over seeds: what they have in common, and each score with its mean."""
    own = ("training_return", "evaluation_return", "human_normalized_score", "episodes")
    common = {name: x for name, x in results[0].items() if name not in (*own, "evaluation")}
    common["protocol"] = {k: v for k, v in common["protocol"].items() if k != "seed"}
    scores: dict[str, Any] = {}
    for name in own:
        values = [one[name] for one in results]
        there = [x for x in values if x is not None]
        scores[name] = float(np.mean(there)) if there else None
        scores[f"{name}_of_seeds"] = values
    return {"seeds": [one["protocol"]["seed"] for one in results], **common, **scores}
