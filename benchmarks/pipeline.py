"""Actors with the shallow network into Reverb and out again, the learner's update left out,
against the bare vector environment on the same cores."""

from __future__ import annotations

import os
import time

import numpy as np

from bmg.benchmarks.config import BenchmarkConfig as Config
from bmg.benchmarks.progress import show
from bmg.benchmarks.system import run_and_measure
from bmg.environments.atari import LIGHT
from bmg.environments.factory import make

_OPTIONS = [
    *("--preset", "local", "--game", "pong", "--frames", "10000000000"),
    *("--agent.algorithm", "bmg.benchmarks.idle:make", "--learner.replay-batch", "0"),
    *("--evaluator.num-evaluators", "0", "--actors.num-actors", "2"),
]


def bare_environment(seconds: float, num_envs: int = 24) -> float:
    """Agent steps per second of the vector environment alone, random actions, all cores."""
    threads = os.cpu_count() or 1
    environment = make("pong", num_envs, seed=0, worker_index=0, config=LIGHT, num_threads=threads)
    environment.reset()
    rng = np.random.default_rng(0)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        environment.step(rng.integers(0, environment.spec.num_actions, num_envs))
        steps += num_envs
    elapsed = time.perf_counter() - start
    environment.close()
    show(f"bare environment: {steps / elapsed:,.0f} agent steps/s")
    return steps / elapsed


def measure(config: Config) -> list[dict]:
    """The bare environment before and after the pipeline; the pipeline against their mean."""
    seconds = 5.0 if config.quick else 15.0
    before = bare_environment(seconds)
    measured = run_and_measure(_OPTIONS, seconds=15 if config.quick else 40, name="pipeline")
    bare = (before + bare_environment(seconds)) / 2
    steps = measured["frames_per_second"] / 4
    return [
        {"what": "bare environment", "agent_steps_per_second": bare, "over_bare": 1.0},
        {"what": "pipeline", "agent_steps_per_second": steps, "over_bare": steps / bare},
    ]
