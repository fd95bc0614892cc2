"""Curves of runs that are on disk: which belong together, what is drawn of them, against loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from bmg.experiments.curves import Group, Run, find_runs, group_runs, line_of, over_seeds
from bmg.experiments.records import write_csv

AGENT = {"algorithm": "bmg", "meta": {"target_steps": 1}, "loss": {"discount": 0.9}}


def leave_run(folder, seed, agent=AGENT, slope=1.0, **settings):
    """A run of `bmg train` with ten rows."""
    folder.mkdir(parents=True)
    config = {"game": "catch", "seed": seed, "workdir": str(folder), "agent": agent, **settings}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [
        {"frames": 100 * i, "training/return": slope * i + seed, "learner/updates": 5 * i,
         "learner/wall_seconds": 36.0 * i}
        for i in range(1, 11)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def runs_of(*folders):
    return [run for folder in folders for run in find_runs(folder)]


def test_seeds_of_one_run_are_a_group(tmp_path):
    """Whatever else tells them apart; the label says what tells groups apart."""
    others = {**AGENT, "meta": {"target_steps": 4}}
    stacx = {**AGENT, "algorithm": "stacx", "meta": {"target_steps": 9}}
    rate = {**stacx, "loss": {"discount": 0.5}}
    runs = runs_of(
        leave_run(tmp_path / "a", 0),
        leave_run(tmp_path / "b", 0, others),
        leave_run(tmp_path / "c", 1, runtime="local-threads", frames=3, actors={"num_actors": 7}),
        leave_run(tmp_path / "d", 0, stacx),
        leave_run(tmp_path / "e", 5, rate),
    )
    groups = group_runs(runs)
    assert [[run.workdir.name for run in group.runs] for group in groups] == [
        ["a", "c"], ["b"], ["d"], ["e"]
    ]  # fmt: skip
    assert [group.label for group in groups[:2]] == [
        "bmg, target steps 1, discount 0.9", "bmg, target steps 4, discount 0.9"
    ]  # fmt: skip
    assert [group.label for group in groups[2:]] == ["stacx, discount 0.9", "stacx, discount 0.5"]
    # Where two settings end alike, their group says which one it is.
    rates = {**AGENT, "meta": {"learning_rate": 0.0}, "optimizer": {"learning_rate": 0.1}}
    faster = {**rates, "meta": {"learning_rate": 0.5}}
    groups = group_runs(
        runs_of(leave_run(tmp_path / "f", 0, rates), leave_run(tmp_path / "g", 0, faster))
    )
    labels = ["meta learning rate 0.0", "meta learning rate 0.5"]
    assert [group.label for group in groups] == labels
    each = group_runs(runs[:3:2], each_seed=True)
    assert [group.label for group in each] == ["seed 0", "seed 1"]
    (alone,) = group_runs(runs[:1])
    assert alone.label == "bmg, catch"


def test_what_follows_from_the_game_tells_no_runs_apart(tmp_path):
    """Such as a network; unless it differs within a game as well."""

    def leave(name, game, torso, features, rate):
        agent = {**AGENT, "network": {"torso": torso}, "optimizer": {"rate": rate}}
        return leave_run(tmp_path / name, 0, agent, game=game, features=features)

    one = leave("a", "snake", "auto", 128, 1), leave("b", "catch", "mlp", 64, 1)
    assert [group.label for group in group_runs(runs_of(*one))] == ["snake", "catch"]
    both = *one, leave("c", "catch", "mlp", 64, 2)
    assert [group.label for group in group_runs(runs_of(*both))] == [
        "snake, rate 1", "catch, rate 1", "catch, rate 2"
    ]  # fmt: skip
    torsos = *one, leave("d", "catch", "auto", 64, 1)
    assert [group.label for group in group_runs(runs_of(*torsos))] == [
        "snake, torso auto", "catch, torso mlp", "catch, torso auto"
    ]  # fmt: skip
    other = leave_run(tmp_path / "e", 0, {**AGENT, "algorithm": "impala"}, game="catch")
    labels = [group.label for group in group_runs(runs_of(one[0], other))]
    assert labels == ["snake, bmg", "catch, impala"]


def test_the_same_run_once_more_is_another_line(tmp_path):
    """With the same seeds: by another version of the program, perhaps."""
    for name in "ab":
        for seed in (0, 1):
            leave_run(tmp_path / name / f"seed-{seed}", seed)
    groups = group_runs(runs_of(tmp_path / "a", tmp_path / "b"))
    assert [group.label for group in groups] == ["bmg, catch (a)", "bmg, catch (b)"]
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1], [0, 1]]


def test_the_kinds_of_run_directories(tmp_path):
    for seed in (3, 4):
        leave_run(tmp_path / f"several/seed-{seed}", seed)
    assert [run.seed for run in find_runs(tmp_path / "several")] == [3, 4]
    folder = tmp_path / "experiment"
    folder.mkdir()
    config = {"method": "fixed", "first_seed": 7, "seeds": 2, "steps": 30, "workdir": "x"}
    (folder / "config.json").write_text(json.dumps(config))
    steps, values = np.array([10, 20, 30]), np.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])
    write_csv(folder / "results.csv", 7, steps, {"reward": values})
    found = find_runs(folder)
    assert [run.seed for run in found] == [7, 8]
    assert [run.settings for run in found] == [{"method": "fixed"}] * 2
    for run, own in zip(found, values):
        x, y = run.points("reward", "frames")
        np.testing.assert_array_equal(x, steps)
        np.testing.assert_array_equal(y, own)
        assert not len(run.points("weight", "frames")[0])
    with pytest.raises(ValueError, match="leave --x hours out"):
        found[0].points("reward", "hours")
    with pytest.raises(ValueError, match="no run in"):
        find_runs(tmp_path / "nowhere")


def test_what_x_may_be(tmp_path):
    (run,) = runs_of(leave_run(tmp_path / "a", 0))
    at = {axis: run.points("training/return", axis)[0] for axis in ("frames", "hours", "updates")}
    np.testing.assert_allclose(at["frames"], 100 * np.arange(1, 11))
    np.testing.assert_allclose(at["hours"], 0.01 * np.arange(1, 11))
    np.testing.assert_allclose(at["updates"], 5 * np.arange(1, 11))


@pytest.mark.parametrize("statistic", ["mean", "iqm"])
def test_a_line_over_seeds(tmp_path, statistic):
    slopes = [1.0, 2.0, 4.0, 8.0, 16.0]
    runs = runs_of(*(leave_run(tmp_path / f"{i}", i, slope=s) for i, s in enumerate(slopes)))
    (group,) = group_runs(runs)
    line = line_of(group, "training/return", "frames", statistic, 0.0)
    np.testing.assert_array_equal(line.x, 100 * np.arange(1, 11))
    values = np.array([[s * i + seed for i in range(1, 11)] for seed, s in enumerate(slopes)])
    expected = values.mean(0) if statistic == "mean" else stats.trim_mean(values, 0.25, axis=0)
    np.testing.assert_allclose(line.y, expected)
    np.testing.assert_allclose(over_seeds(values, statistic), expected)
    assert np.all(line.low < line.y) and np.all(line.y < line.high) and line.seeds == 5
    assert np.all(line.low >= values.min(0)) and np.all(line.high <= values.max(0))


def test_seeds_at_other_frames_are_compared_over_their_overlap():
    columns = [
        {"x": (np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0]))},
        {"x": (np.array([5.0, 15.0]), np.array([15.0, 25.0]))},
    ]
    runs = [Run(None, seed, {}, found) for seed, found in enumerate(columns)]
    line = line_of(Group("", runs), "x", "frames", "mean", 0.0)
    assert (line.x[0], line.x[-1]) == (5, 15)
    np.testing.assert_allclose(line.y, line.x + 5)
    assert line_of(Group("", runs), "y", "frames", "mean", 0.0) is None


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_smoothing_is_a_mean_of_what_is_around(share):
    rng = np.random.default_rng(0)
    y = rng.normal(size=21)
    run = Run(None, 0, {}, {"x": (np.arange(21.0), y)})
    line = line_of(Group("", [run]), "x", "frames", "mean", share)
    half = int(share * 21 / 2)
    expected = []
    for i in range(21):
        reach = min(half, i, 20 - i)
        expected.append(np.mean(y[i - reach : i + reach + 1]))
    np.testing.assert_allclose(line.y, expected)
    assert line.low is None
