"""Threads that raise: started again, counted, and given up in the end."""

from __future__ import annotations

import dataclasses
import itertools
import time

import pytest

from bmg.environments.factory import make, make_spec
from bmg.launch.presets import PRESETS
from bmg.launch.runtimes import assembly, threads
from bmg.launch.runtimes.threads import Threads
from bmg.learner.config import DevicesConfig
from tests.launch.commands import rows_of
from tests.waiting import DEADLINE

pytestmark = pytest.mark.usefixtures("quick_compilation")
ENDLESS = 10**9


class Fragile:
    """Catch, until its steps are used up."""

    error: Exception = OSError("the emulator is gone")

    def __init__(self, environment, steps: int):
        self._environment, self._left = environment, steps
        self.spec, self.num_envs = environment.spec, environment.num_envs

    def reset(self):
        return self._environment.reset()

    def step(self, actions):
        self._left -= 1
        if self._left < 0:
            raise self.error
        return self._environment.step(actions)

    def close(self):
        self._environment.close()


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a run whose environments last so many steps each, in order of their starts."""
    programs, workers, lines = [], [], []

    def started(lasting, **changes):
        lasting = iter(lasting)

        def fragile(game, num_envs, seed, worker_index, config, num_threads, first, options):
            workers.append(worker_index)
            numbers = (num_envs, seed, worker_index)
            environment = make(game, *numbers, config, num_threads, first, options)
            return Fragile(environment, next(lasting))

        monkeypatch.setattr(assembly, "make", fragile)
        # Neither is a learner that compiles for long a stall, nor a run that cannot be stopped.
        monkeypatch.setattr(threads, "_LEAVE_SECONDS", DEADLINE)
        config = PRESETS["local"]("catch")
        config = dataclasses.replace(
            config,
            workdir=str(tmp_path),
            frames=ENDLESS,
            actors=dataclasses.replace(config.actors, num_actors=1, splits=1, report_interval=0.1),
            devices=DevicesConfig(learner=1, inference=1),
            learner=dataclasses.replace(config.learner, log_interval=0.1),
            replay=dataclasses.replace(config.replay, stall_after=DEADLINE),
            evaluator=dataclasses.replace(config.evaluator, num_evaluators=0),
            **changes,
        )
        for folder in ("checkpoints", "logs", "nodes", "tensorboard"):
            (tmp_path / folder).mkdir()
        spec = make_spec("catch", config.atari)
        programs.append(Threads(config, spec, resume=False, notify=lines.append))
        return programs[-1], workers, lines

    yield started
    for program in programs:
        assert program.stop()


def wait_for(program: Threads, condition) -> str:
    """Polls as the launcher does, until the condition holds or the run is over; its state."""
    deadline = time.monotonic() + DEADLINE
    while (state := program.poll()) == "running" and not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
    return state


def last_metrics(tmp_path) -> dict:
    return [{}, *rows_of(tmp_path)][-1]


def test_an_environment_that_throws_costs_its_actor_a_second(start, tmp_path):
    program, workers, lines = start([200, ENDLESS])

    def restarted_and_counted():
        return last_metrics(tmp_path).get("nodes/restarts") == 1

    assert wait_for(program, restarted_and_counted) == "running"
    assert workers == [0, 2000], "the second start has seeds of its own"
    (line,) = lines
    assert line == "actor_0 died (the emulator is gone); it starts again in 1 s"
    updates = last_metrics(tmp_path)["learner/updates"]
    assert wait_for(
        program, lambda: last_metrics(tmp_path)["learner/updates"] > updates + 10
    ) == "running"  # fmt: skip
    assert "the emulator is gone" in (tmp_path / "logs" / "actor_0.log").read_text()


def test_a_crash_loop_ends_the_run_with_its_reason(start):
    program, workers, lines = start(itertools.repeat(30), node_restarts=2)
    assert wait_for(program, lambda: False) == "failed"
    assert program.failed == ["actor_0"]
    assert workers == [0, 2000, 4000]
    assert "the emulator is gone" in lines[-1] and "3 times within 10 minutes" in lines[-1]


def test_no_restarts_may_be_wanted(start):
    program, workers, _ = start([30], node_restarts=0)
    assert wait_for(program, lambda: False) == "failed"
    assert program.failed == ["actor_0"] and workers == [0]


def test_who_waited_in_vain_ends_the_run(start, monkeypatch):
    """It is not at fault, and would only wait again."""
    monkeypatch.setattr(Fragile, "error", TimeoutError("no unroll was taken for 600 s"))
    program, workers, lines = start([30])
    assert wait_for(program, lambda: False) == "failed"
    assert program.failed == ["actor_0"] and workers == [0] and lines == []
