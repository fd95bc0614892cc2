"""Environment steps per second of the two-colours agents, on all cores or the accelerator."""

from __future__ import annotations

import statistics
import time

from bmg.benchmarks.config import BenchmarkConfig as Config
from bmg.benchmarks.progress import show, turns
from bmg.experiments.runner import Runner, use_all_cores
from bmg.experiments.two_colors.config import TwoColorsConfig
from bmg.experiments.two_colors.experiment import make_lifetime

_MANY_SEEDS = 16
_METHODS = {
    "fixed": TwoColorsConfig(method="fixed"),
    "mg, K = 1": TwoColorsConfig(method="mg"),
    "mg, K = 8": TwoColorsConfig(method="mg", inner_steps=8),
    "bmg, K = 1, L = 1": TwoColorsConfig(method="bmg", target_steps=1),
    "bmg, K = 1, L = 7": TwoColorsConfig(method="bmg"),
    "q-lambda fixed": TwoColorsConfig(agent="q-lambda", method="fixed"),
    "q-lambda bmg, L = 16": TwoColorsConfig(agent="q-lambda", target_steps=16),
}


def measure(config: Config) -> list[dict]:
    """Rows of method, seeds, steps_per_second in total, and time per step over the plain agent's.

    The methods take turns, so that what else the machine does meets all of them; medians.
    """
    use_all_cores(_MANY_SEEDS)
    rows = []
    for seeds in (1, _MANY_SEEDS):
        runners = {}
        for name, method in _METHODS.items():
            runners[name] = Runner(make_lifetime(method), seeds, 0, method.record_every)
            runners[name].advance()  # compiles
            show(f"{name}, seeds {seeds}: compiled")
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for _ in turns(3 if config.quick else 10):
            for name, runner in runners.items():
                began, before = time.perf_counter(), runner.records.steps
                runner.advance()
                elapsed = time.perf_counter() - began
                seconds[name].append(elapsed / (runner.records.steps - before))
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, median in medians.items():
            plain = "q-lambda fixed" if name.startswith("q-lambda") else "fixed"
            rows.append(
                {
                    "method": name,
                    "seeds": seeds,
                    "steps_per_second": seeds / median,
                    "time_over_fixed": median / medians[plain],
                }
            )
    return rows
