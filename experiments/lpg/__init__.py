"""Oh et al., "Discovering Reinforcement Learning Algorithms": a learned policy gradient."""

from __future__ import annotations

from bmg.experiments.declaration import Experiment
from bmg.experiments.lpg.config import (
    LpgConfig,
    LpgEvaluateOptions,
    LpgFiguresOptions,
    LpgSuiteOptions,
)

EXPERIMENT = Experiment(
    command="lpg",
    config=LpgConfig,
    module="bmg.experiments.lpg.experiment",
    suite=LpgSuiteOptions(),
    figures=LpgFiguresOptions(),
    evaluate=LpgEvaluateOptions(),
)
