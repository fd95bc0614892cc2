"""Snake: steps per second and peak memory of each objective over the plain A2C's."""

from __future__ import annotations

import dataclasses
import statistics
import time

import jax

from bmg.benchmarks.config import BenchmarkConfig
from bmg.benchmarks.progress import show, turns
from bmg.experiments.multistep.config import ObjectiveConfig
from bmg.experiments.snake.a2c import make_lifetime
from bmg.experiments.snake.config import SnakeConfig
from bmg.storage.fields import Count

_FIXED, _ONE_STEP = ObjectiveConfig("fixed"), ObjectiveConfig("n-step", 1)
_OTHERS = (
    ObjectiveConfig("n-step", 3), ObjectiveConfig("n-step", 5), ObjectiveConfig("n-step", 10),
    ObjectiveConfig("mixed", 3), ObjectiveConfig("mixed", 5), ObjectiveConfig("bmg", 3),
    ObjectiveConfig("bmg", 5), ObjectiveConfig("mixed-bmg", 3), ObjectiveConfig("mixed-bmg", 5),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Update A2C on Snake under each objective, in turns."""

    repetitions: Count = 10
    """Turns; medians are told."""


def measure(config: Config) -> list[dict]:
    """Rows of objective, steps_per_second and peak memory, both over others', seconds to compile.

    The objectives take turns, so that what else the machine does meets all of them.
    """
    objectives = (_FIXED, _ONE_STEP, *(() if config.quick else _OTHERS))
    windows, states, peaks, compilation = {}, {}, {}, {}
    for objective in objectives:
        lifetime = make_lifetime(SnakeConfig(**dataclasses.asdict(objective)))
        state = jax.jit(lifetime.init)(jax.random.PRNGKey(0))
        began = time.perf_counter()
        windows[objective] = jax.jit(lifetime.window).lower(state, None).compile()
        compilation[objective] = time.perf_counter() - began
        memory = windows[objective].memory_analysis()
        peaks[objective] = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        states[objective], _ = windows[objective](state, None)
        show(f"{objective.label}: {compilation[objective]:.1f} s to compile")
    seconds: dict[ObjectiveConfig, list[float]] = {objective: [] for objective in objectives}
    for _ in turns(config.repetitions):
        for objective in objectives:
            began = time.perf_counter()
            after = windows[objective](states[objective], None)
            states[objective], _ = jax.block_until_ready(after)
            seconds[objective].append(time.perf_counter() - began)
    medians = {objective: statistics.median(times) for objective, times in seconds.items()}
    steps = SnakeConfig().steps_per_update
    return [
        {
            "objective": objective.label,
            "steps_per_second": steps / medians[objective],
            "rate_over_fixed": medians[_FIXED] / medians[objective],
            "peak_bytes": peaks[objective],
            "peak_over_n_1": peaks[objective] / peaks[_ONE_STEP],
            "compilation": compilation[objective],
        }
        for objective in objectives
    ]
