"""What the commands need of the Markov reward process; see `experiments.declaration.Functions`."""

from __future__ import annotations

import functools
import pathlib

from bmg.environments.markov_reward import NUM_STATES
from bmg.experiments.mrp import figures
from bmg.experiments.mrp.config import MrpConfig, MrpVarianceConfig
from bmg.experiments.mrp.value_prediction import make_estimate, make_lifetime
from bmg.experiments.multistep import config as multistep
from bmg.experiments.multistep import estimators
from bmg.experiments.multistep.figures import by_objective
from bmg.storage.run_directory import load_config

__all__ = ["draw", "make_estimate", "make_lifetime", "suite", "summarise"]

suite = functools.partial(multistep.suite, MrpConfig)

DESCRIPTIONS = {
    "value_error": "Root of the mean squared error of the values, over states.",
    "meta_gradient_norm": "Norm of the meta-gradient.",
    "meta_gradient_deviation": "Standard deviation of the meta-gradient over batches.",
    "discount_*": "Meta-parameter: discount in this state.",
}


def summarise(config: MrpConfig, steps, columns) -> dict:
    """The last row's values, means over seeds."""
    last = {name: float(values[:, -1].mean()) for name, values in columns.items()}
    discounts = [last.pop(f"discount_{i}") for i in range(NUM_STATES)]
    return {
        "objective": config.objective,
        "inner_steps": config.inner_steps,
        **last,
        "discounts": discounts,
    }


def draw(runs, options: multistep.MeasuredFiguresOptions):
    """What the runs came to, and figure 4; what was measured, and figure 5."""
    output = options.folder
    yield [figures.run_row(run) for run in sorted(runs, key=by_objective)]
    yield figures.draw_learning(runs, output)
    measured = estimators.found(options.variance, MrpVarianceConfig)
    if measured:
        oracle = load_config(pathlib.Path(options.variance), MrpVarianceConfig).oracle
        yield figures.estimator_rows(measured, oracle)
        if oracle:
            yield figures.draw_bias_and_variance(measured, oracle, output)
