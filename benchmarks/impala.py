"""The whole running system as plain IMPALA without replay, 84x84 grey, on this machine.

The torsos are those of public actor-learners: DQN's 32-64-64 convolutions with 512 features, and
IMPALA's ResNet 16-32-32 with 256. docs/speed.md has the command of one to run in turns with this.
"""

from __future__ import annotations

from collections.abc import Iterator

from bmg.benchmarks.config import BenchmarkConfig as Config
from bmg.benchmarks.system import run_and_measure

_TORSOS = {
    "dqn": ["--agent.network.torso", "dqn", "--agent.network.features", "512"],
    "resnet": [
        *("--agent.network.torso", "resnet", "--agent.network.features", "256"),
        *("--agent.network.channels", "16", "32", "32"),
    ],
}
_COMMON = [
    *("--preset", "local", "--game", "pong", "--frames", "1000000000"),
    *("--agent.algorithm", "impala", "--learner.online-batch", "8", "--learner.replay-batch", "0"),
    *("--replay.replay-capacity", "0", "--evaluator.num-evaluators", "0"),
]


def measure(config: Config) -> Iterator[dict]:
    """Runs the program with each torso."""
    for torso, options in _TORSOS.items():
        measured = run_and_measure([*_COMMON, *options], seconds=20 if config.quick else 60)
        steps = measured["frames_per_second"] / 4
        yield {"torso": torso, "agent_steps_per_second": steps, **measured}
