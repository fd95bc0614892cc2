"""The program as threads of one process: needs neither Launchpad nor Reverb.

    actor threads ──► replay in memory ──► learner thread ──► evaluator threads
         └──► inference, one batch for all ◄── parameters ──┘

Environments step in C++ and networks run in XLA, both outside of Python's lock.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable

from bmg.environments.base import EnvironmentSpec
from bmg.launch.config import TrainConfig
from bmg.launch.runtimes import assembly
from bmg.launch.runtimes.board import Board
from bmg.launch.runtimes.restarts import Restarts
from bmg.launch.runtimes.status import (
    ACTOR,
    EVALUATOR,
    LEARNER,
    REPLAY,
    Node,
    failed_nodes,
    is_finished,
    node_metrics,
    node_names,
)
from bmg.learner.placement import place
from bmg.learner.update import with_precision
from bmg.replay.memory import MemoryReplay

_LEAVE_SECONDS = 12.0  # that threads have to leave; a compilation cannot be interrupted


class Threads:
    """A running program of threads, watched by what they say on a board in memory.

    Actors and evaluators that raise start again; a thread that hangs cannot be ended.
    """

    def __init__(
        self,
        config: TrainConfig,
        spec: EnvironmentSpec,
        resume: bool,
        notify: Callable[[str], None],
    ):
        """Starts the learner, which starts the others as soon as there are parameters; `notify`
        takes lines for the console."""
        self.failed: list[str] = []
        self.board = Board.make([name for name in node_names(config) if name != REPLAY])
        self._config, self._spec = config, spec
        self._resume, self._notify = resume, notify
        self._restarts = Restarts(config.node_restarts)
        self._stop = threading.Event()
        self._stalls = 0
        self._replay = MemoryReplay(
            assembly.signature(config, spec), config.replay, self._stop.is_set, config.seed,
            self._stalled,
        )  # fmt: skip
        self._runs: dict[str, Callable[[Node], str | None]] = {}  # of actors and evaluators
        self._threads: list[threading.Thread] = []
        self._start(LEARNER, self._learn)

    def poll(self) -> str:
        """running, finished or failed."""
        statuses = self.board.statuses()
        if is_finished(statuses):
            return "finished"
        for name in failed_nodes(statuses):
            if name in self._restarts.waiting:
                continue
            status = statuses[name]
            if name not in self._runs or status["state"] == "stalled":
                self.failed.append(name)
                continue
            if not self._restarts.died(name):
                self.failed.append(name)
            self._notify(self._restarts.describe(name, status["message"]))
        if self.failed:
            return "failed"
        for name in self._restarts.due():
            self._start(name, self._runs[name])
        return "running"

    def stop(self) -> bool:
        """Asks every thread to leave and waits; whether all have left."""
        self._stop.set()
        deadline = time.monotonic() + _LEAVE_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        self._replay.close()
        return not any(thread.is_alive() for thread in self._threads)

    def kill(self) -> None:
        """Nothing: threads end with their process."""

    def _start(self, name: str, run: Callable[[Node], str | None]) -> None:
        thread = Node(self._config, name, self.board, has_log=False).start_thread(run)
        self._threads = [x for x in self._threads if x.is_alive()] + [thread]

    def _stalled(self, message: str) -> None:
        """All nodes wait for the same replay."""
        self._stalls += 1
        self._notify(f"stalled: {message}")

    def _learn(self, node: Node) -> str:
        config, spec = self._config, self._spec
        assembly.join_hosts(config)
        devices = place(config.devices, config.learner.platform, central_inference=True)
        learner = assembly.make_learner(config, spec, devices, self._resume, node)
        parameters = assembly.local_parameters(learner, devices)
        inference = assembly.serve(config, spec, devices, parameters)
        policy = assembly.acting(with_precision(config.agent, devices.inference[-1]), spec)

        def act(index: int, node: Node) -> None:
            number = assembly.actor_number(config, index, node.start)
            report = functools.partial(learner.report, node.name)
            append, should_stop = self._replay.append, self._stop.is_set
            assembly.act(config, number, inference, True, append, report, should_stop)

        def evaluate(index: int, node: Node) -> None:
            number = assembly.evaluator_number(index, node.start)
            report, should_stop = learner.report_evaluation, self._stop.is_set
            assembly.evaluate(config, number, policy, parameters[-1], report, should_stop)

        def metrics() -> dict[str, float]:
            stalls = {"learner/stalls": float(self._stalls)}
            return {**node_metrics(self.board), **stalls, **inference.metrics()}

        def should_stop() -> bool:
            inference.check()
            return self._stop.is_set()

        for index in range(config.actors.num_actors):
            self._runs[f"{ACTOR}_{index}"] = functools.partial(act, index)
        for index in range(config.evaluator.num_evaluators):
            self._runs[f"{EVALUATOR}_{index}"] = functools.partial(evaluate, index)
        for name, run in self._runs.items():
            self._start(name, run)
        try:
            complete = assembly.learn(learner, config, spec, self._replay, metrics, should_stop)
        finally:
            inference.close()
        return "finished" if complete else "stopped"
