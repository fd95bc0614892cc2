"""The running system on Pong under both runtimes, with the same preset: BMG, `local`."""

from __future__ import annotations

import dataclasses
import shlex

import numpy as np

from bmg.benchmarks.config import BenchmarkConfig
from bmg.benchmarks.system import run_and_measure
from bmg.storage.fields import Seconds


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Measure frames per second and the time to the first update of each runtime."""

    runtimes: tuple[str, ...] = ("launchpad", "local-threads")
    """Those to measure, each twice: in this order, then in the opposite one."""
    options: str = ""
    """More options of `bmg train` for all, such as "--actors.num-actors 8 --agent.network.torso
    resnet"; as one word: --options="..."."""
    seconds: Seconds = 60.0
    """That each of the two measurements lasts; a quick one takes a third."""


def measure(config: Config) -> list[dict]:
    """One row for each runtime, relative to the first: the mean of its two measurements."""
    common = ["--preset", "local", "--game", "pong", "--frames", "1000000000"]
    common += ["--evaluator.num-evaluators", "0", *shlex.split(config.options)]
    seconds = config.seconds / 3 if config.quick else config.seconds
    measured: dict[str, list[dict]] = {runtime: [] for runtime in config.runtimes}
    for runtime in (*config.runtimes, *reversed(config.runtimes)):
        options = [*common, "--runtime", runtime]
        measured[runtime].append(run_and_measure(options, seconds, name=runtime))
    rows = []
    for runtime, runs in measured.items():
        row = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        rows.append({"runtime": runtime, **row})
    for row in rows:
        row["over_first"] = row["frames_per_second"] / rows[0]["frames_per_second"]
    return rows
