"""The running system on MinAtar as one compiled program, against threads with actors and a queue,
on the same environment, network and batches; and several seeds against one."""

from __future__ import annotations

import dataclasses
import shlex

import numpy as np

from bmg.benchmarks.config import BenchmarkConfig
from bmg.benchmarks.system import run_and_measure
from bmg.storage.fields import Environments, Seconds


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Measure agent steps per second of BMG and IMPALA under both runtimes."""

    game: str = "minatar/breakout"
    """One that is part of a compiled program."""
    agents: tuple[str, ...] = ("bmg", "impala")
    """Algorithms."""
    seeds: Environments = 8
    """Of the last case, side by side."""
    options: str = ""
    """More options of `bmg train` for all; as one word: --options="..."."""
    seconds: Seconds = 40.0
    """That each of the two measurements of a case lasts; a quick one takes a third."""


def measure(config: Config) -> list[dict]:
    """A row for each agent and case, means of two measurements: agent steps per second of all seeds
    together, relative to threads, and peak memory."""
    cases = {
        "local-threads": ["--runtime", "local-threads"],
        "in-graph": ["--runtime", "in-graph"],
        f"in-graph, {config.seeds} seeds": ["--runtime", "in-graph", "--seeds", str(config.seeds)],
    }
    common = ["--preset", "local", "--game", config.game, "--frames", "1000000000"]
    common += ["--evaluator.num-evaluators", "0", *shlex.split(config.options)]
    seconds = config.seconds / 3 if config.quick else config.seconds
    rows = []
    for agent in config.agents:
        measured: dict[str, list[dict]] = {name: [] for name in cases}
        for name in (*cases, *reversed(cases)):
            several = "seeds" in name
            found = run_and_measure(
                [*common, "--agent.algorithm", agent, *cases[name]], seconds,
                folder="seed-0" if several else "", name=f"{agent}, {name}",
            )  # fmt: skip
            count = config.seeds if several else 1
            measured[name].append({**found, "steps": count * found["frames_per_second"]})
        means = {
            name: {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
            for name, runs in measured.items()
        }
        for name, mean in means.items():
            rows.append(
                {
                    "agent": agent, "case": name, "agent_steps_per_second": mean["steps"],
                    "over_threads": mean["steps"] / means["local-threads"]["steps"],
                    "updates_per_second": mean["updates_per_second"],
                    "first_update_seconds": mean["first_update_seconds"],
                    "peak_bytes": mean["peak_bytes"],
                }
            )  # fmt: skip
    return rows
