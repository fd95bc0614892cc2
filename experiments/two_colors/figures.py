"""BMG's figures 2, 3 and 7 to 11, redrawn from runs: mean and standard deviation over seeds."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from bmg.experiments import records
from bmg.experiments.plots import draw_band, line_look, save_panels
from bmg.experiments.two_colors.config import ActorCriticConfig, TwoColorsConfig

_EARLY = 1 / 30  # of a cycle: figure 8 looks at the policy 3,333 steps after a flip
_CYCLES_SHOWN = 4  # figure 2, right
_FROM = 0.6  # ... at 6 of 10 million steps


class Run(records.Run):
    """What is left of a run, and what its figures show of it."""

    @property
    def total_reward(self) -> np.ndarray:
        """[S, n] reward collected so far."""
        return np.cumsum(self.columns["reward"] * np.diff(self.steps, prepend=0), axis=1)

    @property
    def reward_per_step(self) -> np.ndarray:
        """[S] mean over all steps."""
        return self.total_reward[:, -1] / self.steps[-1]

    @property
    def label(self) -> str:
        """As the paper's legends have it."""
        config = self.config
        if config.agent == "q-lambda":
            if config.method == "fixed":
                return f"fixed $\\varepsilon$ = {config.q_lambda.epsilon:g}"
            return f"BMG, L={config.target_steps}, {config.matching_name}"
        own = config.actor_critic
        if config.method == "fixed":
            return f"fixed $\\epsilon$ = {own.entropy_weight:g}"
        meta = f", $\\epsilon_{{meta}}$={own.meta_regularization:g}"
        if config.method == "mg":
            return f"MG, K={config.inner_steps}{meta}{self.start}"
        if own.final_objective == "learned":
            meta = ", learned rule throughout"
        matching = "" if config.matching_name == "kl" else f", {self.matching}"
        return f"BMG, K={config.inner_steps}, L={config.target_steps}{meta}{matching}{self.start}"

    @property
    def matching(self) -> str:
        """The matching function in words."""
        return self.config.matching_name.replace("_", " ").replace("kl", "KL")

    @property
    def start(self) -> str:
        """The label's end where the learned entropy weight begins elsewhere than by default."""
        weight = self.config.actor_critic.initial_entropy_weight
        if weight == ActorCriticConfig.initial_entropy_weight:
            return ""
        return f", from $\\epsilon$={weight:g}"


def compared_after(runs: Sequence[Run]) -> int:
    """Environment steps after which runs are compared: those of the shortest."""
    return min(run.steps[-1] for run in runs)


def total_after(run: Run, steps: int) -> np.ndarray:
    """[S] reward collected until then."""
    return run.total_reward[:, np.searchsorted(run.steps, steps, side="right") - 1]


def best(runs: Sequence[Run]) -> list[Run]:
    """The run with the largest reward per step of its life, as a list; none of none."""
    return sorted(runs, key=lambda run: np.mean(run.reward_per_step))[-1:]


def tuned(runs: Sequence[Run]) -> list[Run]:
    """Of runs that differ in the meta-learner's step size alone, the best (BMG App. B.2).

    They are compared where the shortest of them ends.
    """
    groups: dict[TwoColorsConfig, list[Run]] = {}
    for run in runs:
        same = dataclasses.replace(run.config, meta_learning_rate=1.0, steps=1, workdir="")
        groups.setdefault(same, []).append(run)
    return [
        max(group, key=lambda run: np.mean(total_after(run, compared_after(group))))
        for group in groups.values()
    ]


def of(runs: Sequence[Run], **wanted) -> list[Run]:
    """Runs with these settings; those of the actor-critic are named as they are."""

    def setting(config: TwoColorsConfig, name: str):
        holder = config if hasattr(config, name) else config.actor_critic
        return getattr(holder, name)

    return [run for run in runs if all(setting(run.config, k) == v for k, v in wanted.items())]


def draw_total_reward(
    axis, runs: Sequence[Run], label: Callable[[Run], str] = lambda run: run.label
) -> None:
    """Total reward over environment steps."""
    for run in runs:
        draw_band(axis, run.steps / 1e6, run.total_reward / 1e6, label(run))
    axis.set_xlabel("environment steps (millions)")
    axis.set_ylabel("total reward (millions)")


def draw_schedule(axis, runs: Sequence[Run], column: str, label: str) -> None:
    """A learned quantity over a few cycles; dashed lines are flips of the rewards."""
    cycle = runs[0].config.flip_every
    cycles = int(runs[0].steps[-1] // cycle)
    first = min(round(_FROM * cycles), max(cycles - _CYCLES_SHOWN, 0)) * cycle
    last = first + _CYCLES_SHOWN * cycle
    for run in runs:
        shown = (run.steps > first) & (run.steps <= last)
        draw_band(axis, run.steps[shown] / 1e6, run.columns[column][:, shown], run.label)
    mark_flips(axis, np.arange(first, min(last, runs[0].steps[-1]) + 1, cycle))
    axis.set_xlabel("environment steps (millions)")
    axis.set_ylabel(label)


def mark_flips(axis, steps: np.ndarray) -> None:
    """Dashed lines at these environment steps."""
    for flip in steps:
        axis.axvline(flip / 1e6, color="grey", linestyle="--", linewidth=0.8)


def cycle_ends(run: Run, column: str, early: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A quantity early and late in every whole cycle.

    Args:
      run: a run.
      column: of the quantity.
      early: environment steps after the flip.

    Returns:
      Ends of the cycles [C] in environment steps; [S, C] after `early` steps; [S, C] at the end.
    """
    cycle = run.config.flip_every
    ends = np.arange(cycle, run.steps[-1] + 1, cycle)
    at = np.searchsorted(run.steps, ends - cycle + early)  # the stretch that holds this step
    last = np.searchsorted(run.steps, ends)
    return ends, run.columns[column][:, at], run.columns[column][:, last]


def draw_range(axis, runs: Sequence[Run], column: str, label: str, early: int) -> None:
    """Shaded between a quantity's means early and late in each cycle."""
    for index, run in enumerate(runs):
        look = line_look(index)
        ends, begin, end = cycle_ends(run, column, early)
        for edge in (begin, end):
            axis.plot(ends / 1e6, edge.mean(0), linewidth=1.0, **look)
        axis.fill_between(
            ends / 1e6, begin.mean(0), end.mean(0),
            color=look["color"], alpha=0.25, linewidth=0, label=run.label,
        )  # fmt: skip
    axis.set_xlabel("environment steps (millions)")
    axis.set_ylabel(label)


def draw_bars(axis, runs: Sequence[Run]) -> None:
    """Total reward where the shortest ends, with one standard deviation over seeds."""
    steps = compared_after(runs)
    totals = [total_after(run, steps) / 1e6 for run in runs]
    means, stds = [np.mean(x) for x in totals], [np.std(x) for x in totals]
    for place, (mean, std) in enumerate(zip(means, stds)):  # each in the next colour
        axis.barh(place, mean, xerr=std, alpha=0.8, capsize=3)
    axis.set_yticks(range(len(runs)), [run.label for run in runs], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(f"total reward after {steps / 1e6:g} million steps (millions)")


Panel = tuple[str, Sequence[Run], Callable]  # title, runs, (axis, runs) -> None


def panels(runs: Sequence[Run]) -> dict[str, list[Panel]]:
    """Figure -> its panels."""
    critic = of(runs, agent="actor-critic")
    fixed, mg = of(critic, method="fixed"), of(critic, method="mg")
    every_bmg = of(critic, method="bmg")
    ablation = of(every_bmg, matching_name="kl")
    bmg = of(ablation, final_objective="true")
    plain = of(bmg, meta_regularization=0.0)
    q = of(runs, agent="q-lambda")
    q_fixed, q_bmg = of(q, method="fixed"), of(q, method="bmg")
    entropy = "policy entropy (nats)"
    weight = "entropy weight $\\epsilon$"

    def schedule(column, label):
        return lambda axis, runs: draw_schedule(axis, runs, column, label)

    def by_matching(axis, runs):
        draw_total_reward(axis, runs, lambda run: run.matching + run.start)

    def entropy_range(axis, runs):
        draw_range(axis, runs, "entropy", entropy, round(_EARLY * runs[0].config.flip_every))

    def weight_range(axis, runs):
        # The first stretch after the flip is the cycle's beginning.
        draw_range(axis, runs, "entropy_weight", weight, runs[0].config.record_every)

    main = best(fixed) + best(mg) + best(plain)
    return {
        "figure_2": [
            ("actor-critic: the best of each method", main, draw_total_reward),
            ("learned entropy weight", best(mg) + best(plain), schedule("entropy_weight", weight)),
        ],
        "figure_3": [
            ("Q($\\lambda$)", best(q_fixed) + best(q_bmg), draw_total_reward),
            ("learned exploration", best(q_bmg), schedule("epsilon", "$\\varepsilon$")),
        ],
        "figure_7": [
            ("fixed entropy weight", fixed, draw_total_reward),
            ("meta-gradients", mg, draw_total_reward),
            ("bootstrapped", bmg, draw_total_reward),
        ],
        "figure_8": [
            ("meta-gradients", of(mg, meta_regularization=0.0), entropy_range),
            ("bootstrapped", plain, entropy_range),
        ],
        "figure_9": [
            ("L = 7", of(bmg, target_steps=7), weight_range),
            ("L = 1", of(bmg, target_steps=1), weight_range),
            ("all ablations", ablation, draw_bars),
        ],
        "figure_10": [
            (
                "matching functions, L = 7",
                of(every_bmg, target_steps=7, meta_regularization=0.0, final_objective="true"),
                by_matching,
            )
        ],
        "figure_11": [
            (
                "policy matching",
                of(q_bmg, matching_name="policy"),
                schedule("epsilon", "$\\varepsilon$"),
            ),
            (
                "value matching",
                of(q_bmg, matching_name="value"),
                schedule("epsilon", "$\\varepsilon$"),
            ),
            ("total reward", best(q_fixed) + q_bmg, draw_bars),
        ],
    }


def draw_all(runs: Sequence[Run], output: pathlib.Path) -> list[pathlib.Path]:
    """Draws every figure that there are runs for.

    Args:
      runs: what there is.
      output: folder for the pictures.

    Returns:
      The pictures.
    """
    from matplotlib.colors import to_hex  # here, as who only runs has no use for it

    pictures = []
    for name, every in panels(sorted(tuned(runs), key=_order)).items():
        names = dict.fromkeys(run.name for _, shown, _ in every for run in shown)
        colors = {name: to_hex(f"C{index}") for index, name in enumerate(names)}
        drawn = [
            (title, functools.partial(_draw_in_colors, draw=draw, runs=shown, colors=colors))
            for title, shown, draw in every if shown
        ]  # fmt: skip
        if drawn:
            pictures.append(save_panels(output / f"{name}.png", drawn))
    return pictures


def _draw_in_colors(axis, draw: Callable, runs: Sequence[Run], colors: dict[str, str]) -> None:
    """Draws runs, each of which takes the next colour: its own, in every panel of a figure."""
    axis.set_prop_cycle(color=[colors[run.name] for run in runs])
    draw(axis, runs)


def _order(run: Run):
    """Legends run from small to large."""
    config = run.config
    return (
        config.inner_steps, config.target_steps, config.actor_critic.meta_regularization,
        config.actor_critic.entropy_weight, config.q_lambda.epsilon, run.name,
    )  # fmt: skip
