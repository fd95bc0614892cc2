"""What the commands need of Snake; see `experiments.declaration.Functions`."""

from __future__ import annotations

import functools

from bmg.experiments.multistep import config as multistep
from bmg.experiments.multistep import estimators
from bmg.experiments.snake import figures
from bmg.experiments.snake.a2c import make_estimate, make_lifetime
from bmg.experiments.snake.config import SnakeConfig, SnakeVarianceConfig

__all__ = ["draw", "make_estimate", "make_lifetime", "suite", "summarise"]

suite = functools.partial(multistep.suite, SnakeConfig)

DESCRIPTIONS = {
    "episodes": "Episodes that ended, mean over updates.",
    "returns": "Sum of the returns of these episodes; divided by their number, a mean return.",
    "entropy": "Entropy of the policy, nats.",
    "discount": "Meta-parameter: discount of the agent's loss.",
    "trace_decay": "Meta-parameter: lambda of the agent's advantages and value targets.",
    "critic_weight": "Meta-parameter: weight of the value loss.",
    "entropy_weight": "Meta-parameter: weight of the entropy.",
    "meta_gradient_norm": "Norm of the meta-gradient.",
}


def summarise(config: SnakeConfig, steps, columns) -> dict:
    """The final return, and the last row's hyper-parameters, means over seeds."""
    returns = figures.final_return(steps, columns)
    return {
        "objective": config.objective,
        "inner_steps": config.inner_steps,
        "final_return_mean": float(returns.mean()),
        "final_return_std": float(returns.std()),
        **{name: float(columns[name][:, -1].mean()) for name in figures.HYPERPARAMETERS},
    }


def draw(runs, options: multistep.MeasuredFiguresOptions):
    """Table 1 and figure 3."""
    measured = estimators.found(options.variance, SnakeVarianceConfig)
    yield figures.table_1(runs, measured)
    yield figures.draw_learning(runs, options.folder)
