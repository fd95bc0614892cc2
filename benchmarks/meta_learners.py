"""How far the meta-learners of the experiments in one process are from Adam's epsilon.

Adam divides by sqrt(v) + epsilon: where the root mean square of a meta-gradient is far below
epsilon, its steps are that much smaller than the step size. `bmg train` logs the same of its own
runs as `meta/step_share` and `meta/update_size`.
"""

from __future__ import annotations

import jax
import numpy as np
import optax

from bmg.benchmarks.config import BenchmarkConfig as Config
from bmg.experiments.lifetime import Lifetime
from bmg.experiments.mrp import value_prediction
from bmg.experiments.mrp.config import MrpConfig
from bmg.experiments.runner import Runner, use_all_cores
from bmg.experiments.snake import a2c
from bmg.experiments.snake.config import SnakeConfig
from bmg.experiments.two_colors import experiment as two_colors
from bmg.experiments.two_colors.config import ActorCriticConfig, TwoColorsConfig

_REGULARIZED = ActorCriticConfig(meta_regularization=0.1)


def _two_colors(**fields) -> Lifetime:
    return two_colors.make_lifetime(TwoColorsConfig(**fields))


# name -> the lifetime, Adam's epsilon, and environment steps of a quick and of a whole measurement
_CASES = {
    "two colours, MG, K = 1": (
        lambda: _two_colors(method="mg", actor_critic=_REGULARIZED), 1e-4, 20_000, 400_000
    ),
    "two colours, BMG, L = 1": (lambda: _two_colors(target_steps=1), 1e-4, 20_000, 400_000),
    "two colours, BMG, L = 7": (lambda: _two_colors(), 1e-4, 20_000, 400_000),
    "two colours, Q(lambda), BMG, L = 16": (
        lambda: _two_colors(agent="q-lambda", target_steps=16), 1e-4, 20_000, 200_000
    ),
    "reward process, n-step, n = 3": (
        lambda: value_prediction.make_lifetime(MrpConfig()), 1e-8, 6_400, 160_000
    ),
    "Snake, n-step, n = 3": (lambda: a2c.make_lifetime(SnakeConfig()), 1e-8, 12_800, 640_000),
}  # fmt: skip


def measure(config: Config):
    """Rows of each meta-learner, over its meta-parameters after so many environment steps:

    gradient_median and gradient_largest, root mean squares of the meta-gradient as Adam's second
    moment has them; share_median and share_largest of Adam's whole steps that they leave;
    step_median and step_largest, the last step itself over the step size.
    """
    use_all_cores(1)
    for name, (make, epsilon, quick_steps, steps) in _CASES.items():
        runner = Runner(make(), 1, 0, stretch=10**6)
        runner.run(quick_steps if config.quick else steps, lambda steps: None)
        adam = optax.tree.get(runner.lifetime(0).meta.opt_state, "ScaleByAdamState")
        yield {"meta_learner": name, "steps": runner.records.steps, **sizes(adam, epsilon)}


def sizes(adam: optax.ScaleByAdamState, epsilon: float, b1: float = 0.9, b2: float = 0.999) -> dict:
    """A row of `measure`."""
    count = float(adam.count)
    flat = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(moment)]).astype(np.float64)
        for moment in (adam.mu, adam.nu)
    ]
    mean, root = flat[0] / (1.0 - b1**count), np.sqrt(flat[1] / (1.0 - b2**count))
    share = root / (root + epsilon)
    step = np.abs(mean) / (root + epsilon)
    return {
        "meta_parameters": len(root),
        "epsilon": epsilon,
        "gradient_median": float(np.median(root)),
        "gradient_largest": float(np.max(root)),
        "share_median": float(np.median(share)),
        "share_largest": float(np.max(share)),
        "step_median": float(np.median(step)),
        "step_largest": float(np.max(step)),
    }
