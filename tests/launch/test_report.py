"""`bmg report` on the paper's own scores and on runs: numbers, what is missing, one whole page."""

from __future__ import annotations

import csv
import json
import pathlib
import re

import numpy as np
import pytest

from bmg.environments.scores import SCORES, human_normalized_score
from bmg.experiments.comparison import report
from bmg.experiments.comparison.report import Score
from bmg.launch.report import of_table
from tests.launch.test_cli import save_run

# Returns of Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, table 9. Two of its cells
# are lost in print: Robotank with L = 4, and the row of Zaxxon, of which STACX's is known.
TABLE_9 = pathlib.Path(__file__).parents[1] / "data" / "bmg_table9.csv"
MEDIANS = {"KL": 501.9, "KL&V": 464.2, "KL&V_L4": 439.9, "KL-S": 289.5, "L2": 408.5,
           "STACX": 300.6, "V": 190.8}  # fmt: skip
ABOVE_HUMAN = {"KL": 46, "KL&V": 46, "KL&V_L4": 43, "KL-S": 43, "L2": 46, "STACX": 42, "V": 40}


def table_of(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_papers_table_has_the_papers_medians(command, tmp_path, pictures):
    code, out, err = command(
        "report", "--folder", "", "--scores", str(TABLE_9), "--output", "made", "--baseline",
        "STACX", "--resamples", "20",
    )  # fmt: skip
    assert code == 0 and err == "" and out.splitlines()[-1] == "made/report.html"
    assert "KL&V_L4 has no run of robotank, zaxxon" in out
    rows = {row["method"]: row for row in table_of(tmp_path / "made/summary.csv")}
    assert list(rows) == list(MEDIANS)
    for method, median in MEDIANS.items():
        assert float(rows[method]["median, %"]) == pytest.approx(median, abs=0.06)
        assert int(rows[method]["above human"]) == ABOVE_HUMAN[method]
    games = table_of(tmp_path / "made/games.csv")
    assert len(games) == 57 and games[0]["game"] == "alien"
    for row, given in zip(games, sorted(table_of(TABLE_9), key=lambda row: row["game"])):
        assert row["game"] == given["game"]
        for method in MEDIANS:
            assert (row[method] == "") == (given[method] == "")
            if row[method]:
                score = human_normalized_score(row["game"], float(given[method]))
                assert float(row[f"{method}, %"]) == pytest.approx(100 * score)
    assert len(pictures["relative.png"]) == 6 and "profiles.png" in pictures
    page = (tmp_path / "made/report.html").read_text()
    assert page.count("<img") == page.count('src="data:image/png;base64,') == 3
    (spread,) = pictures["standardised.png"]
    assert {f"_{method}" for method in MEDIANS} <= spread.lines.keys()
    assert "games.png" not in pictures, "a table has no curves"
    assert not re.search(r'(src|href)="(?!data:)', page), "it needs no other file"
    assert "KL&amp;V" in page and "KL&V<" not in page


def leave(folder, game, seed, returned, algorithm="bmg", rows=2, runtime="auto"):
    """A run that has ended, or one without results."""
    save_run(folder, game=game, seed=seed)
    settings = json.loads((folder / "config.json").read_text())
    settings["agent"]["algorithm"] = algorithm
    settings["runtime"] = runtime
    (folder / "config.json").write_text(json.dumps(settings))
    if returned is None:
        return
    results = {"game": game, "frames": 4_000, "wall_seconds": 7_200.0, "complete": True,
               "evaluation_return": returned, "training_return": returned - 1}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    rows = [{"frames": 2_000 * i, "training/return": returned * i / rows} for i in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_runs_of_several_games_and_seeds(command, tmp_path, pictures):
    root = tmp_path / "runs"
    for algorithm, gain in (("bmg", 10.0), ("impala", 0.0)):
        for game in ("pong", "breakout"):
            for seed in (0, 1):
                if (algorithm, game, seed) != ("impala", "breakout", 1):
                    path = root / f"{algorithm}-{game}-{seed}"
                    leave(path, game, seed, gain + seed, algorithm)
    leave(root / "young", "pong", 2, None)
    leave(root / "pong-again", "pong", 0, 99.0, runtime="in-graph")
    for seed in (0, 1):
        leave(root / f"snake-{seed}", "snake", seed, 3.0)
    for name, file, text in (
        ("config", "config.json", "[]"), ("seed", "config.json", '{"seed": "x"}'),
        ("lost", "metrics.jsonl", None), ("nan", "results.json", "{}"),
    ):  # fmt: skip
        leave(root / name, "pong", 5, 3.0)
        path = root / name / file
        path.unlink() if text is None else path.write_text(text)
    code, out, err = command("report", "runs", "--resamples", "50", "--baseline", "impala")
    assert code == 0 and err == "", err
    assert "runs/young has no results yet" in out
    assert "runs/nan has no results yet" in out
    assert (
        "runs/pong-again (runtime in-graph) has the settings and the seed of runs/bmg-pong-0 "
        "(runtime auto); left out" in out
    )
    assert out.count("snake") == 1
    assert "nobody knows a human's score of snake: 2 runs left out; give --references" in out
    assert "runs/config/config.json cannot be read: it is a list; allowed" in out
    assert "runs/seed: seed is 'x'; allowed are integers from 0; left out" in out
    assert "runs/lost/metrics.jsonl cannot be read: No such file or directory; left out" in out
    assert "impala lacks seeds of breakout: 1" in out
    rows = {row["method"]: row for row in table_of(root / "report/summary.csv")}
    assert list(rows) == ["bmg", "impala"]
    assert (rows["bmg"]["games"], rows["bmg"]["seeds"], rows["impala"]["seeds"]) == ("2", "2", "1")
    assert float(rows["bmg"]["hours of a run"]) == 2 and "2 h 00 min" in out
    mean = np.mean([human_normalized_score(g, x) for g in ("pong", "breakout") for x in (10, 11)])
    assert rows["bmg"]["mean, %"].startswith(f"{100 * mean:.1f} [")
    games = {row["game"]: row for row in table_of(root / "report/games.csv")}
    assert list(games) == ["breakout", "pong"]
    assert float(games["pong"]["bmg"]) == 10.5 and float(games["breakout"]["impala"]) == 0.0
    expected = 100 * human_normalized_score("pong", 10.5)
    assert float(games["pong"]["bmg, %"]) == pytest.approx(expected)
    assert {"relative.png", "median.png", "profiles.png"} <= pictures.keys()
    (curves,) = pictures["median.png"]
    end = {label: points[-1] for label, points in curves.lines.items()}
    both = [human_normalized_score(game, 10.5) for game in ("pong", "breakout")]
    np.testing.assert_allclose(end["bmg"], [4_000, np.median(both)])
    breakout, pong = pictures["games.png"]
    assert (breakout.title, pong.title) == ("breakout", "pong")
    mean = np.mean([human_normalized_score("pong", x) for x in (10, 11)])
    np.testing.assert_allclose(pong.lines["bmg"][-1], [4_000, mean])
    assert set(pong.lines) == {"bmg", "impala"} and "standardised.png" in pictures
    code, out, _ = command("report", "runs", "--score", "training", "--resamples", "50")
    assert code == 0
    games = {row["game"]: row for row in table_of(root / "report/games.csv")}
    assert float(games["pong"]["bmg"]) == 9.5


def test_what_a_picture_is_relative_to():
    scores = [Score("pong", m, 0, x, x, 1, 1) for m, x in (("a", 0.5), ("b", 2.0))]
    scores += [Score("catch", m, 0, x, x, 1, 1) for m, x in (("a", -0.25), ("b", 0.25))]
    compared, notes = report.gather([*scores, Score("freeway", "b", 0, 1, 1, 1, 1)], ["pong"])
    assert compared.games == ("pong", "catch", "freeway")
    assert notes == ["a has no run of freeway"]
    assert report.relative(compared, "b", "a") == {"pong": 3.0, "catch": 2.0}


def test_what_is_standardised():
    """Each game by itself; a game that a method lacks, or on which all are level, tells nothing."""
    values = {"pong": (1, 3), "catch": (10, 20), "alien": (5, 5)}
    scores = [
        Score(game, method, 0, x, x, 1, 1)
        for game, pair in values.items() for method, x in zip("ab", pair)
    ]  # fmt: skip
    compared, _ = report.gather([*scores, Score("freeway", "b", 0, 1, 1, 1, 1)], [])
    found = report.standardised(compared)
    np.testing.assert_allclose(found["a"], [-1, -1])
    np.testing.assert_allclose(found["b"], [1, 1])
    alone, _ = report.gather(scores[:2], [])
    assert report.standardised(alone) == {}, "one game"


def test_seeds_that_a_method_does_not_have_everywhere():
    seeds_of = {"pong": (0, 1), "alien": (1, 2)}
    scores = [Score(game, "a", x, x, x, 1, 1) for game, seeds in seeds_of.items() for x in seeds]
    compared, notes = report.gather(scores, list(SCORES))
    np.testing.assert_array_equal(compared.matrix("a"), [[1, 1]])
    assert notes == ["a lacks seeds of alien: 0", "a lacks seeds of pong: 2"]
    apart, _ = report.gather([scores[0], scores[3]], list(SCORES))
    np.testing.assert_array_equal(apart.matrix("a"), [[2, 0]])


WRONG = [
    ("", "its first line does not name columns, `game` among them"),
    ("name,a\npong,1\n", "its first line does not name columns, `game` among them"),
    ("game,\npong,1\n", "its first line does not name columns"),
    ("game,a\npnog,1\n", "'pnog'"),
    ("game,a\npong,x\n", "could not convert"),
    ("game,a\npong,1,2\n", "a line has 3 fields, not 2"),
    ("game,a\npong\n", "a line has 1 fields, not 2"),
    ("game,a\npong,1\nalien,3\npong,2\n", "the game 'pong' twice"),
    ("game,a,b,a\npong,1,2,3\n", "the column 'a' twice"),
    ("game,a\npong,nan\n", "the return nan; allowed are finite"),
    ("game,a\npong,-inf\n", "the return -inf; allowed are finite"),
    ("game\npong\n", "it has no return; give one in the line of a game"),
    ("game,a\npong,\n", "it has no return"),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_what_is_no_table_is_one_line(command, tmp_path, text, words):
    (tmp_path / "x.csv").write_text(text)
    line = command.refused("report", "--folder", "", "--scores", "x.csv")
    assert words in line and "x.csv" in line


def games_of_ones_own(root):
    """Two methods with two seeds of two games, of which nobody knows a human's score."""
    for algorithm, gain in (("bmg", 10.0), ("impala", 0.0)):
        for game, scale in (("minatar/breakout", 1.0), ("minatar/freeway", -2.0)):
            for seed in (0, 1):
                name = f"{algorithm}-{game.replace('/', '-')}-{seed}"
                leave(root / name, game, seed, scale * (gain + seed), algorithm)


def test_games_without_a_humans_score_are_compared_between_their_own_lowest_and_highest_return(
    command, tmp_path, pictures
):
    games_of_ones_own(tmp_path / "runs")
    code, out, err = command("report", "runs", "--resamples", "50", "--baseline", "impala")
    assert code == 0 and err == "", err
    assert "no human's scores are known: 0 and 1 are the lowest and the highest return" in out
    rows = {row["method"]: row for row in table_of(tmp_path / "runs/report/summary.csv")}
    # Breakout: 10, 11 of 0 to 11. Freeway: -20, -22 of -22 to 0.
    ours, theirs = [10 / 11, 1.0, 2 / 22, 0.0], [0.0, 1 / 11, 1.0, 20 / 22]
    for method, values in (("bmg", ours), ("impala", theirs)):
        shown = float(rows[method]["mean, %"].split()[0])
        assert shown == pytest.approx(100 * np.mean(values), abs=0.06)
    assert "above human" not in rows["bmg"]
    assert "profiles.png" in pictures
    curve = pictures["games.png"][0].lines["bmg"]
    np.testing.assert_allclose(curve[-1], [4_000, 10.5 / 11], rtol=1e-6)
    page = (tmp_path / "runs/report/report.html").read_text()
    assert "uman" not in page.replace("no human&#x27;s scores are known", "")


def test_references_of_ones_own(command, tmp_path):
    games_of_ones_own(tmp_path / "runs")
    (tmp_path / "mine.csv").write_text(
        "game,random,human\nminatar/breakout,1,21\nminatar/freeway,-30,-10\npong,0,2\n"
    )
    code, out, err = command("report", "runs", "--resamples", "20", "--references", "mine.csv")
    assert code == 0 and err == "" and "left out" not in out
    rows = {row["game"]: row for row in table_of(tmp_path / "runs/report/games.csv")}
    assert float(rows["minatar/breakout"]["bmg, %"]) == pytest.approx(100 * 9.5 / 20)
    assert float(rows["minatar/freeway"]["impala, %"]) == pytest.approx(100 * 29 / 20)
    (tmp_path / "scores.csv").write_text("game,paper\nminatar/freeway,-20\npong,1\n")
    options = ("--scores", "scores.csv", "--references", "mine.csv", "--folder", "")
    assert command("report", *options)[0] == 0
    rows = {row["game"]: row for row in table_of(tmp_path / "report/games.csv")}
    assert float(rows["minatar/freeway"]["paper, %"]) == 50.0
    assert float(rows["pong"]["paper, %"]) == 50.0, "in place of a human's"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("game,random\npong,1\n", ["game, random", "allowed are game, random and human"]),
        ("game,random,human\npong,1,1\n", ["pong has the same return"]),
        ("game,random,human\npong,1,x\n", ["mine.csv", "'x'"]),
        ("game,random,human\npong,1,inf\n", ["inf", "finite"]),
        ("game,random,human\npong,1,2\npong,1,2\n", ["'pong' twice"]),
        ("game,random,human\n", ["no game"]),
        ("", ["first line"]),
        (None, ["No such file"]),
    ],
)
def test_references_that_are_none_are_one_line(command, tmp_path, text, words):
    if text is not None:
        (tmp_path / "mine.csv").write_text(text)
    line = command.refused("report", "runs", "--references", "mine.csv")
    assert all(word in line for word in words), line


def test_published_scores_cannot_stand_beside_games_that_have_none(command, tmp_path):
    games_of_ones_own(tmp_path / "runs")
    (tmp_path / "x.csv").write_text("game,paper\npong,1\n")
    line = command.refused("report", "runs", "--scores", "x.csv")
    assert "minatar/breakout" in line and "--references" in line
    (tmp_path / "x.csv").write_text("game,paper\nminatar/freeway,1\n")
    assert "give --references" in command.refused("report", "--folder", "", "--scores", "x.csv")


def test_nothing_to_compare_is_one_line(command, tmp_path):
    assert "give a folder of runs" in command.refused("report", "nowhere")
    assert "x.csv" in command.refused("report", "--folder", "", "--scores", "x.csv")
    assert "--folder and --scores are empty" in command.refused("report", "--folder", "")
    (tmp_path / "x.csv").write_text("game,a\npong,1\n")
    options = ("--folder", "", "--scores", "x.csv", "--baseline", "b")
    assert "no method 'b'" in command.refused("report", *options)
    assert [score.raw for score in of_table(tmp_path / "x.csv", SCORES)] == [1.0]
    (tmp_path / "x.csv").write_text("\ufeffb,game\n1,pong\n\n", "utf-8")
    assert [score.method for score in of_table(tmp_path / "x.csv", SCORES)] == ["b"], (
        "a spreadsheet's"
    )
    leave(tmp_path / "runs" / "young", "pong", 2, None)
    code, out, err = command("report")
    assert code == 2 and out == "runs/young has no results yet\n"
    assert err.startswith("bmg: no run in runs has a score to compare;") and err.count("\n") == 1
    leave(tmp_path / "runs" / "old", "pong", 2, 3.0, "b")
    line = command.refused("report", "--scores", "x.csv")
    assert "x.csv has the method 'b', and so has runs; give it another name" in line


def test_where_profiles_are_drawn():
    """From 0, or what is lower, to just above the highest score, and at most to 800 %."""
    for scores, (low, high) in (
        ([0.1, 2.0], (0.0, 2.1)), ([-0.5, 1.0], (-0.5, 1.05)), ([1.0, 300.0], (0.0, 8.0)),
        ([-9.0, -4.0], (-1.0, -0.9)), ([0.0], (0.0, 0.1)),
    ):  # fmt: skip
        found = report.thresholds_of({"a": np.array([scores]), "b": np.array([scores[:1]])})
        np.testing.assert_allclose([found[0], found[-1]], [low, high])
