"""Normalised scores of methods over games: tables, pictures, and one page with all of it.

References: table 9's layout and figure 4 of Flennerhag et al., "Bootstrapped Meta-Learning", ICLR
2022; intervals as in `statistics`.
"""

from __future__ import annotations

import base64
import csv
import functools
import html
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bmg.experiments.comparison import statistics
from bmg.experiments.comparison.figures import draw_profiles
from bmg.experiments.comparison.statistics import Estimate
from bmg.experiments.plots import Panel, draw_band, line_look, save_panels, short_counts

_PROFILE = (-1.0, 8.0)  # human-normalised scores that a profile has at most
_LINEAR = 10.0  # up to this, relative scores stand on a linear scale


class Score(NamedTuple):
    """One seed of a method on a game."""

    game: str
    method: str
    seed: int
    score: float  # normalised: 1 is a human's, where it is known
    raw: float  # mean return
    frames: float  # environment frames; NaN where nobody says
    hours: float  # wall time; NaN where nobody says
    curve: tuple[np.ndarray, np.ndarray] | None = None  # frames and normalised scores


class Report(NamedTuple):
    """What is compared."""

    games: tuple[str, ...]  # of any method, in their order
    scores: dict[str, dict[str, list[Score]]]  # method -> game -> its seeds
    human: bool  # whether 1 is a human's score

    @property
    def measure(self) -> str:
        """What a score is called."""
        return "human-normalised score" if self.human else "normalised score"

    def matrix(self, method: str) -> np.ndarray:
        """[N, G] of the games that the method has; the seeds that it has on all of them, or on each
        the mean over those that there are, where it has no seed on all."""
        by_game = self.scores[method]
        common = set.intersection(*({x.seed for x in found} for found in by_game.values()))
        if not common:
            return np.array([[np.mean([x.score for x in found]) for found in by_game.values()]])
        return np.array(
            [[next(x.score for x in found if x.seed == seed) for found in by_game.values()]
             for seed in sorted(common)]
        )  # fmt: skip


def gather(
    scores: Sequence[Score], order: Sequence[str], human: bool = True
) -> tuple[Report, list[str]]:
    """Scores by method and game.

    Args:
      scores: of any seeds.
      order: of games; others come behind.
      human: whether they are human-normalised.

    Returns:
      The report, and a line about everything that is missing in it.
    """
    there = {score.game for score in scores}
    known = dict.fromkeys(order)
    games = (*(game for game in known if game in there), *sorted(there - known.keys()))
    methods = dict.fromkeys(score.method for score in scores)
    found = {
        method: {
            game: sorted(own, key=lambda score: score.seed)
            for game in games
            if (own := [s for s in scores if (s.game, s.method) == (game, method)])
        }
        for method in methods
    }
    notes = []
    for method, by_game in found.items():
        if missing := [game for game in games if game not in by_game]:
            notes.append(f"{method} has no run of {', '.join(missing)}")
        every = set().union(*({x.seed for x in own} for own in by_game.values()))
        for game, own in by_game.items():
            if lacking := sorted(every - {x.seed for x in own}):
                notes.append(f"{method} lacks seeds of {game}: {', '.join(map(str, lacking))}")
    return Report(games, found, human), notes


def aggregates(report: Report, resamples: int) -> dict[str, dict[str, Estimate]]:
    """Interquartile mean, median and mean over the games that each method has."""
    return {
        method: statistics.aggregates({method: report.matrix(method)}, resamples)[method]
        for method in report.scores
    }


def summary_rows(report: Report, found: Mapping[str, Mapping[str, Estimate]]) -> list[dict]:
    """A row for each method; scores in percent, as in `game_rows`."""
    rows = []
    for method, by_game in report.scores.items():
        every = [score for own in by_game.values() for score in own]
        above = sum(np.mean([s.score for s in own]) > 1 for own in by_game.values())
        hours = [score.hours for score in every]
        rows.append(
            {"method": method, "games": len(by_game), "seeds": len(report.matrix(method)),
             **{f"{name}, %": _percent(estimate) for name, estimate in found[method].items()},
             **({"above human": int(above)} if report.human else {}),
             "hours of a run": None if np.all(np.isnan(hours)) else float(np.nanmean(hours))}
        )  # fmt: skip
    return rows


def _percent(found: Estimate) -> str:
    """With its interval, where several seeds give one."""
    value, low, high = (f"{100 * x:.1f}" for x in found)
    return f"{value} [{low}, {high}]" if found.high > found.low else value


def game_rows(report: Report) -> list[dict]:
    """A row for each game, in table 9's layout: mean return of each method, and its normalised
    score in percent."""
    rows = []
    for game in report.games:
        row: dict = {"game": game}
        for method, by_game in report.scores.items():
            own = by_game.get(game, [])
            row[method] = float(np.mean([s.raw for s in own])) if own else None
            row[f"{method}, %"] = 100 * float(np.mean([s.score for s in own])) if own else None
        rows.append(row)
    return rows


def write_table(path: pathlib.Path, rows: Sequence[Mapping]) -> None:
    """Rows as a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue())


def draw(report: Report, baseline: str, resamples: int, folder: pathlib.Path) -> Iterator[tuple]:
    """Draws the pictures that there are scores for.

    Args:
      report: what is compared.
      baseline: the method that others are relative to.
      resamples: of the bootstrap.
      folder: for the pictures.

    Returns:
      (caption, path) of each.
    """
    measure = report.measure[0].upper() + report.measure[1:]
    others = [method for method in report.scores if method != baseline]
    found = {m: values for m in others if (values := relative(report, m, baseline))}
    most = max((abs(x) for values in found.values() for x in values.values()), default=0.0)
    panels: list[Panel] = [
        (f"{method} over {baseline}",
         functools.partial(_draw_relative, values=values, linear=most <= _LINEAR))
        for method, values in found.items()
    ]  # fmt: skip
    if panels:
        height = max(2.2, 1.0 + 0.17 * len(report.games))
        path = save_panels(folder / "relative.png", panels, columns=2, size=(5.2, height))
        yield f"{measure} minus the baseline's, in units of its size (figure 4)", path
    curves = {
        method: points for method in report.scores if (points := median_curve(report, method))
    }
    if curves:
        panel = functools.partial(_draw_curves, curves=curves, measure=report.measure)
        path = save_panels(folder / "median.png", [("median over games", panel)], size=(6.4, 4.2))
        yield f"Median {report.measure} over frames (figure 4)", path
    scores = {method: report.matrix(method) for method in report.scores}
    thresholds = thresholds_of(scores)
    found = {
        method: statistics.profiles({method: own}, thresholds, resamples)[method]
        for method, own in scores.items()
    }
    panel = functools.partial(
        draw_profiles, thresholds=thresholds, found=found, label=report.measure
    )
    name = "share of runs with a higher score"
    path = save_panels(folder / "profiles.png", [(name, panel)], size=(6.4, 4.2))
    yield "Performance profiles", path
    if spread := standardised(report):
        panel = functools.partial(_draw_spread, values=spread)
        path = save_panels(folder / "standardised.png", [("over games", panel)], size=(6.4, 4.2))
        yield "Returns, standardised within each game: runs, quartiles and median (figure 12)", path
    panels = [
        (game, functools.partial(_draw_bands, curves=own, measure=report.measure))
        for game in report.games
        if (own := game_curves(report, game))
    ]
    if panels:
        path = save_panels(folder / "games.png", panels, columns=4, size=(4.2, 2.9))
        yield f"{measure} in each game, mean and one standard deviation (figures 13 to 18)", path


def thresholds_of(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of profiles: from 0, or the lowest score, to a little above the highest one; but for scores
    so far away that they would hide the others."""
    every = np.concatenate([own.ravel() for own in scores.values()])
    high = every.max() + 0.05 * abs(every.max())
    low, high = np.clip([min(every.min(), 0.0), high], *_PROFILE)
    return np.linspace(low, max(high, low + 0.1), 81)


def standardised(report: Report) -> dict[str, np.ndarray]:
    """Method -> its runs' scores, minus their game's mean over all runs and divided by its standard
    deviation; of the games that all methods have and that tell runs apart. Empty for one method or
    one game."""
    found: dict[str, list[float]] = {method: [] for method in report.scores}
    games = 0
    for game in report.games:
        own = {method: by_game.get(game, []) for method, by_game in report.scores.items()}
        every = np.array([score.score for scores in own.values() for score in scores])
        if not all(own.values()) or not every.std():
            continue
        games += 1
        for method, scores in own.items():
            found[method] += [(x.score - every.mean()) / every.std() for x in scores]
    if games < 2 or len(found) < 2:
        return {}
    return {method: np.array(values) for method, values in found.items()}


def game_curves(report: Report, game: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Method -> frames, [n], and its seeds' scores there, [N, n]; of those that have curves."""
    found = {}
    for method, by_game in report.scores.items():
        curves = _curves_of(by_game.get(game, []))
        if curves and (at := _common_frames(curves)) is not None:
            found[method] = at, np.stack([np.interp(at, x, y) for x, y in curves])
    return found


def _curves_of(scores: Sequence[Score]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Those that there are, and have points."""
    return [x.curve for x in scores if x.curve is not None and len(x.curve[0])]


def _common_frames(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray | None:
    """Frames, [n], over the stretch that all of them have; None where there is none."""
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    return np.linspace(start, end, 100) if end > start else None


def relative(report: Report, method: str, baseline: str) -> dict[str, float]:
    """game -> (score - the baseline's) / max(|the baseline's|, 0.01), on the games of both."""
    found = {}
    for game, own in report.scores[method].items():
        if before := report.scores[baseline].get(game):
            base = float(np.mean([s.score for s in before]))
            mine = float(np.mean([s.score for s in own]))
            found[game] = (mine - base) / max(abs(base), 0.01)
    return found


def median_curve(report: Report, method: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Frames, and the median over games of the mean over seeds, where all games have curves."""
    games = []
    for own in report.scores[method].values():
        if not (curves := _curves_of(own)):
            return None
        games.append(curves)
    at = _common_frames([curve for curves in games for curve in curves])
    if at is None:
        return None
    means = [np.mean([np.interp(at, x, y) for x, y in curves], axis=0) for curves in games]
    return at, np.median(means, axis=0)


def _draw_relative(axis, values: Mapping[str, float], linear: bool) -> None:
    """Bars from the best to the worst, on a scale that shows both ends."""
    from matplotlib.ticker import StrMethodFormatter

    names = sorted(values, key=values.__getitem__)
    shown_values = np.array([values[name] for name in names])
    axis.barh(range(len(names)), shown_values, color=np.where(shown_values < 0, "C3", "C0"))
    axis.set_yticks(range(len(names)), names, fontsize=6)
    if not linear:
        axis.set_xscale("symlog", linthresh=1.0)
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.axvline(0.0, color="black", linewidth=0.8)
    axis.set_xlabel("in units of the baseline's score")
    # As wide as three bars at least: one alone would fill the picture.
    middle, half = (len(names) - 1) / 2, max(len(names), 3) / 2
    axis.set_ylim(middle - half, middle + half)


def _draw_curves(axis, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], measure: str) -> None:
    for method, (x, y) in curves.items():
        axis.plot(x, y, label=method)
    _name_axes(axis, measure)


def _draw_spread(axis, values: Mapping[str, np.ndarray]) -> None:
    """Runs, their quartiles and their median; the first method on top."""
    for index, (name, own) in enumerate(reversed(values.items())):
        low, middle, high = np.quantile(own, [0.25, 0.5, 0.75])
        color = line_look(index)["color"]
        bar = {"color": color, "linewidth": 9, "alpha": 0.3, "label": f"_{name}"}
        axis.plot([low, high], [index, index], "-", **bar)
        axis.plot(own, np.full(len(own), index), ".", color=color, alpha=0.4)
        axis.plot([middle], [index], "o", color=color)
    axis.set_yticks(range(len(values)), reversed(values))
    axis.set_xlabel("standard deviations from the game's mean")


def _draw_bands(axis, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], measure: str) -> None:
    for method, (at, values) in curves.items():
        draw_band(axis, at, values, method)
    _name_axes(axis, measure)


def _name_axes(axis, measure: str) -> None:
    axis.set_xlabel("environment frames")
    short_counts(axis)
    axis.set_ylabel(measure)


def page(
    title: str,
    notes: Sequence[str],
    tables: Sequence[tuple[str, Sequence[Mapping]]],
    pictures: Sequence[tuple[str, pathlib.Path]],
) -> str:
    """A page of HTML that needs no other file."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if notes:
        parts.append("<h2>Notes</h2><ul>")
        parts += [f"<li>{html.escape(note)}</li>" for note in notes]
        parts.append("</ul>")
    for caption, rows in tables:
        head = "".join(f"<th>{html.escape(str(name))}</th>" for name in rows[0])
        body = "\n".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(x))}</td>" for x in row.values()) + "</tr>"
            for row in rows
        )
        parts.append(f"<h2>{html.escape(caption)}</h2>\n<table><tr>{head}</tr>\n{body}</table>")
    for caption, path in pictures:
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append(
            f"<h2>{html.escape(caption)}</h2>\n"
            f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        )
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def _cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:,.4g}"
    return str(value)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ border-bottom: 1px solid #ddd; padding: 3px 9px; text-align: right; }}
td {{ white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
th {{ border-bottom: 2px solid #888; }}
img {{ max-width: 100%; }}
</style></head><body>
{body}
</body></html>
"""
