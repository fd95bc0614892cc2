"""A2C on Snake, its hyper-parameters meta-learned: Bonnet et al., figure 3 and table 1."""

from __future__ import annotations

from bmg.experiments.declaration import Experiment
from bmg.experiments.multistep.config import MeasuredFiguresOptions, ObjectivesOptions
from bmg.experiments.snake.config import SnakeConfig, SnakeVarianceConfig

EXPERIMENT = Experiment(
    command="snake",
    config=SnakeConfig,
    module="bmg.experiments.snake.experiment",
    # The paper has 3 seeds.
    suite=ObjectivesOptions(seeds=1, steps=SnakeConfig.steps, root="runs/snake"),
    figures=MeasuredFiguresOptions(root="runs/snake", variance=SnakeVarianceConfig.workdir),
    variance=SnakeVarianceConfig,
    steps_fixed=True,
)
