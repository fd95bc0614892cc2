"""Figure 9 of the LPG paper: what rules are worth in other environments, over the number of worlds
that they come from."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bmg.agents.rule_file import load_rule
from bmg.experiments.plots import save_panels
from bmg.storage.files import found_json
from bmg.storage.rows import METRICS
from bmg.storage.run_directory import flatten, load_json


class Trained(NamedTuple):
    """A run of `bmg train`."""

    game: str
    agent: str  # "lpg", or a baseline's algorithm
    worlds: int  # that its rule comes from; 0 of a baseline
    score: float  # mean return of its last evaluation


def find(folder: pathlib.Path) -> list[Trained]:
    """The runs in a folder and its folders that were evaluated, of rules that say what they are
    made from and of other agents.

    Raises:
      ValueError: none of a rule, or one cannot be read; one line.
    """
    found = []
    for directory in sorted(path.parent for path in folder.rglob(METRICS)):
        score = found_json(directory / "results.json").get("evaluation_return")
        config = flatten(load_json(directory))
        agent = config["agent.algorithm"]
        if score is None:
            continue
        worlds = _worlds(directory) if agent == "lpg" else 0
        if worlds is not None:
            found.append(Trained(config["game"], agent, worlds, float(score)))
    if not any(run.worlds for run in found):
        raise ValueError(
            f"{folder} has no run by a rule that was evaluated; give --trained a folder of runs of "
            "`bmg train --agent.algorithm lpg --agent.lpg.rule FILE`."
        )
    return found


def _worlds(directory: pathlib.Path) -> int | None:
    """How many its rule comes from. Several seeds share the rule beside their folders."""
    own, shared = directory / "rule.npz", directory.parent / "rule.npz"
    worlds = load_rule(own if own.exists() else shared).made_from.get("worlds")
    return len(worlds) if worlds else None


def table(runs: Sequence[Trained]) -> list[dict[str, str]]:
    """Mean and standard deviation over runs: a row for each number of worlds and each baseline."""
    return [
        {
            "game": game, "agent": agent, "worlds": str(worlds or ""), "runs": str(len(scores)),
            "evaluation": f"{np.mean(scores):.3g} ({np.std(scores):.2g})",
        }
        for (game, agent, worlds), scores in _grouped(runs).items()
    ]  # fmt: skip


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
    means, stds = ([of(by_rules[n]) for n in x] for of in (np.mean, np.std))
    if x:
        axis.plot(x, means, marker="o", color="C0", label="LPG")
        axis.errorbar(x, means, stds, fmt="none", color="C0", capsize=3)
        axis.set_xticks(x)
    for index, ((_, agent, worlds), scores) in enumerate(groups.items()):
        if not worlds:
            axis.axhline(np.mean(scores), color=f"C{index % 9 + 1}", linestyle="--", label=agent)
    axis.set_xlabel("worlds that the rule comes from")
    axis.set_ylabel("return in evaluation")
