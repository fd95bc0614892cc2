"""The table of measured meta-gradients, and what figures and tables make of it."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from bmg.experiments.mrp import figures as mrp_figures
from bmg.experiments.mrp import value_prediction as mrp
from bmg.experiments.mrp.config import MrpVarianceConfig
from bmg.experiments.multistep import estimators, figures
from bmg.experiments.multistep.config import (
    EstimatorsConfig,
    ObjectiveConfig,
    milestones,
    objectives_of,
)
from bmg.experiments.records import Run
from bmg.experiments.runner import Runner
from bmg.experiments.snake import figures as snake_figures
from bmg.experiments.snake.config import SnakeVarianceConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")
CONFIG = MrpVarianceConfig(
    seeds=2, steps=4_000, batch_size=4, estimates=2, record_every=320, points=2, draws=6,
    n_step=(1,), mixed=(2,), bmg=(), mixed_bmg=(), oracle=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of two points: its runner, its table, and how many estimators were asked for."""
    path = tmp_path_factory.mktemp("run") / "estimates.csv"
    runner = Runner(mrp.make_lifetime(CONFIG), CONFIG.seeds, CONFIG.first_seed, CONFIG.record_every)
    made = estimators.make_estimators(CONFIG, mrp.make_estimate, convolves=False)
    for steps in milestones(CONFIG, CONFIG.steps):
        runner.run(steps, lambda done: None)
        estimators.measure(made, CONFIG, runner, path)
    return runner, made, path


@pytest.mark.heavy
def test_rows_are_moments_of_independent_estimates(measured):
    runner, made, path = measured
    found = estimators.gather(estimators.read(path), CONFIG)
    assert [m.objective for m in found] == objectives_of(CONFIG) == [e.objective for e in made]
    assert [m.objective.label for m in found] == ["n = 1", "2-mix", "n = 2"]
    for m in found:
        assert m.steps[-1] == runner.records.steps and len(m.steps) == 2 and m.draws == 6
        assert m.mean.shape == m.deviation.shape == (2, 2, 10)
        assert np.all(m.deviation > 0)
    # The last point of the second seed's 2-step meta-gradient, draw by draw.
    estimate = jax.jit(
        mrp.make_estimate(dataclasses.replace(CONFIG, objective="n-step", inner_steps=2))
    )
    key = jax.random.fold_in(jax.random.PRNGKey(CONFIG.first_seed + 1), runner.records.steps)
    keys = jax.random.split(jax.random.fold_in(key, 2), CONFIG.draws)
    state = runner.lifetime(1)
    draws = np.stack([estimate(state, k) for k in keys])
    np.testing.assert_allclose(found[2].mean[1, 1], draws.mean(0), rtol=1e-3, atol=1e-10)
    np.testing.assert_allclose(found[2].deviation[1, 1], draws.std(0, ddof=1), rtol=1e-3)


@pytest.mark.heavy
def test_a_point_is_measured_once_and_one_after_the_other_is_the_same(measured, tmp_path):
    runner, made, path = measured
    before = path.read_bytes()
    estimators.measure(made, CONFIG, runner, path)
    assert path.read_bytes() == before
    slow = estimators.make_estimators(CONFIG, mrp.make_estimate, convolves=True)
    estimators.measure(slow[:1], CONFIG, runner, tmp_path / "slow.csv")
    (alone,) = estimators.gather(estimators.read(tmp_path / "slow.csv"), CONFIG)
    first = estimators.gather(estimators.read(path), CONFIG)[0]
    np.testing.assert_allclose(alone.mean[:, 0], first.mean[:, 1], rtol=1e-3, atol=1e-10)
    np.testing.assert_allclose(alone.deviation[:, 0], first.deviation[:, 1], rtol=1e-3)


HEADER = "seed,step,objective,inner_steps,draws,parameter,mean,deviation\n"


@pytest.mark.parametrize(
    "text",
    [
        "", "seed,step\n0,1\n", HEADER + "0,1\n", HEADER + "0,1,n-step,3,2,0,1.5,2,7\n",
        HEADER + "0,1,n-stop,3,2,0,1.5,2\n", HEADER + "0,1,n-step,x,2,0,1.5,2\n",
        HEADER + "0,1,n-step,3,2,0,1.5,\n", HEADER + "0,-1,n-step,3,2,0,1.5,2\n",
        HEADER + "0,1,n-step,3,2,0,\0,2\n", "\xff",
    ],
)  # fmt: skip
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "estimates.csv"
    path.write_text(HEADER + "0,1,n-step,3,2,0,1.5,2\n")
    (row,) = estimators.read(path)
    assert (row["objective"], row["mean"]) == ("n-step", "1.5")
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="estimates.csv is no table of estimates") as caught:
        estimators.read(path)
    assert "\n" not in str(caught.value)


def made_up(kind, n, mean, deviation, draws=100):
    """One seed, two points."""
    shape = (1, 2, len(mean))
    return estimators.Measured(
        ObjectiveConfig(kind, n), np.array([10, 20]), np.broadcast_to(mean, shape).astype(float),
        np.broadcast_to(deviation, shape).astype(float), draws,
    )  # fmt: skip


def test_bias_floor_ratios_and_table_1():
    one = made_up("n-step", 1, [3.0, 0.0, 4.0, 0.0], [2.0, 1.0, 2.0, 1.0])
    three = made_up("n-step", 3, [0.0, 9.0, 0.0, 9.0], [4.0, 3.0, 8.0, 5.0], draws=400)
    found, floor = estimators.bias(one, three, mrp_figures.EVEN)
    np.testing.assert_allclose(found, 5 / np.sqrt(2), rtol=1e-5)  # two, 3 and 4 away
    np.testing.assert_allclose(floor, np.sqrt(((4 + 4) / 100 + (16 + 64) / 400) / 2), rtol=1e-5)
    np.testing.assert_allclose(
        estimators.deviation(three, mrp_figures.EVEN), np.sqrt((16 + 64) / 2)
    )
    np.testing.assert_allclose(snake_figures.relative_deviation(three, one), (2 + 3 + 4 + 5) / 4)
    np.testing.assert_allclose(figures.signal_to_noise(one), np.sqrt((25 - 10 / 100) / 10))
    # Means of nothing but noise have no signal.
    noise = np.random.default_rng(0).normal(size=(3, 400, 4))
    nothing = estimators.Measured(
        one.objective, np.arange(400), noise / 10, np.ones_like(noise), 100
    )
    assert np.all(figures.signal_to_noise(nothing) < 0.05)

    steps = np.array([*range(10, 400, 10), 395])  # the last stretch is half as long
    columns = {
        "episodes": np.array([[1.0] * 39 + [0.5]]), "returns": np.array([[1.0] * 38 + [9.0, 3.0]])
    }  # fmt: skip
    np.testing.assert_allclose(snake_figures.final_return(steps, columns), (9 * 10 + 3 * 5) / 12.5)
    run = Run("a", ObjectiveConfig("n-step", 3), steps, columns)
    fixed = Run("b", ObjectiveConfig("fixed", 1), steps, columns)
    rows = {row.pop("objective"): row for row in snake_figures.table_1([run, fixed], [three, one])}
    assert list(rows) == ["fixed", "n = 1", "n = 3"]
    assert rows["fixed"] == {"final return": "8.4", "deviation": "", "signal to noise": ""}
    assert rows["n = 3"]["deviation"] == "3.50" and rows["n = 3"]["final return"] == "8.4"
    assert rows["n = 1"]["deviation"] == "1.00" and rows["n = 1"]["final return"] == ""
    # Two of one kind keep a row each; another kappa is another kind.
    twice = snake_figures.table_1([run, run._replace(name="c")], [])
    assert [row["objective"] for row in twice] == ["n = 3 (a)", "n = 3 (c)"]
    mixed = [run._replace(config=ObjectiveConfig("mixed", 3, kappa=k)) for k in (0.1, 0.9)]
    assert [row["objective"] for row in snake_figures.table_1(mixed, [])] == [
        "3-mix, κ = 0.1", "3-mix, κ = 0.9"
    ]  # fmt: skip


def test_returns_of_stretches_without_an_episode_are_the_last_ones():
    columns = {
        "episodes": np.array([[0.0, 2.0, 0.0, 1.0]]), "returns": np.array([[0.0, 8.0, 0.0, 7.0]])
    }  # fmt: skip
    np.testing.assert_array_equal(snake_figures.episode_return(columns), [[0, 4, 4, 7]])


def test_a_suite_without_anything_is_refused():
    with pytest.raises(ValueError, match="nothing to measure") as caught:
        MrpVarianceConfig(n_step=(), mixed=(), bmg=(), mixed_bmg=(), oracle=0)
    assert "\n" not in str(caught.value)


def test_milestones_are_the_middles_of_equal_parts():
    assert milestones(EstimatorsConfig(points=4), 800) == [100, 300, 500, 700]
    # At a run's very end Snake's step size is 0, and so is what differentiates through an update.
    assert milestones(SnakeVarianceConfig(), 10_000_000)[-1] < 10_000_000 - 10_000


def test_the_oracle_is_measured_once():
    config = MrpVarianceConfig(n_step=(1, 5), mixed=(), bmg=(), mixed_bmg=(), oracle=5)
    assert objectives_of(config) == [ObjectiveConfig("n-step", 1), ObjectiveConfig("n-step", 5)]


def test_kappa_and_the_trace_are_of_what_is_measured():
    """Each where it has a meaning; of all others the objectives are the usual ones."""
    config = MrpVarianceConfig(kappa=0.3, accumulative_trace=0.7)
    labels = [estimators.as_measured(o, config).label for o in objectives_of(config)]
    assert {"n = 3, µ = 0.7", "3-mix, κ = 0.3, µ = 0.7", "BMG, L = 3"} <= set(labels)
    asked = []
    estimators.make_estimators(config, lambda config: asked.append(config), convolves=False)
    kinds = {(c.objective, c.inner_steps): (c.kappa, c.accumulative_trace) for c in asked}
    assert kinds["mixed", 3] == (0.3, 0.7) and kinds["mixed-bmg", 3] == (0.3, None)


def test_figures_of_suites_that_lack_a_kind(tmp_path, pictures):
    oracle = made_up("n-step", 40, [1.0] * 10, [1.0] * 10)
    for measured in ([made_up("n-step", 1, [0.0] * 10, [1.0] * 10)], []):
        path = mrp_figures.draw_bias_and_variance([*measured, oracle], 40, tmp_path)
        assert path.exists()
        drawn = {label for panel in pictures[path.name] for label in panel.lines}
        assert any("n-step" in label for label in drawn) == bool(measured), drawn
