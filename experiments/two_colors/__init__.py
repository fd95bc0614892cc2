"""BMG section 5.1 and appendix B: what bootstrapping does, in minutes and without Atari."""

from __future__ import annotations

from bmg.experiments.config import FiguresOptions
from bmg.experiments.declaration import Experiment
from bmg.experiments.two_colors.config import MethodsOptions, TwoColorsConfig

EXPERIMENT = Experiment(
    command="two-colors",
    config=TwoColorsConfig,
    module="bmg.experiments.two_colors.experiment",
    suite=MethodsOptions(seeds=8, root="runs/two_colors"),
    figures=FiguresOptions(root="runs/two_colors"),
)
