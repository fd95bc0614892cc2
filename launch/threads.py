"""The program as threads of one process: needs neither Launchpad nor Reverb.

    actor threads ──► replay in memory ──► learner thread ──► evaluator threads
         └──► inference, one batch for all ◄── parameters ──┘

Environments step in C++ and networks run in XLA, both outside of Python's lock.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable

from actors.inference import BatchedInference
from actors.parameters import LocalParameters
from environments.base import EnvironmentSpec
from launch import parts
from launch.config import TrainConfig
from launch.status import (
    ACTOR,
    EVALUATOR,
    LEARNER,
    failed_nodes,
    is_finished,
    read_statuses,
    reported,
    write_status,
)
from learner.update import select_devices, with_precision
from replay.memory import MemoryReplay

_LEAVE_SECONDS = 15.0  # that threads have to leave; a compilation cannot be interrupted


class Threads:
    """A running program of threads, watched by its nodes' state files."""

    def __init__(self, config: TrainConfig, spec: EnvironmentSpec, resume: bool):
        """Starts the learner, which starts the others as soon as there are parameters."""
        self.failed: list[str] = []
        self._config, self._spec, self._resume = config, spec, resume
        self._stop = threading.Event()
        self._replay = MemoryReplay(
            parts.signature(config, spec), config.replay, self._stop.is_set, config.seed
        )
        self._threads: list[threading.Thread] = []
        self._start(LEARNER, self._learn)

    def poll(self) -> str:
        """running, finished or failed."""
        statuses = read_statuses(self._config)
        if is_finished(statuses):
            return "finished"
        self.failed = failed_nodes(statuses)
        return "failed" if self.failed else "running"

    def stop(self) -> bool:
        """Asks every thread to leave and waits; whether all have left."""
        self._stop.set()
        deadline = time.monotonic() + _LEAVE_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        self._replay.close()
        return not any(thread.is_alive() for thread in self._threads)

    def _start(self, node: str, run: Callable[[], str | None]) -> None:
        def watched():
            # An error is in the node's log and its state by then, which the launcher watches.
            with contextlib.suppress(Exception), reported(self._config, node) as finish:
                finish(run() or "stopped")

        write_status(self._config.path, node, "running")
        thread = threading.Thread(target=watched, name=node, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _learn(self) -> str:
        config, spec = self._config, self._spec
        learner = parts.make_learner(config, spec, self._resume)
        device = select_devices(config.learner)[0]
        parameters = LocalParameters(functools.partial(learner.get_parameters, -1), device)
        policy = parts.acting(with_precision(config.agent, device), spec)
        inference = BatchedInference(policy, parameters, parts.random_key(config, 0))
        for index in range(config.actors.num_actors):
            node = f"{ACTOR}_{index}"
            report = functools.partial(learner.report, node)
            self._start(
                node,
                functools.partial(
                    parts.act, config, index, inference, self._replay.append, report,
                    self._stop.is_set,
                ),
            )  # fmt: skip
        for index in range(config.evaluator.num_evaluators):
            self._start(
                f"{EVALUATOR}_{index}",
                functools.partial(
                    parts.evaluate, config, index, policy, parameters,
                    learner.report_evaluation, self._stop.is_set,
                ),
            )  # fmt: skip
        complete = parts.learn(learner, config, spec, self._replay, self._stop.is_set)
        return "finished" if complete else "stopped"
