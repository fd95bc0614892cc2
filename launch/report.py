"""`bmg report`: normalised scores of the runs in a folder: a page, tables, pictures."""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import json
import math
import pathlib
from typing import TYPE_CHECKING, Literal

from bmg.launch import environment
from bmg.launch.console import duration
from bmg.launch.options import check_name, parse_options, with_first
from bmg.launch.pictures import no_picture
from bmg.launch.runs import find
from bmg.launch.tables import print_table
from bmg.storage.fields import Count, Seed, check_fields, read
from bmg.storage.files import found_json, reason, unreadable
from bmg.storage.rows import is_finite
from bmg.storage.run_directory import load_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bmg.environments.scores import ReferenceScores
    from bmg.experiments.comparison.report import Score
    from bmg.experiments.curves import Run

_SHOWN = 20  # games of the table on the console; files have all


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Compare runs over games by normalised scores: tables, intervals, pictures, and a page of HTML
    with all of it; also as `bmg report FOLDER`."""

    folder: str = "runs"
    """Where runs of `bmg train` are, however deep; empty for none."""
    scores: str = ""
    """Table of more returns (.csv), with a line for each game and a column for each method, such as
    published ones."""
    references: str = ""
    """Table (.csv) of the returns that are 0 and 1, with columns game, random and human; for games
    of your own, or other scores of Atari's. Of games without any, if there are no others, 0 and 1
    are the lowest and the highest return of the runs."""
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
    from bmg.environments.scores import GAMES, SCORES
    from bmg.experiments.comparison import report

    if not options.folder and not options.scores:
        raise ValueError("--folder and --scores are empty; give one of them, or both.")
    known = dict(SCORES)
    if options.references:
        known |= references_of(pathlib.Path(options.references))
    scores, notes, human = of_runs(options, known) if options.folder else ([], [], True)
    if options.scores:
        given = of_table(pathlib.Path(options.scores), known)
        if scores and not human:
            raise ValueError(
                f"nobody knows a human's score of {scores[0].game}, which runs in {options.folder} "
                f"play, so {options.scores} cannot stand beside them; give --references."
            )
        if both := {score.method for score in scores} & {score.method for score in given}:
            raise ValueError(
                f"{options.scores} has the method {min(both)!r}, and so has {options.folder}; give "
                "it another name in the table."
            )
        scores += given
    if not scores:
        for note in notes:
            print(note)
        raise ValueError(
            f"no run in {options.folder} has a score to compare; give a folder of runs of `bmg "
            "train` that have results, or --scores."
        )
    compared, missing = report.gather(scores, GAMES, human)
    baseline = options.baseline or next(iter(compared.scores))
    check_name("method", baseline, compared.scores)
    aggregates = report.aggregates(compared, options.resamples)
    summary = report.summary_rows(compared, aggregates)
    readable = [_with_time(row) for row in summary]
    games = report.game_rows(compared)
    folder = pathlib.Path(options.output or pathlib.Path(options.folder or ".") / "report")
    try:
        pictures = list(report.draw(compared, baseline, options.resamples, folder))
        report.write_table(folder / "games.csv", games)
        report.write_table(folder / "summary.csv", summary)
        tables = [("Summary", readable), (f"Returns, and {compared.measure}s in percent", games)]
        page = report.page(options.title, [*notes, *missing], tables, pictures)
        (folder / "report.html").write_text(page, "utf-8")
    except OSError as error:
        raise no_picture(folder, error) from None
    for note in (*notes, *missing):
        print(note)
    print_table(readable)
    if len(games) <= _SHOWN:
        print_table(games)
    print(folder / "report.html")
    return 0


def _with_time(row: dict) -> dict:
    """A row of the summary, with hours as they are read best."""
    *others, (_, hours) = row.items()
    return {**dict(others), "time of a run": None if hours is None else duration(3_600 * hours)}


def of_runs(
    options: ReportConfig, known: Mapping[str, ReferenceScores]
) -> tuple[list[Score], list[str], bool]:
    """Scores of the runs in a folder; lines about those that have none, or are not complete; and
    whether they are human-normalised.

    Args:
      options: of the report.
      known: returns that are 0 and 1, of games.
    """
    from bmg.experiments.curves import find_runs, group_runs
    from bmg.experiments.records import RESULTS

    there: list[tuple[Run, Score]] = []
    notes = []
    for path in find(pathlib.Path(options.folder)):
        if (path / RESULTS).exists():  # an experiment's
            continue
        try:
            scored = [(run, _score_of(run, options.score)) for run in find_runs(path)]
        except (OSError, ValueError) as error:
            notes.append(f"{unreadable(error, path)}; left out")
            continue
        for run, found in scored:
            if isinstance(found, str):
                notes.append(found)
                continue
            there.append((run, found))
    human = not there or any(found.game in known for _, found in there)
    if human:
        unknown = collections.Counter(x.game for _, x in there if x.game not in known)
        notes += [
            f"nobody knows a human's score of {game}: {count} run{'s' * (count > 1)} left out; "
            "give --references"
            for game, count in unknown.items()
        ]
    else:
        known = _ranges([found for _, found in there])
        notes.append("no human's scores are known: 0 and 1 are the lowest and the highest return")
    # What runs have in common beside their games and seeds -> those that have a score.
    methods: dict[str, list[tuple[Run, Score]]] = {}
    for run, found in there:
        if found.game not in known:
            continue
        settings = {k: v for k, v in run.settings.items() if k != "game"}
        members = methods.setdefault(json.dumps(settings, sort_keys=True), [])
        same = [x for x, y in members if (y.game, y.seed) == (found.game, found.seed)]
        if same:
            notes.append(
                f"{_named(run)} has the settings and the seed of {_named(same[0])}; left out"
            )
        else:
            members.append((run._replace(settings=settings), _normalised(found, known)))
    groups = group_runs([members[0][0] for members in methods.values()])
    labels = [group.label for group in groups]
    if len(groups) == 1:
        labels = [str(groups[0].runs[0].settings.get("agent.algorithm", labels[0]))]
    scores = [
        score._replace(method=label)
        for label, members in zip(labels, methods.values())
        for _, score in members
    ]
    return scores, notes, human


def _ranges(scores: list[Score]) -> dict[str, ReferenceScores]:
    """game -> the lowest and the highest return of its runs, which are apart."""
    from bmg.environments.scores import ReferenceScores

    returns: dict[str, list[float]] = {}
    for score in scores:
        returns.setdefault(score.game, []).append(score.raw)
    return {
        game: ReferenceScores(min(own), max(own) if max(own) > min(own) else min(own) + 1.0)
        for game, own in returns.items()
    }


def _normalised(score: Score, known: Mapping[str, ReferenceScores]) -> Score:
    """With returns, its own and those of its curve, as scores."""
    reference = known[score.game]
    x, y = score.curve
    curve = (x, reference.normalise(y))
    return score._replace(score=reference.normalise(score.raw), curve=curve)


def _named(run: Run) -> str:
    """A run and its runtime, which is none of the settings that are compared."""
    return f"{run.workdir} (runtime {load_json(run.workdir).get('runtime')})"


def _score_of(run: Run, kind: str) -> Score | str:
    """Its return, of no method yet, and not yet normalised; or why it has none.

    Raises:
      ValueError: its seed is none; one line.
      OSError: its metrics cannot be read.
    """
    from bmg.experiments.comparison.report import Score

    results = found_json(run.workdir / "results.json")
    game, raw = results.get("game"), results.get(f"{kind}_return")
    frames, seconds = results.get("frames"), results.get("wall_seconds")
    if not isinstance(game, str) or not is_finite(frames) or not is_finite(seconds):
        return f"{run.workdir} has no results yet"
    if not is_finite(raw):
        return f"{run.workdir} has no {kind} return yet"
    seed = read(Seed, run.seed, f"{run.workdir}: seed")
    curve = run.points("training/return", "frames")
    return Score(game, "", seed, math.nan, float(raw), frames, seconds / 3600, curve)


def of_table(path: pathlib.Path, known: Mapping[str, ReferenceScores]) -> list[Score]:
    """Scores of a table: a line for each game, a column of mean returns for each method.

    Args:
      path: of the table.
      known: returns that are 0 and 1, of games.

    Raises:
      ValueError: it is no such table; one line.
    """
    from bmg.experiments.comparison.report import Score

    scores = []
    with _table_of_games(path, "returns") as rows:
        for row in rows:
            if (game := row.pop("game")) not in known:
                raise ValueError(
                    f"it has the game {game!r}, whose human score nobody knows; give --references"
                )
            for method, cell in row.items():
                if cell.strip():
                    raw = _finite(cell)
                    score = known[game].normalise(raw)
                    scores.append(Score(game, method, 0, score, raw, math.nan, math.nan))
        if not scores:
            raise ValueError(
                "it has no return; give one in the line of a game, the column of a method"
            )
    return scores


def references_of(path: pathlib.Path) -> dict[str, ReferenceScores]:
    """Of a table: game -> returns that are 0 and 1.

    Raises:
      ValueError: it is no such table; one line.
    """
    from bmg.environments.scores import ReferenceScores

    found = {}
    with _table_of_games(path, "reference returns") as rows:
        for row in rows:
            if row.keys() != {"game", *ReferenceScores._fields}:
                raise ValueError(
                    f"it has the columns {', '.join(row)}; allowed are game, random and human"
                )
            own = ReferenceScores(_finite(row["random"]), _finite(row["human"]))
            if own.random == own.human:
                raise ValueError(f"{row['game']} has the same return for random and human")
            found[row["game"]] = own
        if not found:
            raise ValueError("it has no game")
    return found


@contextlib.contextmanager
def _table_of_games(path: pathlib.Path, what: str) -> Iterator[list[dict[str, str]]]:
    """The rows of a CSV file, each of a game of its own; names the file in what is wrong with them.

    Raises:
      ValueError: it is no such file, or its reader finds something wrong; one line.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets write a BOM
            names, *lines = [line for line in csv.reader(file) if line] or [[]]
        if "game" not in names or not all(names):
            raise ValueError("its first line does not name columns, `game` among them")
        _check_once("column", names)
        if wrong := [line for line in lines if len(line) != len(names)]:
            raise ValueError(f"a line has {len(wrong[0])} fields, not {len(names)}")
        rows = [dict(zip(names, line)) for line in lines]
        _check_once("game", [row["game"] for row in rows])
        yield rows
    except OSError as error:
        raise ValueError(f"{path} is no table of {what}: {reason(error)}.") from None
    except (ValueError, csv.Error) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{path} is no table of {what}: {why}.") from None


def _check_once(kind: str, names: list[str]) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"it has the {kind} {twice[0]!r} twice; leave one out")


def _finite(cell: str) -> float:
    if not math.isfinite(value := float(cell)):
        raise ValueError(f"it has the return {cell.strip()}; allowed are finite numbers, or none")
    return value
