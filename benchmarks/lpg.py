"""Meta-training a learned policy gradient: environment steps per second, over what the products of
its LSTM alone would take, and memory.

Cases take turns, so that what else the machine does meets all of them. The work is that of a
meta-update of 16 lifetimes with 64 environments each, 20 steps, K = 5, 256 units.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

from bmg.agents.update_rule import RuleConfig
from bmg.benchmarks.config import BenchmarkConfig
from bmg.benchmarks.learner import product_rate
from bmg.benchmarks.progress import show, turns
from bmg.experiments.lpg.config import LpgConfig
from bmg.experiments.lpg.lifetime import make_lifetime
from bmg.experiments.runner import Runner, use_all_cores
from bmg.storage.fields import Count

_MIXED = 18  # lifetimes: 2 in each of the nine worlds


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Measure meta-updates of a learned policy gradient in tabular worlds."""

    lifetimes: Count = 16
    """Side by side, where the world is dense."""
    units: Count = 256
    """Of the LSTM."""
    rounds: Count = 5
    """Turns of each case; medians are told. A quick measurement has 2, without K = 20."""


def cases(config: Config) -> dict[str, LpgConfig]:
    """What is measured, by name."""
    rule = RuleConfig(units=config.units)
    dense = LpgConfig(worlds=("dense",), lifetimes=config.lifetimes, rule=rule, record_every=1)
    found = {
        "dense, K = 5": dense,
        "nine worlds, K = 5": LpgConfig(lifetimes=_MIXED // 9, rule=rule, record_every=1),
        "dense, K = 20": dataclasses.replace(dense, inner_steps=20),
    }
    if config.quick:
        del found["dense, K = 20"]
    return found


def steps_of(config: LpgConfig) -> int:
    """Environment steps of a meta-update."""
    lifetimes = len(config.worlds) * config.lifetimes
    return lifetimes * config.steps_per_update * config.inner_steps


def lstm_flops(config: LpgConfig) -> int:
    """FLOPs of a step in the LSTM's recurrent product: forwards, again for the meta-gradient, and
    twice backwards. All updates but the last are computed again."""
    product = 2 * config.rule.units * 4 * config.rule.units
    again = 1 - 1 / config.inner_steps
    return round(product * (3 + again))


def measure(config: Config) -> list[dict]:
    """Rows of steps_per_second, over the first case's; the time over that of the LSTM's recurrent
    products at the rate of a large product on all cores; temporary bytes of the compiled program on
    all devices, over the first case's; compile_seconds."""
    use_all_cores(config.lifetimes)
    best = product_rate("float32")  # which takes all cores
    runners, compiled, compile_seconds = {}, {}, {}
    for name, case in cases(config).items():
        runners[name] = Runner(make_lifetime(case), 1, 0, 1)
        begin = time.perf_counter()
        compiled[name] = runners[name].compile()
        compile_seconds[name] = time.perf_counter() - begin
        runners[name].advance()
        show(f"{name}: {compile_seconds[name]:.1f} s to compile")
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in turns(2 if config.quick else config.rounds):
        for name, runner in runners.items():
            begin = time.perf_counter()
            runner.advance()
            seconds[name].append(time.perf_counter() - begin)
    rows = []
    for name, case in cases(config).items():
        steps, median = steps_of(case), statistics.median(seconds[name])
        memory = compiled[name].memory_analysis().temp_size_in_bytes
        rows.append(
            {
                "case": name,
                "steps_per_second": steps / median,
                "rate_over_first": 1.0,
                "time_over_products": median / (steps * lstm_flops(case) / best),
                "temporary_bytes": memory * len(runners[name].devices),
                "temporary_over_first": 1.0,
                "compile_seconds": compile_seconds[name],
            }
        )
    for row in rows:
        row["rate_over_first"] = row["steps_per_second"] / rows[0]["steps_per_second"]
        row["temporary_over_first"] = row["temporary_bytes"] / rows[0]["temporary_bytes"]
    return rows
