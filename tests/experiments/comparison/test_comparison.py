"""Methods compared: the table of finished runs, statistics against slow loops, pictures."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from bmg.experiments.comparison import figures, statistics, table
from bmg.experiments.comparison.table import META_CURVES, META_POINTS, POINTS, Finished
from tests.tables import named
from tests.waiting import DEADLINE

GAMES, METHODS = ("breakout", "freeway"), ("impala", "stacx", "bmg-l1-kl")


def finished(game: str, method: str, seed: int, value: float = 1.0, **changes) -> Finished:
    """A run whose returns rise to `value`."""
    learned = method != "impala"
    meta = {name: np.linspace(0.99, value / 10, META_POINTS) for name in META_CURVES if learned}
    curve = np.linspace(0.0, value, POINTS)
    run = Finished(
        game, method, seed, 1_000, "0123456789ab", value + 0.5, 32, value, 60.0, curve, meta
    )
    return run._replace(**changes)


def late(run: Finished) -> float:
    return run.late_return


def some_runs(seeds: int = 4) -> list[Finished]:
    """Of all games and methods, with a random return each."""
    dice = np.random.default_rng(0)
    names = itertools.product(GAMES, METHODS, range(seeds))
    return [finished(*name, value=5 * dice.random()) for name in names]


def test_a_table_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "results.csv"
    runs = some_runs()
    runs[0] = runs[0]._replace(late_return=math.nan, curve=np.full(POINTS, np.nan))
    assert table.read_table(path) == []
    table.write_table(path, reversed(runs))
    again = table.read_table(path)
    assert [run.key for run in again] == sorted(run.key for run in runs)
    for one, other in zip(again, sorted(runs, key=lambda run: run.key)):
        assert one.steps == other.steps and one.evaluation_episodes == 32
        for name in ("evaluation_return", "late_return", "wall_seconds", "curve"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4)
        assert one.meta.keys() == other.meta.keys()
        for name, curve in one.meta.items():
            np.testing.assert_allclose(curve, other.meta[name], rtol=1e-4)
    before = path.read_bytes()
    table.write_table(path, again)
    assert path.read_bytes() == before, "what was rounded is rounded no further"
    assert len(before) < 2_000 * len(runs), "small enough for a repository"


def test_a_line_takes_the_place_of_the_one_with_its_key(tmp_path):
    path = tmp_path / "results.csv"
    table.add_to_table(path, [finished("breakout", "stacx", 0), finished("breakout", "stacx", 1)])
    other = finished("breakout", "stacx", 1, value=3.0)
    table.add_to_table(path, [other, finished("breakout", "stacx", 1, settings="other")])
    found = {run.key[2:]: run.late_return for run in table.read_table(path)}
    assert found == {(0, "0123456789ab"): 1.0, (1, "0123456789ab"): 3.0, (1, "other"): 1.0}


ADD = """
import pathlib, sys
import numpy as np
from bmg.experiments.comparison.table import POINTS, Finished, add_to_table
print("ready", flush=True)
sys.stdin.readline()
for seed in range(30):
    run = Finished("pong", sys.argv[1], seed, 10, "0", 1.0, 1, 1.0, 1.0, np.zeros(POINTS), {})
    add_to_table(pathlib.Path("results.csv"), [run])
"""


def test_two_processes_add_to_a_table_and_no_line_is_lost(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", ADD, name], cwd=tmp_path, text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("a", "b")
    ]  # fmt: skip
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait(DEADLINE) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    found = [run.key[1:3] for run in table.read_table(tmp_path / "results.csv")]
    assert found == [(name, seed) for name in ("a", "b") for seed in range(30)]


def test_what_is_no_table_is_one_line(tmp_path):
    path = tmp_path / "results.csv"
    table.write_table(path, some_runs())
    whole = path.read_text()
    header, first = whole.splitlines()[:2]
    for text, words in (
        ("", "its first line is not game, method"),
        ("seed,step\n0,1\n", "its first line is not"),
        (f"{header}\nbreakout,impala\n", "a line has 2 fields"),
        (whole.replace(",0123456789ab,", ",0123456789ab,x", 1), "could not convert"),
        (f"{header}\n{first}\n{first}\n", "breakout, bmg-l1-kl, seed 0 is there twice"),
        (whole.replace(" ", "", 1), "points, not"),
        ("\0", "results.csv is no table"),
        (whole.replace(",1000,", ",0,", 1), "steps is 0; allowed are integers from 1"),
        (whole.replace(",1000,", f",1{'0' * 60},", 1), "steps is an integer of 200 bits; allowed"),
        (whole.replace(",0,1000,", ",-1,1000,", 1), "seed is -1; allowed are"),
        (whole.replace(",32,", ",-32,", 1), "evaluation_episodes is -32; allowed are"),
        (whole.replace(",60,", ",nan,", 1), "wall_seconds is 'nan'; allowed are"),
        (re.sub(r",32,[^,]*,", ",32,inf,", whole, count=1), "the number inf; allowed are finite"),
        (re.sub(r" [^ ]* ", " -inf ", whole, count=1), "the number -inf; allowed are finite"),
    ):
        with named(text[:40]):
            path.write_text(text)
            with pytest.raises(ValueError) as caught:
                table.read_table(path)
            assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_stretches_are_means_of_the_rows_that_end_in_them():
    points = [(100, 1.0), (101, 3.0), (200, 5.0), (400, 7.0), (430, 9.0)]
    # Of 400 steps in four: 1 to 100, 101 to 200, 201 to 300 (nothing), the rest.
    np.testing.assert_array_equal(table.stretches(points, 400, 4), [1.0, 4.0, np.nan, 8.0])
    assert table.late_mean(points, 400) == 8.0
    assert table.late_mean(points[:2], 400) == 3.0, "the last one, where none is late"


def slow_interquartile_mean(scores: np.ndarray) -> float:
    values = sorted(scores.ravel())
    quarter = len(values) // 4
    middle = values[quarter : len(values) - quarter]
    return sum(middle) / len(middle)


def slow_probability(x: np.ndarray, y: np.ndarray) -> float:
    games = []
    for game in range(x.shape[1]):
        wins = 0.0
        for one in x[:, game]:
            for other in y[:, game]:
                wins += 1.0 if one > other else 0.5 if one == other else 0.0
        games.append(wins / (len(x) * len(y)))
    return sum(games) / len(games)


def test_statistics_are_those_of_slow_loops():
    from rliable import metrics

    dice = np.random.default_rng(1)
    x, y = dice.integers(0, 6, (5, 3)).astype(float), dice.integers(0, 6, (7, 3)).astype(float)
    found = statistics.aggregates({"x": x, "y": y}, resamples=50)
    for name, scores in (("x", x), ("y", y)):
        assert found[name]["IQM"].value == pytest.approx(slow_interquartile_mean(scores))
        assert found[name]["median"].value == np.median(scores.mean(0))
        assert found[name]["mean"].value == pytest.approx(scores.mean())
    expected = slow_probability(x, y)
    assert statistics.probability_of_improvement(x, y) == pytest.approx(expected)
    assert metrics.probability_of_improvement(x, y) == pytest.approx(expected)
    pairs = [("x", "y"), ("y", "x")]
    both = statistics.improvements({"x": x, "y": y}, pairs, resamples=50)
    assert both["x", "y"].value == pytest.approx(expected)
    assert both["y", "x"].value == pytest.approx(1 - expected)
    share, (low, high) = statistics.profiles({"x": x}, np.array([-1.0, 2.0, 9.0]), 50)["x"]
    np.testing.assert_allclose(share, [1.0, np.mean(x > 2.0), 0.0])
    assert np.all(low <= share) and np.all(share <= high)


def test_intervals_are_stratified_and_the_same_each_time():
    """Games differ by far more than seeds: seeds that were drawn across games would show it."""
    scores = {"a": 100.0 * np.arange(4) + np.random.default_rng(2).random((5, 4))}
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    one, other = (statistics.aggregates(scores, resamples=200)["a"]["mean"] for _ in range(2))
    assert one == other and 0.0 < one.high - one.low < 1.0
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    # A bootstrap by hand, of each game's seeds on their own.
    dice = np.random.default_rng(3)
    drawn = [
        np.mean([dice.choice(game, len(game)).mean() for game in scores["a"].T])
        for _ in range(2_000)
    ]
    wide = statistics.aggregates(scores, resamples=2_000)["a"]["mean"]
    np.testing.assert_allclose([wide.low, wide.high], np.percentile(drawn, [2.5, 97.5]), atol=0.02)


def test_scores_lie_between_chance_and_the_best_mean():
    returns = {"a": np.array([[1.0, 0.0], [3.0, 0.0]]), "b": np.array([[4.0, 0.0], [6.0, 0.0]])}
    found = statistics.normalise(returns, random=np.array([1.0, 2.0]))
    np.testing.assert_allclose(found["a"], [[0.0, -2.0], [0.5, -2.0]])
    np.testing.assert_allclose(found["b"].mean(0), [1.0, -2.0])


def test_only_what_can_be_compared_is():
    runs = some_runs(3)
    comparison, notes = figures.gather(runs, GAMES, METHODS, late)
    assert comparison.games == GAMES and comparison.seeds == dict.fromkeys(METHODS, (0, 1, 2))
    assert notes == []
    matrix = comparison.matrix(lambda run: run.late_return)
    assert matrix["stacx"][1, 0] == next(
        run.late_return for run in runs if run.key[:3] == ("breakout", "stacx", 1)
    )
    part = [run for run in runs if run.key[:3] != ("freeway", "stacx", 2)]
    comparison, notes = figures.gather(part, GAMES, (*METHODS, "bmg-l4-kl"), late)
    assert comparison.seeds["stacx"] == (0, 1) and comparison.seeds["impala"] == (0, 1, 2)
    assert notes[0] == "no run of: bmg-l4-kl" and "does not have on all games" in notes[1]
    part = [run for run in runs if run.key[:2] != ("freeway", "stacx")]
    comparison, notes = figures.gather(part, GAMES, METHODS, late)
    assert comparison.games == ("breakout",)
    assert notes == ["left out, as not every method has a run there: freeway"]
    part = [run for run in runs if run.game != "freeway"]
    comparison, notes = figures.gather(part, GAMES, METHODS, late)
    assert comparison.games == ("breakout",) and notes == ["no run on: freeway"]
    for wrong, words in (
        ([*runs, finished("breakout", "stacx", 9, steps=5)], "5 and 1000 steps"),
        ([*runs, finished("breakout", "stacx", 9, settings="x")],
         "breakout, stacx under two settings, 0123456789ab and x; leave"),
        ([finished("breakout", "stacx", 0), finished("freeway", "impala", 0)], "no game has"),
        ([], "no game has"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            figures.gather(wrong, GAMES, METHODS, late)


def test_a_run_without_a_score_changes_nothing_for_the_others():
    runs = some_runs(3)
    runs[0] = runs[0]._replace(late_return=math.nan)
    assert runs[0].key[:3] == ("breakout", "impala", 0)
    with_it, notes = figures.gather(runs, GAMES, METHODS, late, "wait")
    without, _ = figures.gather(runs[1:], GAMES, METHODS, late)
    assert notes[0] == "left out, as no episode ended: breakout impala 0; wait"
    assert with_it.seeds == without.seeds and with_it.seeds["impala"] == (1, 2)
    ours, theirs = (
        statistics.normalise(each.matrix(late), np.zeros(2)) for each in (with_it, without)
    )
    for method in METHODS:
        np.testing.assert_array_equal(ours[method], theirs[method])
    evaluated, notes = figures.gather(runs, GAMES, METHODS, lambda run: run.evaluation_return)
    assert notes == [] and evaluated.seeds["impala"] == (0, 1, 2)
    none = [run._replace(late_return=math.nan) for run in runs]
    words = "no episode ended: breakout bmg-l1-kl 0 1 2, breakout impala 0 1 2.*; wait.; give fewer"
    with pytest.raises(ValueError, match=words):
        figures.gather(none, GAMES, METHODS, late, "wait")


def test_pictures_show_the_numbers(tmp_path, pictures):
    comparison, _ = figures.gather(some_runs(), GAMES, METHODS, late)
    returns = comparison.matrix(lambda run: run.late_return)
    scores = statistics.normalise(returns, np.zeros(2))
    aggregates = statistics.aggregates(scores, 50)
    pairs = figures.pairs_of(METHODS, [("bmg-l1-kl", "stacx"), ("stacx", "none")])
    assert pairs == [("bmg-l1-kl", "stacx")]
    improvements = statistics.improvements(scores, pairs, 50)
    paths = list(figures.draw(comparison, scores, aggregates, improvements, 50, tmp_path))
    names = ["aggregates", "improvement", "profiles", "curves", "meta_parameters"]
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    pictures.assert_full(*(path.name for path in paths))
    iqm = pictures["aggregates.png"][0]
    # The last method is at the bottom, and drawn first: an interval, then its point.
    interval, point = [*iqm.lines.values()][:2]
    last = aggregates["bmg-l1-kl"]["IQM"]
    np.testing.assert_allclose(interval[:, 0], [last.low, last.high])
    np.testing.assert_allclose(point[0], [last.value, 0.0])
    breakout, freeway = pictures["curves.png"]
    assert (breakout.title, freeway.title) == GAMES
    curve = freeway.lines["stacx"]
    np.testing.assert_allclose(curve[-1], [1_000, returns["stacx"][:, 1].mean()])
    assert len(pictures["meta_parameters.png"]) == 2 * 6
    assert set(pictures["meta_parameters.png"][0].lines) == {"stacx", "bmg-l1-kl"}
    of_returns, of_meta = (pictures[f"{x}.png"][0].colors for x in ("curves", "meta_parameters"))
    assert of_meta == {method: of_returns[method] for method in ("stacx", "bmg-l1-kl")}
    rows = figures.returns_rows(comparison, lambda run: run.late_return)
    assert rows[0]["method"] == "impala" and rows[0]["seeds"] == 4
    assert rows[0]["hours"] == pytest.approx(2 * 60 / 3600)
    mean = returns["impala"][:, 0].mean()
    assert rows[0]["breakout"].startswith(f"{mean:.3g} +- ")
    shown = figures.aggregate_rows(aggregates)[2]["IQM"]
    assert shown == f"{last.value:.3f} [{last.low:.3f}, {last.high:.3f}]"
