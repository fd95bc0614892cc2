"""What the commands need of LPG; see `experiments.declaration.Functions`."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Iterable, Sequence

import jax
import numpy as np
import optax

from bmg.agents.rule_file import copy_rule, load_rule, save_rule
from bmg.agents.update_rule import RuleConfig
from bmg.experiments.declaration import Shown
from bmg.experiments.lifetime import State
from bmg.experiments.lpg import figures, transfer, trial
from bmg.experiments.lpg.config import (
    METHODS,
    LpgConfig,
    LpgEvaluateOptions,
    LpgFiguresOptions,
    LpgSuiteOptions,
)
from bmg.experiments.lpg.figures import mean_returns, rule_file
from bmg.experiments.lpg.lifetime import first_rule, make_lifetime, start_file
from bmg.experiments.records import Run

__all__ = ["curves", "draw", "evaluate", "keep", "leave", "make_lifetime", "suite", "summarise"]

_LAST = 4  # a quarter of the rows counts for the sum
_TOLD = {"rule": "the rule", "at first": "the rule as it began"}

DESCRIPTIONS = {
    "loss": "Outer loss: what the rule's meta-gradient lowers.",
    "meta_gradient_norm": "Norm of the rule's meta-gradient.",
    "reward": "Mean reward of a step, over lifetimes.",
    "policy_entropy": "Entropy of the agents' policies, nats.",
    "prediction_entropy": "Entropy of their predictions y, nats.",
    "advantage": "Mean squared advantage of the outer loss.",
    "policy_target": "Mean square of the targets that the rule gives the policy.",
    "prediction_target": "Mean square of the targets that it gives the predictions.",
    "ended": "Lifetimes that came to their end and began anew.",
    "collapsed": "Lifetimes that were begun anew since their policy had no entropy left.",
    "skipped": "Meta-updates that were left out, as they were not finite.",
    "returns/*": "Mean return of the episodes that ended in this world.",
}


def summarise(config: LpgConfig, steps: np.ndarray, columns: dict[str, np.ndarray]) -> dict:
    """Mean returns in each world over the last quarter, of agents of all ages and seeds."""
    late = {name: x[:, -max(len(steps) // _LAST, 1) :] for name, x in columns.items()}
    returns = mean_returns({name: x.sum(keepdims=True) for name, x in late.items()})
    return {
        "returns": {n: float(x[0, 0]) if np.isfinite(x) else None for n, x in returns.items()},
        "policy_entropy": float(late["policy_entropy"].mean()),
        "prediction_entropy": float(late["prediction_entropy"].mean()),
        "collapsed": float(late["collapsed"].mean()),
    }


def curves(
    steps: np.ndarray, columns: dict[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For TensorBoard: mean returns of each world where episodes ended, everything else as it
    is."""
    found = {}
    for name, returns in mean_returns(columns).items():
        some = np.all(np.isfinite(returns), axis=0)
        found[f"returns/{name}"] = steps[some], returns[:, some]
    others = [name for name in columns if not name.startswith(("episodes_", "returns_"))]
    return {**found, **{name: (steps, columns[name]) for name in others}}


def keep(config: LpgConfig) -> None:
    """A copy of the rule that meta-training began with."""
    found, own = start_file(config) if config.start else None, config.path / "start.npz"
    if found not in (None, own):
        copy_rule(found, own)


def leave(config: LpgConfig, lifetimes: Sequence[State]) -> None:
    """The rules as files."""
    for index, state in enumerate(lifetimes):
        seed = config.first_seed + index
        made_from = {
            "experiment": "lpg", "meta_updates": int(optax.tree.get(state.meta.opt_state, "count")),
            "objective": config.objective, "worlds": list(config.worlds),
            "lifetimes": config.lifetimes, "inner_steps": config.inner_steps,
            "lifetime_scale": config.lifetime_scale, "seed": seed,
            "written": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
        if config.start:
            made_from["start"] = load_rule(start_file(config)).made_from
        save_rule(rule_file(config.path, seed), state.meta.params, config.rule, made_from)


def evaluate(
    config: LpgConfig, options: LpgEvaluateOptions, lifetimes: Sequence[State], data: None
) -> Iterable[Shown]:
    """A row for each world: what agents come to by the rule, by the rule as it began, by A2C; means
    over agents and seeds of the rule."""
    del data
    worlds = options.worlds or config.worlds
    scale = options.lifetime_scale or config.lifetime_scale
    rows, draw_rule, tried = [], first_rule(config), trial.timed()
    for world in worlds:
        own = dataclasses.replace(config, worlds=(world,), lifetime_scale=scale)
        updates = own.updates_of_lifetime(world)
        yield f"{world}: lives of {updates:,} updates"
        how = (updates, options.agents, options.seed)
        a2c = trial.best_of(trial.try_out(own, None, *how, options.entropy_weights), 0)
        yield tried(world, "A2C")
        found = {"rule": [], "at first": []}
        for index, state in enumerate(lifetimes):
            seed = config.first_seed + index
            # As `init` of the lifetime draws it.
            key = jax.random.split(jax.random.PRNGKey(seed), 3)[0]
            which = f" of seed {seed}" if config.seeds > 1 else ""
            for name, rule in (
                ("rule", state.meta.params), ("at first", draw_rule(key)),
            ):  # fmt: skip
                made = trial.try_out(own, rule, *how)
                found[name].append(trial.best_of(made, 0))
                yield tried(world, f"{_TOLD[name]}{which}")
        rows.append({"world": world, "updates": updates})
        for name, bests in found.items():
            finals = np.array([best.final.mean() for best in bests])
            rows[-1][name] = float(finals.mean())
        rows[-1]["a2c"] = float(a2c.final.mean())
        rows[-1]["step sizes"] = str(found["rule"][0].arm)
        rows[-1]["A2C's step size, entropy weight"] = str(a2c.arm)
    yield rows


def suite(options: LpgSuiteOptions) -> dict[str, LpgConfig]:
    """The rule and its variants."""
    found = {}
    for name in options.methods:
        changes = dict(METHODS[name])
        rule = RuleConfig(
            units=options.units, prediction=changes.pop("prediction", RuleConfig.prediction)
        )
        found[name] = LpgConfig(
            rule=rule, seeds=options.seeds, steps=options.steps, worlds=options.worlds,
            lifetimes=options.lifetimes, lifetime_scale=options.lifetime_scale,
            meta_learning_rate=options.meta_learning_rate, **changes,
        )  # fmt: skip
    return found


def draw(runs: Sequence[Run], options: LpgFiguresOptions) -> Iterable[Shown]:
    """The figures that there are runs for."""
    output = options.folder
    if "9" in options.figures:
        yield from transfer.show(pathlib.Path(options.trained), output)
    if not options.of_runs:
        return
    if "7" in options.figures:
        yield figures.draw_figure_7(runs, output)
        yield figures.table_7(runs)
    rules = figures.load_rules(runs, pathlib.Path(options.root))
    with_predictions = [x for x in rules if x.config.rule.prediction == "distribution"]
    needs = {"4": with_predictions, "5": with_predictions, "6": with_predictions, "3": rules}
    if missing := [name for name in options.figures if name in needs and not needs[name]]:
        yield f"not drawn: {', '.join(missing)}; there is no run with a rule for them"
    if with_predictions:
        first = with_predictions[0]
        if "4" in options.figures:
            yield figures.draw_figure_4(first, options, output)
        for name, make in (("5", figures.draw_figure_5), ("6", figures.draw_figure_6)):
            if name in options.figures:
                yield from make(first, options, output)
    if rules and "3" in options.figures:
        outcomes = []
        for found in figures.try_all(rules, options):
            if isinstance(found, str):
                yield found
            else:
                outcomes.append(found)
        yield figures.draw_figure_3(outcomes, output)
        yield figures.table_of(outcomes)
