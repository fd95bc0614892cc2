"""Figures 3 to 7 of the LPG paper, from runs of meta-training and the rules that they left."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from bmg.agents.rule_file import load_rule
from bmg.agents.update_rule import Rule
from bmg.environments import grid, worlds
from bmg.experiments.lpg import analysis, trial
from bmg.experiments.lpg.config import LpgConfig, LpgFiguresOptions
from bmg.experiments.lpg.trial import Best
from bmg.experiments.plots import draw_band, plain_log, save_panels
from bmg.experiments.records import Run

A2C = "A2C"
_COMPARED = ("LPG", "LPG-V")  # beside all that are bootstrapped: no ablations
_COLORS = {"LPG": "tab:red", "LPG-V": "tab:blue", A2C: "tab:gray"}
_BOOTSTRAPPED = "tab:green"
_SQUARE = (2.2, 2.4)  # inches, of a panel that shows a grid
_DISCOUNTS = (0.995, 0.99, 0.98, 0.95, 0.9)
_COMPONENTS = (0, 1, 2)  # of y, that figure 6 shows


class Learned(NamedTuple):
    """A run, and the rule of its first seed."""

    label: str
    config: LpgConfig
    rule: Rule


def rule_file(directory: pathlib.Path, seed: int) -> pathlib.Path:
    """Where a run leaves the rule of a seed."""
    return directory / f"rule-{seed}.npz"


def load_rules(runs: Sequence[Run], root: pathlib.Path) -> list[Learned]:
    """Of the runs that are compared with A2C: the paper's first.

    Raises:
      ValueError: a rule is damaged; one line.
    """
    found = []
    for run in runs:
        path = rule_file(root / run.name, run.config.first_seed)
        label = run.config.label
        if path.exists() and (label in _COMPARED or run.config.objective == "bmg"):
            found.append(Learned(label, run.config, load_rule(path).rule))
    return sorted(found, key=lambda x: (x.config.objective == "bmg", x.label))


class Outcome(NamedTuple):
    """What agents came to in a world."""

    world: str
    steps: np.ndarray  # [points], environment steps of an agent
    bests: dict[str, Best]  # by method


def try_all(rules: Sequence[Learned], options: LpgFiguresOptions) -> Iterator[str | Outcome]:
    """New agents in every world: by each rule, and by A2C; a line about each, as it takes long."""
    names = options.worlds
    if not names:
        own = dict.fromkeys(name for found in rules for name in found.config.worlds)
        names = (*own, *(name for name in worlds.HELD_OUT if name not in own))
    tried = trial.timed()
    for name in names:
        bests: dict[str, Best] = {}
        for label, config, rule in [*rules, (A2C, rules[0].config, None)]:
            scale = options.lifetime_scale or config.lifetime_scale
            own = dataclasses.replace(config, worlds=(name,), lifetime_scale=scale)
            updates = own.updates_of_lifetime(name)
            found = trial.try_out(
                own, rule, updates, options.agents, options.seed, options.entropy_weights
            )
            bests[label] = trial.best_of(found, 0)
            yield tried(name, label)
        points = bests[A2C].curve.shape[1]
        steps = np.arange(1, points + 1) / points * updates * own.steps_per_update
        yield Outcome(name, steps, bests)


def table_of(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    """Final returns: mean and standard deviation over agents."""
    return [
        {"world": outcome.world}
        | {
            label: f"{best.final.mean():.2f} ({best.final.std():.2f})"
            for label, best in outcome.bests.items()
        }
        for outcome in outcomes
    ]


def draw_figure_3(outcomes: Sequence[Outcome], output: pathlib.Path) -> pathlib.Path:
    """Mean returns along the lives of agents with the best pair of step sizes."""

    def draw(outcome, axis):
        for label, best in outcome.bests.items():
            some = np.all(np.isfinite(best.curve), axis=0)
            curve, steps = best.curve[:, some], outcome.steps[some] / 1e3
            draw_band(axis, steps, curve, label, color=_COLORS.get(label, _BOOTSTRAPPED))
        axis.set_xlabel("steps of an agent (thousands)")
        axis.set_ylabel("return")

    panels = [(outcome.world, functools.partial(draw, outcome)) for outcome in outcomes]
    return save_panels(output / "figure_3.png", panels, columns=4)


def one_grid(found: Learned, options: LpgFiguresOptions, grids: int):
    """Grids, and a run's configuration in them."""
    config = dataclasses.replace(found.config, worlds=(options.grid,), lifetime_scale=1.0)
    return config, analysis.draw_grids(options.grid, grids, _DISCOUNTS, options.seed)


def as_pictures(params: worlds.Params, of_states: np.ndarray) -> np.ndarray:
    """[S, ...] -> [rows, columns, ...] by the agent's place, with all objects present; NaN where it
    cannot be."""
    own = params.grid
    frame = np.full((grid.FRAME**2, *of_states.shape[1:]), np.nan)
    there = int(np.sum(own.objects.exists))
    free = int(own.free)
    numbers = (np.arange(free) << there) + (1 << there) - 1
    frame[np.asarray(own.cells)[:free]] = of_states[numbers]
    frame = frame.reshape(grid.FRAME, grid.FRAME, *of_states.shape[1:])
    inside = np.argwhere(np.asarray(own.order).reshape(grid.FRAME, grid.FRAME) >= 0)
    (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
    return frame[top:bottom, left:right]


def draw_figure_4(found: Learned, options: LpgFiguresOptions, output: pathlib.Path) -> pathlib.Path:
    """A grid, the true values of its policy, and the components of y after policy evaluation."""
    config, grids = one_grid(found, options, 1)
    size = config.rule.outputs
    zeros = np.zeros((*grids.policy.shape[:2], size))
    made = analysis.evaluate_policies(
        config, found.rule, grids, _DISCOUNTS[0], [options.updates], zeros, options.seed
    )
    world = jax.tree.map(lambda x: x[0], grids.worlds)
    seen = made.visited[-1, 0]
    y = np.where(seen[:, None], made.predictions[-1, 0], np.nan)
    pictures = np.moveaxis(as_pictures(world, y), -1, 0)
    rewards = as_pictures(world, _rewards(world))
    values = as_pictures(world, grids.values[0, 0])

    def image(picture, axis, bar=True, **how):
        colors = axis.imshow(picture, **how)
        axis.set_xticks([])
        axis.set_yticks([])
        if bar:
            beside = axis.inset_axes([1.04, 0, 0.06, 1])
            axis.figure.colorbar(colors, cax=beside).ax.tick_params(labelsize=7)

    panels = [
        ("rewards", functools.partial(image, rewards, cmap="RdYlGn", vmin=-1, vmax=1)),
        ("true values", functools.partial(image, values)),
    ]
    # They share their colours, and one bar.
    of_y = functools.partial(image, vmin=0, vmax=np.nanmax(y))
    panels += [
        (f"y[{index}]", functools.partial(of_y, picture, bar=index == size - 1))
        for index, picture in enumerate(pictures)
    ]
    return save_panels(output / "figure_4.png", panels, columns=8, size=_SQUARE)


def _rewards(world: worlds.Params) -> np.ndarray:
    """What stepping on each place brings: [S]."""
    own = world.grid
    there = int(np.sum(own.objects.exists))
    found = np.zeros(int(own.free) << there)
    for place, reward in zip(
        np.asarray(own.places.objects)[:there], np.asarray(own.objects.reward)
    ):
        order = int(own.order[place])
        found[order << there : (order + 1) << there] = reward
    return found


def draw_figure_5(
    found: Learned, options: LpgFiguresOptions, output: pathlib.Path
) -> tuple[pathlib.Path, list[dict[str, str]]]:
    """How far regressions from y, and from TD(lambda)'s values, are off the true values at several
    discounts, over policy evaluation; and a table of the last ones."""
    config, grids = one_grid(found, options, options.grids)
    held_out = options.grids // 4
    updates = sorted({round(options.updates * share) for share in (0.05, 0.1, 0.25, 0.5, 1)} - {0})
    zeros = np.zeros((*grids.policy.shape[:2], config.rule.outputs))
    made = analysis.evaluate_policies(
        config, found.rule, grids, _DISCOUNTS[0], updates, zeros, options.seed
    )
    errors = {}
    for name, features in (("y", made.predictions), ("TD", made.values[..., None])):
        errors[name] = np.stack(
            [
                analysis.regression_errors(x, grids.values, seen, held_out, options.seed)
                for x, seen in zip(features, made.visited)
            ]
        )  # [n, D]

    def draw(index, axis):
        axis.plot(made.updates, errors["y"][:, index], label="from y", color=_COLORS["LPG"])
        axis.plot(
            made.updates, errors["TD"][:, index], label="from TD(λ)'s value", color=_COLORS["LPG-V"]
        )
        plain_log(axis)
        axis.set_xlabel("updates")
        axis.set_ylabel("mean squared error")

    panels = [
        (f"discount {gamma}", functools.partial(draw, index))
        for index, gamma in enumerate(_DISCOUNTS)
    ]
    seen = made.visited[-1, -held_out:]
    rows = [
        {
            "discount": f"{gamma}",
            "from y": f"{errors['y'][-1, index]:.3g}",
            "from TD(λ)'s value": f"{errors['TD'][-1, index]:.3g}",
            "variance of the values": f"{grids.values[index, -held_out:][seen].var():.3g}",
        }
        for index, gamma in enumerate(_DISCOUNTS)
    ]
    return save_panels(output / "figure_5.png", panels, columns=3), rows


def draw_figure_6(
    found: Learned, options: LpgFiguresOptions, output: pathlib.Path
) -> tuple[pathlib.Path, list[dict[str, str]]]:
    """Two random predictions of the same policy: some components before and after, and how far they
    are apart."""
    config, grids = one_grid(found, options, options.grids)
    updates = [0, *sorted({round(x) for x in np.geomspace(1, options.updates, 12)})]
    pair = [
        analysis.evaluate_policies(
            config, found.rule, grids, _DISCOUNTS[0], updates,
            analysis.random_predictions(grids, config.rule.outputs, options.seed + which),
            options.seed,
        )
        for which in (0, 1)
    ]  # fmt: skip
    apart = analysis.distance(*pair)
    world = jax.tree.map(lambda x: x[0], grids.worlds)

    def image(which, when, axis):
        one = pair[which]
        y = np.where(one.visited[-1, 0][:, None], one.predictions[when, 0], np.nan)
        picture = as_pictures(world, y[:, list(_COMPONENTS)])
        axis.imshow(picture / np.nanmax(picture, axis=(0, 1)))
        axis.set_xticks([])
        axis.set_yticks([])

    def curve(axis):
        draw_band(axis, np.maximum(updates, 0.5), apart.T, "", color=_COLORS["LPG"])
        axis.set_xscale("log")
        plain_log(axis)
        axis.set_xlabel("updates")
        axis.set_ylabel("KL(y0 || y1), nats")

    panels = [
        (f"y{which}, {name}", functools.partial(image, which, when))
        for when, name in ((0, "before"), (-1, "after"))
        for which in (0, 1)
    ]
    rows = [
        {"updates": f"{number:,}", "KL(y0 || y1)": f"{kl.mean():.3g} ({kl.std():.2g})"}
        for number, kl in zip(updates, apart)
    ]
    panels.append((f"{options.grids} grids", curve))
    path = save_panels(output / "figure_6.png", panels, columns=5, size=_SQUARE)
    return path, rows


def mean_returns(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean return of the episodes that ended, by world: [S, n], NaN where none did."""
    found = {}
    for column, episodes in columns.items():
        if column.startswith("episodes_"):
            name = column.removeprefix("episodes_")
            found[name] = trial.mean_of(columns[f"returns_{name}"], episodes)
    return found


def normalised_returns(runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """A mean over worlds of returns between 0, the first of any run, and 1, the highest of any run
    and seed: [S, n] of each run. The paper does not say how it normalises."""
    returns = {run.name: mean_returns(run.columns) for run in runs}
    names = sorted({world for own in returns.values() for world in own})
    first = lambda x: x[:, np.argmax(np.isfinite(x).all(axis=0))].mean()  # noqa: E731
    every = {world: [own[world] for own in returns.values() if world in own] for world in names}
    low = {world: np.mean([first(x) for x in own]) for world, own in every.items()}
    high = {world: max(np.nanmax(x) for x in own) for world, own in every.items()}
    found = {}
    for run in runs:
        shares = [
            (x - low[world]) / max(high[world] - low[world], 1e-9)
            for world, x in returns[run.name].items()
        ]
        found[run.name] = np.nanmean(np.clip(shares, 0, 1), axis=0)
    return found


def table_7(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Figure 7's curves: means over their last quarter."""
    rows = []
    for run, share in zip(runs, normalised_returns(runs).values()):
        last = share[:, -max(share.shape[1] // 4, 1) :]
        rows.append(
            {
                "run": run.name, "method": run.config.label,
                "meta-updates": f"{run.steps[-1]:,}",
                "normalised return": f"{np.nanmean(last):.3f}",
            }
        )  # fmt: skip
    return rows


def draw_figure_7(runs: Sequence[Run], output: pathlib.Path) -> pathlib.Path:
    """Normalised returns of agents of all ages over meta-training."""
    shares = normalised_returns(runs)

    def draw(axis):
        for run in runs:
            draw_band(axis, run.steps, shares[run.name], run.config.label)
        axis.set_xlabel("meta-updates")
        axis.set_ylabel("normalised return, mean over worlds")

    return save_panels(output / "figure_7.png", [("agents of all ages", draw)], size=(8.0, 4.6))
