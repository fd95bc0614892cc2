"""BMG section 6 and appendix D: few-shot classification of images."""

from __future__ import annotations

from bmg.experiments.declaration import Experiment
from bmg.experiments.few_shot.config import (
    FewShotConfig,
    FewShotEvaluateOptions,
    FewShotFiguresOptions,
    FewShotSuiteOptions,
)

EXPERIMENT = Experiment(
    command="few-shot",
    config=FewShotConfig,
    module="bmg.experiments.few_shot.experiment",
    # The paper has 3 seeds and 300,000 meta-batches.
    suite=FewShotSuiteOptions(),
    figures=FewShotFiguresOptions(),
    evaluate=FewShotEvaluateOptions(),
)
