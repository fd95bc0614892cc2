"""The table of measured meta-gradients, and what figures and tables make of it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.multistep import estimators, figures, mrp
from experiments.multistep.config import EstimatorsConfig, MrpVarianceConfig, ObjectiveConfig
from experiments.runner import Runner

pytestmark = pytest.mark.usefixtures("quick_compilation")
CONFIG = MrpVarianceConfig(
    seeds=2, steps=4_000, batch_size=4, estimates=2, record_every=320, points=2, draws=6,
    n_step=(1, 2), mixed=(2,), bmg=(), mixed_bmg=(), oracle=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of two points: its runner, its table, and how many estimators were asked for."""
    path = tmp_path_factory.mktemp("run") / "estimates.csv"
    runner = Runner(mrp.make_lifetime(CONFIG), CONFIG.seeds, CONFIG.first_seed, CONFIG.record_every)
    made = estimators.make_estimators(CONFIG, mrp.make_estimate, convolves=False)
    for steps in CONFIG.milestones(CONFIG.steps):
        runner.run(steps, lambda done: None)
        estimators.measure(made, CONFIG, runner, path)
    return runner, made, path


@pytest.mark.heavy
def test_rows_are_moments_of_independent_estimates(measured):
    runner, made, path = measured
    found = estimators.gather(estimators.read(path))
    assert [m.objective for m in found] == CONFIG.objectives == [e.objective for e in made]
    assert [o.label for o in CONFIG.objectives] == ["n = 1", "n = 2", "2-mix", "n = 3"]
    for m in found:
        assert m.steps[-1] == runner.records.steps and len(m.steps) == 2 and m.draws == 6
        assert m.mean.shape == m.deviation.shape == (2, 2, 10)
        assert np.all(m.deviation > 0)
    # The last point of the second seed's 2-step meta-gradient, draw by draw.
    estimate = jax.jit(
        mrp.make_estimate(dataclasses.replace(CONFIG, objective="n-step", inner_steps=2))
    )
    key = jax.random.fold_in(jax.random.PRNGKey(CONFIG.first_seed + 1), runner.records.steps)
    keys = jax.random.split(jax.random.fold_in(key, 1), CONFIG.draws)
    draws = np.stack([estimate(runner.lifetime(1), k) for k in keys])
    np.testing.assert_allclose(found[1].mean[1, 1], draws.mean(0), rtol=1e-3, atol=1e-10)
    np.testing.assert_allclose(found[1].deviation[1, 1], draws.std(0, ddof=1), rtol=1e-3)


@pytest.mark.heavy
def test_a_point_is_measured_once_and_one_after_the_other_is_the_same(measured, tmp_path):
    runner, made, path = measured
    before = path.read_bytes()
    estimators.measure(made, CONFIG, runner, path)
    assert path.read_bytes() == before
    slow = estimators.make_estimators(CONFIG, mrp.make_estimate, convolves=True)
    estimators.measure(slow[:1], CONFIG, runner, tmp_path / "slow.csv")
    (alone,) = estimators.gather(estimators.read(tmp_path / "slow.csv"))
    first = estimators.gather(estimators.read(path))[0]
    np.testing.assert_allclose(alone.mean[:, 0], first.mean[:, 1], rtol=1e-3, atol=1e-10)
    np.testing.assert_allclose(alone.deviation[:, 0], first.deviation[:, 1], rtol=1e-3)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "estimates.csv"
    path.write_text("seed,step\n0,1\n")
    with pytest.raises(ValueError, match="estimates.csv is no table of estimates"):
        estimators.read(path)


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
    found, floor = estimators.bias(one, three, figures.EVEN)
    np.testing.assert_allclose(found, 5.0)  # 3 and 4 away
    np.testing.assert_allclose(floor, np.sqrt((4 + 4) / 100 + (16 + 64) / 400))
    np.testing.assert_allclose(figures.relative_deviation(three, one), (2 + 3 + 4 + 5) / 4)
    np.testing.assert_allclose(figures.signal_to_noise(one), 5 / np.sqrt(10))

    columns = {
        "episodes": np.array([[1.0] * 39 + [0.5]]), "returns": np.array([[1.0] * 38 + [9.0, 3.0]])
    }  # fmt: skip
    np.testing.assert_allclose(figures.final_return(columns), (9 + 3) / 1.5)
    run = figures.Run("a", ObjectiveConfig("n-step", 3), np.arange(40), columns)
    fixed = figures.Run("b", ObjectiveConfig("fixed", 1), np.arange(40), columns)
    rows = {row.pop("objective"): row for row in figures.table_1([run, fixed], [three, one])}
    assert list(rows) == ["fixed", "n = 1", "n = 3"]
    assert rows["fixed"] == {"final return": "8.0", "deviation": "", "signal to noise": ""}
    assert rows["n = 3"]["deviation"] == "3.50" and rows["n = 3"]["final return"] == "8.0"
    assert rows["n = 1"]["deviation"] == "1.00" and rows["n = 1"]["final return"] == ""


def test_returns_of_stretches_without_an_episode_are_the_last_ones():
    columns = {
        "episodes": np.array([[0.0, 2.0, 0.0, 1.0]]), "returns": np.array([[0.0, 8.0, 0.0, 7.0]])
    }  # fmt: skip
    np.testing.assert_array_equal(figures.episode_return(columns), [[0, 4, 4, 7]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": 0}, "--points is 0"),
        ({"draws": 1}, "--draws is 1"),
        ({"oracle": -1}, "--oracle is -1"),
        ({"n_step": (1, 0)}, "--inner-steps is 0"),
    ],
)
def test_bad_suites_are_one_line(change, words):
    with pytest.raises(ValueError, match=words) as caught:
        EstimatorsConfig(**change)
    assert "\n" not in str(caught.value)


def test_milestones_end_with_the_run():
    assert EstimatorsConfig(points=3).milestones(1_000) == [333, 667, 1_000]
    assert jnp.all(jnp.diff(jnp.array(EstimatorsConfig(points=7).milestones(100))) > 0)
