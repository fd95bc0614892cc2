"""Figure 9 of the LPG paper: what rules are worth in other environments, over the number of worlds
that they come from."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bmg.agents.rule_file import load_rule
from bmg.experiments.declaration import Shown
from bmg.experiments.plots import plain, save_panels
from bmg.storage.fields import shown
from bmg.storage.files import found_json
from bmg.storage.rows import METRICS, is_finite
from bmg.storage.run_directory import flatten, load_json


class Trained(NamedTuple):
    """A run of `bmg train`."""

    game: str
    agent: str  # "lpg", or a baseline's algorithm
    worlds: int  # that its rule comes from; 0 of a baseline
    score: float  # mean return of its last evaluation


def show(folder: pathlib.Path, output: pathlib.Path) -> Iterator[Shown]:
    """Lines about runs that are left out, the picture, and its numbers.

    Raises:
      ValueError: no run by a rule; one line.
    """
    runs, notes = find(folder)
    yield from notes
    if not any(run.worlds for run in runs):
        raise ValueError(
            f"{folder} has no run by a rule that was evaluated; give --trained a folder of runs of "
            "`bmg train --agent.algorithm lpg --agent.lpg.rule FILE`."
        )
    yield draw(runs, output)
    yield table(runs)


def find(folder: pathlib.Path) -> tuple[list[Trained], list[str]]:
    """The runs in a folder and its folders that were evaluated, of rules that say what they are
    made from and of other agents; lines about what is left out."""
    found, notes = [], []
    for directory in sorted(path.parent for path in folder.rglob(METRICS)):
        try:
            found.append(_read(directory))
        except ValueError as error:
            notes.append(f"{directory} is left out: {str(error).rstrip('.')}")
    return found, notes


def _read(directory: pathlib.Path) -> Trained:
    """A run that can be drawn.

    Raises:
      ValueError: this one cannot; one line.
    """
    config = flatten(load_json(directory))
    game, agent = config.get("game"), config.get("agent.algorithm")
    if not isinstance(game, str) or not isinstance(agent, str):
        raise ValueError("it is no run of `bmg train`")
    score = found_json(directory / "results.json").get("evaluation_return")
    if score is None:
        raise ValueError("it has no evaluation yet")
    if not is_finite(score):
        raise ValueError(f"its evaluation_return is {shown(score)}, no finite number")
    return Trained(game, agent, _worlds(directory) if agent == "lpg" else 0, float(score))


def _worlds(directory: pathlib.Path) -> int:
    """How many its rule comes from, of which each seed's folder has a copy."""
    made_from = load_rule(directory / "rule.npz").made_from
    worlds = made_from.get("worlds") if isinstance(made_from, dict) else None
    if not isinstance(worlds, list) or not worlds:
        raise ValueError("its rule does not name the worlds that it comes from")
    return len(worlds)


def table(runs: Sequence[Trained]) -> list[dict[str, str]]:
    """Mean and standard deviation over runs: a row for each number of worlds and each baseline."""
    return [
        {
            "game": game, "agent": agent, "worlds": str(worlds or ""), "runs": str(len(scores)),
            "evaluation": f"{np.mean(scores):.3g} ({_deviation(scores)})",
        }
        for (game, agent, worlds), scores in _grouped(runs).items()
    ]  # fmt: skip


def _deviation(scores: Sequence[float]) -> str:
    """One run has none."""
    return f"{np.std(scores):.2g}" if len(scores) > 1 else "-"


def _grouped(runs: Sequence[Trained]) -> dict[tuple[str, str, int], list[float]]:
    groups: dict[tuple[str, str, int], list[float]] = {}
    for run in sorted(runs, key=lambda run: (run.game, run.worlds == 0, run.agent, run.worlds)):
        groups.setdefault((run.game, run.agent, run.worlds), []).append(run.score)
    return groups


def draw(runs: Sequence[Trained], output: pathlib.Path) -> pathlib.Path:
    """A panel for each game: scores over the number of worlds, baselines as lines across."""
    panels = [
        (game, functools.partial(_draw_game, runs=[run for run in runs if run.game == game]))
        for game in dict.fromkeys(run.game for run in sorted(runs))
    ]
    return save_panels(output / "figure_9.png", panels, columns=3)


def _draw_game(axis, runs: Sequence[Trained]) -> None:
    groups = _grouped(runs)
    by_rules = {worlds: scores for (_, _, worlds), scores in groups.items() if worlds}
    x = sorted(by_rules)
    if x:
        axis.plot(x, [np.mean(by_rules[n]) for n in x], marker="o", color="C0", label="LPG")
        for n in (n for n in x if len(by_rules[n]) > 1):
            mean, std = np.mean(by_rules[n]), np.std(by_rules[n])
            axis.errorbar([n], [mean], [std], fmt="none", color="C0", capsize=3)
        axis.set_xticks(x)
    for index, ((_, agent, worlds), scores) in enumerate(groups.items()):
        if not worlds:
            axis.axhline(
                np.mean(scores), color=f"C{index % 9 + 1}", linestyle="--", label=plain(agent)
            )
    axis.set_xlabel("worlds that the rule comes from")
    axis.set_ylabel("return in evaluation")
