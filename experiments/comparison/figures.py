"""What a table of finished runs comes to: rows for the console, and pictures."""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bmg.experiments.comparison import statistics
from bmg.experiments.comparison.statistics import Estimate
from bmg.experiments.comparison.table import META_PARAMETERS, META_POINTS, POINTS, Finished
from bmg.experiments.plots import Panel, draw_band, line_look, save_panels, short_counts

_THRESHOLDS = np.linspace(0.0, 1.2, 61)
_ONE_COLUMN = (6.4, 4.2)  # inches


class Comparison(NamedTuple):
    """The runs of some methods on some games, one of each game, method and seed."""

    games: tuple[str, ...]
    seeds: dict[str, tuple[int, ...]]  # method -> the seeds that it has on all of the games
    runs: dict[tuple[str, str, int], Finished]  # (game, method, seed) -> run
    steps: int  # of each run

    @property
    def methods(self) -> tuple[str, ...]:
        """In their order."""
        return tuple(self.seeds)

    def matrix(self, value: Callable[[Finished], float]) -> dict[str, np.ndarray]:
        """Method -> [N, G] of a number of each run."""
        return {
            method: np.array(
                [[value(self.runs[game, method, seed]) for game in self.games] for seed in seeds]
            )
            for method, seeds in self.seeds.items()
        }


def gather(
    runs: Sequence[Finished],
    games: Sequence[str],
    methods: Sequence[str],
    value: Callable[[Finished], float],
    remedy: str = "run more steps",
) -> tuple[Comparison, list[str]]:
    """The runs that can be compared.

    Args:
      runs: of a table.
      games: wanted, in their order.
      methods: wanted, in their order; those without a run are left out.
      value: the score that is compared; runs without one are left out.
      remedy: what gives runs one.

    Returns:
      Those of the games on which all of the other methods have a seed in common with themselves
      elsewhere; and a line about each thing that is left out.

    Raises:
      ValueError: there are none, or they differ in more than their methods; one line.
    """
    wanted = [run for run in runs if run.game in games and run.method in methods]
    if len(steps := sorted({run.steps for run in wanted})) > 1:
        raise ValueError(
            f"the table has runs of {' and '.join(map(str, steps))} steps, which cannot be "
            "compared; leave the lines of one length out."
        )
    settings: dict[tuple[str, str], str] = {}
    for run in wanted:
        before = settings.setdefault((run.game, run.method), run.settings)
        if before != run.settings:
            raise ValueError(
                f"the table has {run.game}, {run.method} under two settings, {before} and "
                f"{run.settings}; leave the lines of one out."
            )
    found = {run.key[:3]: run for run in wanted if math.isfinite(value(run))}
    without = [key for key in (run.key[:3] for run in wanted) if key not in found]
    notes = [f"left out, as no episode ended: {_listed(without)}; {remedy}"] if without else []
    present = tuple(name for name in methods if any(m == name for _, m, _ in found))
    of = lambda game, method: {seed for g, m, seed in found if (g, m) == (game, method)}  # noqa: E731
    common = tuple(game for game in games if present and all(of(game, m) for m in present))
    seeds = {m: tuple(sorted(set.intersection(*(of(g, m) for g in common)))) for m in present
             } if common else {}  # fmt: skip
    if not seeds or not all(seeds.values()):
        raise ValueError(
            "no game has finished runs of all methods, with the same seeds on all games"
            f"{''.join(f' ({note})' for note in notes)}; give fewer with --games and --methods, or "
            "run more."
        )
    if missing := _others(methods, present):
        notes.append(f"no run of: {', '.join(missing)}")
    played = {game for game, *_ in found}
    if missing := _others(games, played):
        notes.append(f"no run on: {', '.join(missing)}")
    if missing := [game for game in games if game in played and game not in common]:
        notes.append(f"left out, as not every method has a run there: {', '.join(missing)}")
    kept = {key: run for key, run in found.items() if key[0] in common and key[2] in seeds[key[1]]}
    if len(kept) < sum(run.game in common for run in found.values()):
        notes.append("left out: seeds that a method does not have on all games")
    return Comparison(common, seeds, kept, steps[0]), notes


def _others(names: Sequence[str], known: Collection[str]) -> list[str]:
    return [name for name in names if name not in known]


def _listed(keys: Sequence[tuple[str, str, int]]) -> str:
    """Game, method and seeds, such as `breakout impala 0 1, freeway stacx 0`."""
    seeds: dict[str, list[str]] = {}
    for game, method, seed in sorted(keys):
        seeds.setdefault(f"{game} {method}", []).append(str(seed))
    return ", ".join(" ".join([name, *own]) for name, own in seeds.items())


def pairs_of(methods: Sequence[str], orders: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs whose methods are both there."""
    return [(a, b) for a, b in orders if a in methods and b in methods]


def returns_rows(comparison: Comparison, value: Callable[[Finished], float]) -> list[dict]:
    """A row for each method: mean and standard deviation over seeds on each game."""
    seconds = comparison.matrix(lambda run: run.wall_seconds)
    rows = []
    for method, found in comparison.matrix(value).items():
        row: dict = {"method": method, "seeds": len(found)}
        for game, own in zip(comparison.games, found.T):
            row[game] = f"{own.mean():.3g} +- {own.std():.2g}"
        # Seeds run side by side: each has the wall time of them all.
        rows.append({**row, "hours": float(seconds[method].mean(0).sum()) / 3600})
    return rows


def aggregate_rows(found: Mapping[str, Mapping[str, Estimate]]) -> list[dict]:
    """A row for each method."""
    return [
        {"method": method, **{name: shown(estimate) for name, estimate in estimates.items()}}
        for method, estimates in found.items()
    ]


def improvement_rows(found: Mapping[tuple[str, str], Estimate]) -> list[dict]:
    """A row for each pair."""
    return [
        {"method": a, "over": b, "probability of improvement": shown(estimate)}
        for (a, b), estimate in found.items()
    ]


def shown(estimate: Estimate) -> str:
    """A number and its interval."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def draw(
    comparison: Comparison,
    scores: Mapping[str, np.ndarray],
    aggregates: Mapping[str, Mapping[str, Estimate]],
    improvements: Mapping[tuple[str, str], Estimate],
    resamples: int,
    folder: pathlib.Path,
) -> Iterator[pathlib.Path]:
    """Draws the pictures; gives the path of each.

    Args:
      comparison: the runs.
      scores: normalised, method -> [N, G].
      aggregates: of them.
      improvements: of them.
      resamples: of the bootstrap.
      folder: for the pictures.
    """
    looks = {method: line_look(index) for index, method in enumerate(comparison.methods)}
    panels: list[Panel] = []
    for name in ("IQM", "median"):
        found = [(method, looks[method], each[name]) for method, each in aggregates.items()]
        panels.append((name, functools.partial(_draw_estimates, found=found)))
    yield save_panels(folder / "aggregates.png", panels, size=_for_rows(aggregates))
    if improvements:
        found = [(f"{a} over {b}", looks[a], each) for (a, b), each in improvements.items()]
        panel = functools.partial(_draw_estimates, found=found, middle=0.5)
        yield save_panels(
            folder / "improvement.png", [("probability of improvement", panel)],
            size=_for_rows(improvements),
        )  # fmt: skip
    found = statistics.profiles(scores, _THRESHOLDS, resamples)
    panel = functools.partial(draw_profiles, thresholds=_THRESHOLDS, found=found)
    yield save_panels(
        folder / "profiles.png", [("share of runs with a higher score", panel)], size=_ONE_COLUMN
    )
    panels = [
        (game, functools.partial(_draw_curves, comparison=comparison, game=game))
        for game in comparison.games
    ]
    yield save_panels(folder / "curves.png", panels, columns=3)
    panels = [
        (f"{game}, {name}", functools.partial(_draw_meta, found=found, looks=looks))
        for game in comparison.games for name in META_PARAMETERS
        if (found := _meta_curves(comparison, game, name))
    ]  # fmt: skip
    if panels:
        yield save_panels(
            folder / "meta_parameters.png", panels, columns=len(META_PARAMETERS), size=(3.4, 2.6)
        )


def _for_rows(found: Mapping) -> tuple[float, float]:
    """Inches of a panel with a row for each."""
    return 6.4, max(2.0, 0.8 + 0.22 * len(found))


def _draw_estimates(
    axis, found: Sequence[tuple[str, Mapping[str, str], Estimate]], middle: float | None = None
) -> None:
    """Points with intervals, the first one on top: (name, look, estimate) of each."""
    for index, (_, look, estimate) in enumerate(reversed(found)):
        color = look["color"]
        bar = {"color": color, "solid_capstyle": "butt", "linewidth": 5, "alpha": 0.4}
        axis.plot([estimate.low, estimate.high], [index, index], "-", **bar)
        axis.plot([estimate.value], [index], "o", color=color)
    axis.set_yticks(range(len(found)), [name for name, *_ in reversed(found)])
    # No point lies on the frame.
    axis.set_ylim(-0.6, len(found) - 0.4)
    axis.margins(x=0.08)
    if middle is not None:
        axis.axvline(middle, color="black", linewidth=0.8)
        axis.set_xlim(-0.03, 1.03)


def draw_profiles(
    axis,
    thresholds: np.ndarray,
    found: Mapping[str, tuple[np.ndarray, np.ndarray]],
    label: str = "normalised score",
) -> None:
    """Shares of runs above each threshold, with their intervals, as of `statistics.profiles`."""
    for name, (share, (low, high)) in found.items():
        (line,) = axis.plot(thresholds, share, label=name, linewidth=1.3)
        axis.fill_between(thresholds, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axis.set_xlabel(label)


def _draw_curves(axis, comparison: Comparison, game: str) -> None:
    """Returns of training, mean and standard deviation over seeds."""
    at = comparison.steps * np.arange(1, POINTS + 1) / POINTS
    for method, seeds in comparison.seeds.items():
        values = np.stack([comparison.runs[game, method, seed].curve for seed in seeds])
        draw_band(axis, at, values, method)
    axis.set_xlabel("environment steps")
    axis.set_ylabel("return")
    short_counts(axis)


def _meta_curves(comparison: Comparison, game: str, name: str) -> dict[str, np.ndarray]:
    """Method -> steps and values, [1 + N, META_POINTS], of those that meta-learn."""
    at = comparison.steps * np.arange(1, META_POINTS + 1) / META_POINTS
    found = {}
    for method, seeds in comparison.seeds.items():
        curves = [comparison.runs[game, method, seed].meta.get(name) for seed in seeds]
        if all(curve is not None for curve in curves):
            found[method] = np.stack([at, *curves])
    return found


def _draw_meta(axis, found: Mapping[str, np.ndarray], looks: Mapping[str, dict]) -> None:
    """As methods look elsewhere, where all of them are drawn."""
    for method, (at, *values) in found.items():
        draw_band(axis, at, np.stack(values), method, marker="", **looks[method])
    axis.set_xlabel("environment steps")
    short_counts(axis)
