"""Policy evaluation by a rule, and what is read from predictions."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bmg.agents.update_rule import RuleConfig, init_rule
from bmg.experiments.lpg import analysis
from bmg.experiments.lpg.config import LpgConfig

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation")]
CONFIG = LpgConfig(
    worlds=("cliff",), environments=32, learning_rates=(40.0,), prediction_costs=(1.0,),
    rule=RuleConfig(units=4, prediction_size=5, embedding=2),
)  # fmt: skip
DISCOUNTS = (0.9, 0.5)


@pytest.fixture(scope="module")
def grids():
    return analysis.draw_grids("cliff", 3, DISCOUNTS, seed=2)


def evaluated(grids, rule, begin, updates=(0, 1, 40)):
    return analysis.evaluate_policies(CONFIG, rule, grids, DISCOUNTS[0], updates, begin, seed=0)


def test_the_policy_stays_and_values_become_the_true_ones(grids):
    """TD(lambda)'s, in states that are visited often; y moves only where agents were."""
    rule = init_rule(CONFIG.rule, jax.random.PRNGKey(0))
    begin = analysis.random_predictions(grids, 5, 1)
    found = evaluated(grids, rule, begin)
    probabilities = np.exp(begin) / np.exp(begin).sum(-1, keepdims=True)
    np.testing.assert_allclose(found.predictions[0], probabilities, rtol=1e-4)
    moved = np.any(np.abs(found.predictions[-1] - probabilities) > 1e-6, axis=-1)
    assert np.any(moved) and not np.any(moved & ~found.visited[-1])
    assert np.mean(moved[found.visited[-1]]) > 0.9
    assert np.all(grids.policy.sum(-1) == pytest.approx(1.0)) and np.all(grids.policy[..., 9:] == 0)
    often = found.visited[1]  # in the first rollout already
    before = np.mean(np.square(found.values[1] - grids.values[0])[often])
    after = np.mean(np.square(found.values[-1] - grids.values[0])[often])
    assert after < 0.2 * before


def test_a_rule_that_always_says_the_same_makes_predictions_converge(grids):
    """Two of them, towards it, and so towards each other."""
    rule = init_rule(CONFIG.rule, jax.random.PRNGKey(0))
    bias = np.array([0.0, 1.0, 2.0, 0.0, -1.0], np.float32)
    head = rule.prediction._replace(w=0 * rule.prediction.w, b=bias)
    pair = [
        evaluated(grids, rule._replace(prediction=head), analysis.random_predictions(grids, 5, i))
        for i in (1, 2)
    ]
    apart = analysis.distance(*pair)
    assert apart.shape == (3, 3)
    y, other = (x.predictions[0, 0] for x in pair)
    kl = np.sum(y * np.log(y / other), axis=-1)
    np.testing.assert_allclose(apart[0, 0], kl[pair[0].visited[-1, 0]].mean(), rtol=1e-4)
    assert np.all(apart[-1] < 0.7 * apart[0])


def test_regressions_tell_what_is_in_their_inputs():
    """A function of the inputs is found on other grids; noise is as good as nothing."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 300, 2)).astype(np.float32)
    values = np.stack([features[..., 0] * 2 + 1, rng.normal(size=(4, 300))])
    seen = rng.random((4, 300)) < 0.8
    values[:, ~seen] = 1e6  # never looked at
    errors = analysis.regression_errors(features, values, seen, held_out=1, seed=0)
    assert errors[0] < 0.05 and 0.7 < errors[1] < 2.0
