"""What is drawn, from runs that are made up: normalised returns, choices, pictures of grids."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from bmg.agents.rule_file import save_rule
from bmg.agents.update_rule import RuleConfig, init_rule
from bmg.environments import worlds
from bmg.experiments import plots
from bmg.experiments.lpg import experiment, figures
from bmg.experiments.lpg.config import METHODS, LpgConfig, LpgFiguresOptions, LpgSuiteOptions
from bmg.experiments.records import Run
from tests.tables import named

pytestmark = pytest.mark.usefixtures("quick_compilation")
RULE = RuleConfig(units=4, prediction_size=3, embedding=2)
CONFIG = LpgConfig(worlds=("cliff", "chain-short"), rule=RULE)
STEPS = np.array([10, 20, 30, 40])


@functools.cache
def some_rule(config=RULE):
    return jax.jit(init_rule, static_argnums=0)(config, jax.random.PRNGKey(0))


def made_up(name, returns, **changes):
    """A run with one seed: mean returns of each world, where an episode ended."""
    columns = {}
    for world, values in returns.items():
        values = np.array([values], float)
        columns[f"episodes_{world}"] = np.where(np.isnan(values), 0.0, 2.0)
        columns[f"returns_{world}"] = np.nan_to_num(2 * values)
    config = dataclasses.replace(CONFIG, **changes)
    return Run(name, config, STEPS, columns)


LPG = made_up("lpg", {"cliff": [0, 1, 1, 2], "chain-short": [-1, 0, 1, 1]})
VALUE = made_up(
    "lpg-v", {"cliff": [0, 0, 0, 1], "chain-short": [-1, np.nan, 0, 0]},
    rule=dataclasses.replace(RULE, prediction="value"),
)  # fmt: skip


def test_returns_are_normalised_by_what_runs_began_with_and_came_to():
    found = figures.normalised_returns([LPG, VALUE])
    np.testing.assert_allclose(found["lpg"], [[0, 0.5, 0.75, 1]])
    np.testing.assert_allclose(found["lpg-v"], [[0, 0, 0.25, 0.5]])  # nothing ended: left out
    rows = figures.table_7([LPG, VALUE])
    assert [row["normalised return"] for row in rows] == ["1.000", "0.500"]
    assert [row["method"] for row in rows] == ["LPG", "LPG-V"]


def test_figure_7_has_a_line_for_each_run(tmp_path, pictures):
    figures.draw_figure_7([LPG, VALUE], tmp_path)
    pictures.assert_full("figure_7.png")
    (panel,) = pictures["figure_7.png"]
    np.testing.assert_allclose(panel.lines["LPG"].T, [STEPS, [0, 0.5, 0.75, 1]])
    np.testing.assert_allclose(panel.lines["LPG-V"].T, [STEPS, [0, 0, 0.25, 0.5]])


def test_the_suite_is_the_rule_and_its_variants():
    configs = experiment.suite(LpgSuiteOptions(units=8, steps=30, seeds=2))
    assert list(configs) == list(METHODS)
    labels = [config.label for config in configs.values()]
    assert labels == [
        "LPG", "LPG-V", "without softmax", "without entropy", "without L2", "fixed step sizes",
        "without the path", "bootstrapped, K = 5, L = 1", "bootstrapped, K = 3, L = 3",
        "bootstrapped, K = 1, L = 5",
    ]  # fmt: skip
    assert {config.updates_per_window for config in configs.values()} == {5}
    assert all(c.rule.units == 8 and c.steps == 30 and c.seeds == 2 for c in configs.values())
    some = experiment.suite(LpgSuiteOptions(methods=("bmg-l5",), worlds=("cliff",)))
    assert list(some) == ["bmg-l5"] and some["bmg-l5"].worlds == ("cliff",)


def test_rules_that_are_compared(tmp_path):
    """Of runs that left one: the paper's, LPG-V, bootstrapped ones; no ablations."""
    runs = [
        made_up("bmg", {}, objective="bmg"), made_up("fixed", {}, bandit=False), LPG, VALUE,
        made_up("nothing", {}),
    ]  # fmt: skip
    for run in runs[:-1]:
        (tmp_path / run.name).mkdir()
        rule = run.config.rule
        save_rule(figures.rule_file(tmp_path / run.name, 0), some_rule(rule), rule, {})
    found = figures.load_rules(runs, tmp_path)
    assert [x.label for x in found] == ["LPG", "LPG-V", "bootstrapped, K = 5, L = 1"]


def test_states_as_pictures():
    """Places of a grid with walls, in their rows and columns, with all objects there."""
    family = jax.tree.map(lambda x: np.asarray(x)[0], worlds.stack_families(["cliff"]))
    world = jax.jit(worlds.draw_world)(family, jax.random.PRNGKey(0))
    free, objects = 23, 4
    picture = figures.as_pictures(world, np.arange(free << objects))
    assert picture.shape == (4, 7)
    assert np.isnan(picture[3, 1:6]).all() and np.isfinite(picture).sum() == free
    np.testing.assert_array_equal(picture[0], (np.arange(7) << objects) + 15)
    assert picture[3, 0] == (21 << objects) + 15
    rewards = figures.as_pictures(world, figures._rewards(world))
    assert sorted(rewards[np.isfinite(rewards) & (rewards != 0)]) == [-1, -1, -1, 1]


@pytest.mark.heavy
def test_figures_3_to_6_of_a_rule(tmp_path, pictures):
    """Every panel, with what belongs into it."""
    (tmp_path / "lpg").mkdir()
    config = dataclasses.replace(CONFIG, learning_rates=(40.0,), prediction_costs=(0.5,),
                                 environments=16, lifetime_scale=0.02)  # fmt: skip
    save_rule(figures.rule_file(tmp_path / "lpg", 0), some_rule(), RULE, {})
    options = LpgFiguresOptions(
        root=str(tmp_path), output=str(tmp_path), figures=("3", "4", "5", "6"), grid="cliff",
        grids=4, updates=10, agents=2, worlds=("cliff",), entropy_weights=(0.01,),
    )  # fmt: skip
    shown = [*experiment.draw([LPG._replace(config=config)], options)]
    names = [x.name for x in shown if isinstance(x, pathlib.Path)]
    assert names == ["figure_4.png", "figure_5.png", "figure_6.png", "figure_3.png"]
    titles = [panel.title for panel in pictures["figure_4.png"]]
    assert titles == ["rewards", "true values", "y[0]", "y[1]", "y[2]"]
    lines = [x for x in shown if isinstance(x, str)]
    assert [x.rpartition(",")[0] for x in lines] == ["cliff: LPG", "cliff: A2C"]
    tables = [x for x in shown if isinstance(x, list)]
    assert [row["discount"] for row in tables[0]] == ["0.995", "0.99", "0.98", "0.95", "0.9"]
    assert tables[1][0]["updates"] == "0" and tables[1][-1]["updates"] == "10"
    assert list(tables[2][0]) == ["world", "LPG", "A2C"]
    pictures.assert_full("figure_3.png", "figure_5.png")
    assert set(pictures["figure_3.png"][0].lines) == {"LPG", "A2C"}
    assert set(pictures["figure_5.png"][0].lines) == {"from y", "from TD(λ)'s value"}
    apart = [*pictures["figure_6.png"][-1].lines.values()][0]
    assert apart.shape[1] == 2 and np.all(np.isfinite(apart)) and apart[0, 1] > 0.1


def trained(folder, game, score, worlds=None, agent="lpg"):
    """A run of `bmg train`, as far as figure 9 looks at it."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("")
    (folder / "config.json").write_text(json.dumps({"game": game, "agent": {"algorithm": agent}}))
    (folder / "results.json").write_text(json.dumps({"evaluation_return": score}))
    if agent == "lpg":
        made_from = {} if worlds is None else {"worlds": list(worlds)}
        save_rule(folder / "rule.npz", some_rule(), RULE, made_from)


def test_figure_9_is_scores_over_the_worlds_that_rules_come_from(tmp_path, pictures):
    one, two = ("cliff",), ("cliff", "chain-short")
    trained(tmp_path / "a", "catch", 0.5, two)
    trained(tmp_path / "b" / "seed-0", "catch", 0.25, one)
    trained(tmp_path / "b" / "seed-1", "catch", 0.75, one)
    trained(tmp_path / "c", "catch", 0.9, agent="impala")
    trained(tmp_path / "d", "pong", -20.0, one)
    trained(tmp_path / "e", "catch", 7.0, None)  # a rule of unknown worlds
    trained(tmp_path / "f", "catch", None, one)  # not evaluated yet
    options = LpgFiguresOptions(
        figures=("9",), trained=str(tmp_path), output=str(tmp_path / "figures")
    )
    *notes, picture, rows = experiment.draw([], options)
    assert picture == tmp_path / "figures/figure_9.png"
    assert notes == [
        f"{tmp_path / 'e'} is left out: its rule does not name the worlds that it comes from",
        f"{tmp_path / 'f'} is left out: it has no evaluation yet",
    ]
    assert [tuple(row.values()) for row in rows] == [
        ("catch", "lpg", "1", "2", "0.5 (0.25)"),
        ("catch", "lpg", "2", "1", "0.5 (-)"),
        ("catch", "impala", "", "1", "0.9 (-)"),
        ("pong", "lpg", "1", "1", "-20 (-)"),
    ]
    pictures.assert_full("figure_9.png")
    catch, pong = pictures["figure_9.png"]
    np.testing.assert_allclose(catch.lines["LPG"], [[1, 0.5], [2, 0.5]])
    np.testing.assert_allclose(catch.lines["impala"][:, 1], 0.9)
    assert catch.title == "catch" and pong.title == "pong"
    np.testing.assert_allclose(pong.lines["LPG"], [[1, -20]])


def damage(folder: pathlib.Path, name: str, value) -> None:
    """A good run's folder, of which a file is another one; None for none."""
    trained(folder, "catch", 0.5, ("cliff",))
    (folder / name).unlink()
    if value is not None:
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


DAMAGED = [
    ("config.json", None, "config.json is missing"),
    ("config.json", "{", "config.json cannot be read"),
    ("config.json", [], "config.json cannot be read"),
    ("config.json", {"game": "catch"}, "it is no run of `bmg train`"),
    ("config.json", {"agent": {"algorithm": "lpg"}}, "it is no run of `bmg train`"),
    ("config.json", {"game": ["catch"], "agent": {"algorithm": "lpg"}}, "it is no run of"),
    ("config.json", {"game": "catch", "agent": {"algorithm": [1]}}, "it is no run of"),
    ("results.json", {"evaluation_return": [1.0]}, "is a list, no finite number"),
    ("results.json", {"evaluation_return": "x"}, "is 'x', no finite number"),
    ("results.json", {"evaluation_return": True}, "is True, no finite number"),
    ("results.json", {"evaluation_return": float("nan")}, "is nan, no finite number"),
    ("results.json", {"evaluation_return": 10**400}, "no finite number"),
    ("results.json", "{", "it has no evaluation yet"),
    ("rule.npz", None, "9/rule.npz cannot be opened"),
    ("rule.npz", "no rule", "rule.npz"),
]


def test_figure_9_leaves_out_what_is_no_run_or_damaged(tmp_path, pictures):
    root = tmp_path / "runs"
    trained(root / "good", "catch", 0.25, ("cliff",))
    for name, value, _ in DAMAGED:
        damage(root / "9", name, value)
        (root / "9").rename(root / f"bad-{len(list(root.iterdir())):02}")
    odd = root / "odd"
    trained(odd, "catch", 0.5)
    save_rule(odd / "rule.npz", some_rule(), RULE, {"worlds": 3})
    options = LpgFiguresOptions(figures=("9",), trained=str(root), output=str(tmp_path / "f"))
    *notes, _, rows = experiment.draw([], options)
    assert [tuple(row.values()) for row in rows] == [("catch", "lpg", "1", "1", "0.25 (-)")]
    assert len(notes) == len(DAMAGED) + 1 and "does not name the worlds" in notes[-1]
    for note, (name, value, why) in zip(notes, DAMAGED):
        with named(name, value):
            assert why.replace("9/", "") in note and "\n" not in note
            assert note.startswith(f"{root}/bad-") and " is left out: " in note
    np.testing.assert_allclose(pictures["figure_9.png"][0].lines["LPG"], [[1, 0.25]])


def test_axes_in_powers_of_ten_have_plain_numbers():
    """Also within one power, where they are between two of them."""
    for low, high, expected in ((0.76, 0.94, "0.8"), (0.01, 100, "0.1"), (0.1, 30, "10")):
        axis = Figure().add_subplot()
        axis.plot([1, 2], [low, high])
        plots.plain_log(axis)
        axis.figure.draw_without_rendering()
        ticks = axis.yaxis.get_ticklabels(which="both")
        labels = [tick.get_text() for tick in ticks if tick.get_text()]
        assert expected in labels and not any("times" in x or "^" in x for x in labels), labels


def test_records_are_marked_where_there_are_few():
    for count, marker in ((2, "o"), (200, "None")):
        axis = Figure().add_subplot()
        plots.draw_band(axis, np.arange(count), np.zeros([2, count]), "")
        assert axis.lines[0].get_marker() == marker


def test_figure_9_without_runs(tmp_path):
    with pytest.raises(ValueError, match="has no run by a rule that was evaluated"):
        list(experiment.draw([], LpgFiguresOptions(figures=("9",), trained=str(tmp_path))))
    with pytest.raises(ValueError, match="figure 9 needs a folder"):
        LpgFiguresOptions(figures=("9",))
