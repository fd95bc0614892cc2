"""Actions from one server for all actors, against actors that choose them themselves: two actors of
24 environments, the 1x network, Pong 84x84, the learner's update left out."""

from __future__ import annotations

import dataclasses

import numpy as np

from bmg.benchmarks.config import BenchmarkConfig
from bmg.benchmarks.system import run_and_measure
from bmg.storage.fields import Count


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Measure the inference server."""

    rounds: Count = 3
    """Runs of each placement, in turn."""


# With two splits an actor steps one half of its environments while the other waits.
_PLACEMENTS = {
    "actor": ("actor",),
    "server": ("server",),
    "server, one split": ("server", "--actors.splits", "1"),
}


def _options(placement: str) -> list[str]:
    return [
        *("--preset", "local", "--game", "pong", "--frames", "10000000000"),
        *("--agent.network.torso", "resnet", "--agent.network.channels", "16", "32", "32", "16"),
        *("--agent.network.features", "512", "--agent.network.head-hidden", "256", "256"),
        *("--agent.algorithm", "bmg.benchmarks.idle:make", "--learner.replay-batch", "0"),
        *("--evaluator.num-evaluators", "0"),
        *("--actors.num-actors", "2", "--actors.envs-per-actor", "24"),
        *("--actors.inference", *_PLACEMENTS[placement]),
    ]


def measure(config: Config) -> list[dict]:
    """A row for each placement: medians over its runs."""
    seconds = 20.0 if config.quick else 60.0
    runs: dict[str, list[dict]] = {placement: [] for placement in _PLACEMENTS}
    for _ in range(1 if config.quick else config.rounds):
        for placement, measured in runs.items():
            measured.append(run_and_measure(_options(placement), seconds, name=placement))
    alone = np.median([run["frames_per_second"] for run in runs["actor"]])
    rows = []
    for placement, measured in runs.items():
        rate = np.median([run["frames_per_second"] for run in measured])
        rows.append(
            {
                "inference": placement,
                "agent_steps_per_second": rate / 4,
                "over_actor": rate / alone,
                "occupancy": np.median([run["occupancy"] for run in measured]),
                "peak_gb": np.median([run["peak_bytes"] for run in measured]) / 1e9,
            }
        )
    return rows
