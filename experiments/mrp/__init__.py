"""Value prediction on the Markov reward process: Bonnet et al., section 3.3 and figures 4 and 5."""

from __future__ import annotations

from bmg.experiments.declaration import Experiment
from bmg.experiments.mrp.config import MrpConfig, MrpVarianceConfig
from bmg.experiments.multistep.config import MeasuredFiguresOptions, ObjectivesOptions

EXPERIMENT = Experiment(
    command="mrp",
    config=MrpConfig,
    module="bmg.experiments.mrp.experiment",
    suite=ObjectivesOptions(seeds=5, steps=MrpConfig.steps, root="runs/mrp"),
    figures=MeasuredFiguresOptions(root="runs/mrp", variance=MrpVarianceConfig.workdir),
    variance=MrpVarianceConfig,
)
