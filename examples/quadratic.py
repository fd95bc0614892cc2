"""An experiment of your own in one file: one step size for gradient descent on many quadratics.

    x' = x - exp(w) c x        w follows the mean over tasks of  sum c x(K)^2 / 2

The numbers c of each task are data. Run in this folder, with options, files and resuming like the
experiments of the package:

bmg quadratic:EXPERIMENT all
bmg quadratic:EXPERIMENT figures
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bmg.experiments.config import FiguresOptions, LifetimesConfig, SuiteOptions
from bmg.experiments.declaration import Experiment
from bmg.experiments.lifetime import Lifetime, MetaState, State
from bmg.experiments.plots import draw_band, save_panels
from bmg.meta import core, objectives
from bmg.storage.fields import Count, Lookahead, check_fields

# The algorithm.

CURVATURES = np.random.default_rng(0).uniform(0.2, 2.0, size=(64, 3)).astype(np.float32)
TASKS = 8  # of a meta-batch


def loss(x, curvature, key=None):
    return 0.5 * jnp.sum(curvature * x**2), {}


def step(log_rate, x, curvature, key):
    return x - jnp.exp(log_rate) * jax.grad(lambda x: loss(x, curvature)[0])(x), ()


compute = core.meta_gradient(core.online_start, step, objectives.final_value(loss))


def mean_meta_gradient(log_rate, data, inner_steps, key):
    """Over the tasks of one meta-batch; each begins at ones."""
    tasks = data[jax.random.choice(key, len(data), (TASKS,))]
    of_one = jax.vmap(
        lambda c: compute(log_rate, jnp.ones(3), (c,) * inner_steps, c, key)._asdict()
    )(tasks)
    return jnp.mean(of_one["gradient"]), jnp.mean(of_one["loss"])


# What makes an experiment of it.


@dataclasses.dataclass(frozen=True)
class Config(LifetimesConfig):
    """Meta-learn a step size."""

    counted: ClassVar[str] = "meta-batches"
    record_every: Count = 10
    workdir: str = "runs/quadratic/k2"
    inner_steps: Lookahead = 2
    """K."""

    def __post_init__(self):
        check_fields(self)


EXPERIMENT = Experiment(
    "quadratic:EXPERIMENT",
    Config,
    __name__,
    suite=SuiteOptions(steps=100, root="runs/quadratic"),
    figures=FiguresOptions(root="runs/quadratic"),
)


def make_lifetime(config):
    adam = optax.adam(0.02)

    def init(key):
        return State(None, MetaState(jnp.log(0.1), adam.init(jnp.float32(0))), key)

    def window(state, data):
        next_key, key = jax.random.split(state.key)
        gradient, value = mean_meta_gradient(state.meta.params, data, config.inner_steps, key)
        updates, opt_state = adam.update(gradient, state.meta.opt_state)
        meta = MetaState(optax.apply_updates(state.meta.params, updates), opt_state)
        records = {"loss": value[None], "rate": jnp.exp(meta.params)[None]}
        return State(None, meta, next_key), records

    return Lifetime(init, window, 1, 1, ("loss", "rate"), data=CURVATURES, chunk_steps=50)


def summarise(config, steps, columns):
    return {name: float(values[:, -1].mean()) for name, values in columns.items()}


def suite(options):
    return {
        f"k{k}": Config(inner_steps=k, seeds=options.seeds, steps=options.steps) for k in (1, 2)
    }


def draw(runs, options):
    def panel(axis):
        for run in runs:
            draw_band(axis, run.steps, run.columns["rate"], run.name)

    yield [{"run": run.name, "rate": run.columns["rate"][:, -1].mean()} for run in runs]
    yield save_panels(options.folder / "rates.png", [("step size", panel)])
