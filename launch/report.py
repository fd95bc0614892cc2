"""`bmg report`: human-normalised scores of the runs in a folder: a page, tables, pictures."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import pathlib
from typing import TYPE_CHECKING, Literal

from bmg.launch import environment
from bmg.launch.options import check_name, parse_options, with_first
from bmg.launch.pictures import no_picture
from bmg.launch.runs import find
from bmg.launch.tables import print_table
from bmg.storage.fields import Count, check_fields
from bmg.storage.files import found_json

if TYPE_CHECKING:
    from bmg.experiments.comparison.report import Score
    from bmg.experiments.curves import Run

_SHOWN = 20  # games of the table on the console; files have all


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Compare runs over games by human-normalised scores: tables, intervals, pictures, and a page
    of HTML with all of it; also as `bmg report FOLDER`."""

    folder: str = "runs"
    """Where runs of `bmg train` are, however deep; empty for none."""
    scores: str = ""
    """Table of more returns (.csv), with a line for each game and a column for each method, such as
    published ones."""
    output: str = ""
    """Folder for what is made; empty for `report` in the folder of the runs."""
    score: Literal["evaluation", "training"] = "evaluation"
    """Of the last evaluation, or of the last 100 episodes of training."""
    baseline: str = ""
    """Method that others are shown relative to; empty for the first one."""
    title: str = "Report"
    """Of the page."""
    resamples: Count = 2_000
    """Of the bootstrap."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg report`.

    Raises:
      ValueError: nothing to compare, or a table that is none; one line.
    """
    options = parse_options(ReportConfig, "bmg report", with_first("--folder", arguments))
    environment.clean()
    from bmg.environments.scores import GAMES
    from bmg.experiments.comparison import report

    scores, notes = of_runs(options) if options.folder else ([], [])
    if options.scores:
        scores += of_table(pathlib.Path(options.scores))
    if not scores:
        raise ValueError(
            f"no run in {options.folder} has a human-normalised score; give a folder of runs of "
            "Atari games, or --scores."
        )
    compared, missing = report.gather(scores, GAMES)
    baseline = options.baseline or next(iter(compared.scores))
    check_name("method", baseline, compared.scores)
    aggregates = report.aggregates(compared, options.resamples)
    summary = report.summary_rows(compared, aggregates)
    games = report.game_rows(compared)
    folder = pathlib.Path(options.output or pathlib.Path(options.folder or ".") / "report")
    try:
        pictures = list(report.draw(compared, baseline, options.resamples, folder))
        report.write_table(folder / "games.csv", games)
        report.write_table(folder / "summary.csv", summary)
        tables = [("Summary", summary), ("Returns and human-normalised scores", games)]
        page = report.page(options.title, [*notes, *missing], tables, pictures)
        (folder / "report.html").write_text(page, "utf-8")
    except OSError as error:
        raise no_picture(folder, error) from None
    for note in (*notes, *missing):
        print(note)
    print_table(summary)
    if len(games) <= _SHOWN:
        print_table(games)
    print(folder / "report.html")
    return 0


def of_runs(options: ReportConfig) -> tuple[list[Score], list[str]]:
    """Scores of the runs in a folder; lines about those that have none, or are not complete."""
    from bmg.experiments.curves import find_runs, group_runs

    # What runs have in common beside their games and seeds -> those that have a score.
    methods: dict[str, list[tuple[Run, Score]]] = {}
    notes = []
    for path in find(pathlib.Path(options.folder)):
        for run in find_runs(path):
            if run.columns is not None:
                continue
            found = _score_of(run, options.score)
            if isinstance(found, str):
                notes.append(found)
                continue
            settings = {k: v for k, v in run.settings.items() if k != "game"}
            members = methods.setdefault(json.dumps(settings, sort_keys=True), [])
            same = [x for x, y in members if (y.game, y.seed) == (found.game, found.seed)]
            if same:
                notes.append(f"{run.workdir} is the same run as {same[0].workdir}, and left out")
            else:
                members.append((run._replace(settings=settings), found))
    groups = group_runs([members[0][0] for members in methods.values()])
    labels = [group.label for group in groups]
    if len(groups) == 1:
        labels = [str(groups[0].runs[0].settings.get("agent.algorithm", labels[0]))]
    scores = [
        score._replace(method=label)
        for label, members in zip(labels, methods.values())
        for _, score in members
    ]
    return scores, notes


def _score_of(run: Run, kind: str) -> Score | str:
    """Its score, of no method yet, or why it has none."""
    from bmg.environments.scores import human_normalized_score
    from bmg.experiments.comparison.report import Score

    results = found_json(run.workdir / "results.json")
    try:
        game, raw = results["game"], results[f"{kind}_return"]
        frames, seconds = float(results["frames"]), float(results["wall_seconds"])
    except (ValueError, LookupError, TypeError):
        return f"{run.workdir} has no results yet"
    if not isinstance(raw, (int, float)):
        return f"{run.workdir} has no {kind} return yet"
    score = human_normalized_score(game, raw)
    if score is None:
        return f"{run.workdir}: nobody knows a human's score of {game}"
    x, y = run.points("training/return", "frames")
    curve = (x, human_normalized_score(game, y))
    return Score(game, "", run.seed, score, float(raw), frames, seconds / 3600, curve)


def of_table(path: pathlib.Path) -> list[Score]:
    """Scores of a table: a line for each game, a column of mean returns for each method.

    Raises:
      ValueError: it is no such table; one line.
    """
    from bmg.environments.scores import SCORES, human_normalized_score
    from bmg.experiments.comparison.report import Score

    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows or "game" not in rows[0]:
            raise ValueError("its first column is no `game`")
        scores = []
        for row in rows:
            if (game := row.pop("game")) not in SCORES:
                raise ValueError(f"it has the game {game!r}, whose human score nobody knows")
            for method, cell in row.items():
                if cell:
                    raw = float(cell)
                    score = human_normalized_score(game, raw)
                    scores.append(Score(game, method, 0, score, raw, math.nan, math.nan))
        return scores
    except (OSError, ValueError, csv.Error, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{path} is no table of returns: {why}.") from None
