"""What agents come to: by A2C, by a rule, and which step sizes are chosen."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from bmg.agents.update_rule import RuleConfig, init_rule
from bmg.experiments.lpg import trial
from bmg.experiments.lpg.config import LpgConfig

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation")]
CHAIN = LpgConfig(
    worlds=("chain-short",), environments=32, learning_rates=(10.0, 40.0),
    prediction_costs=(0.5, 1.0), rule=RuleConfig(units=4, prediction_size=3, embedding=2),
)  # fmt: skip


def test_a2c_learns_a_chain_and_a_new_rule_does_not():
    """The first choice of many decides, and either is right in half of the episodes."""
    found = trial.try_out(CHAIN, None, 100, 2, 0, entropy_weights=(0.0, 0.01, 0.1))
    assert found.episodes.shape == found.returns.shape == (1, 6, 2, 100)
    best = trial.best_of(found, 0)
    assert best.final.mean() > 0.9 and abs(best.curve[:, 0].mean()) < 0.6
    rule = jax.jit(lambda: init_rule(CHAIN.rule, jax.random.PRNGKey(0)))()
    other = trial.best_of(trial.try_out(CHAIN, rule, updates=100, agents=2, seed=0), 0)
    assert other.final.mean() < 0.7


def test_a_trial_is_the_same_again_and_another_with_another_seed():
    config = dataclasses.replace(CHAIN, environments=4)
    one, again, other = (
        trial.try_out(config, None, 20, 1, seed, (0.01,), at_once=10) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.returns, again.returns)
    assert np.any(one.returns != other.returns)


def test_the_best_arm_is_that_of_the_last_episodes():
    """Arm 1 is better at first, arm 0 at the end; where no episode ended, an arm does not count."""
    episodes = np.ones((1, 3, 2, 10))
    returns = np.zeros((1, 3, 2, 10))
    returns[0, 0, :, 8:] = [[3.0], [5.0]]
    returns[0, 1, :, :8] = 9.0
    episodes[0, 2, :, 8:] = 0
    returns[0, 2] = 100.0
    arms = ((20.0, 0.1), (40.0, 0.1), (80.0, 0.1))
    best = trial.best_of(trial.Trial(arms, episodes, returns), 0, points=5)
    assert best.arm == arms[0] and best.final.tolist() == [3.0, 5.0]
    np.testing.assert_array_equal(best.curve, [[0, 0, 0, 0, 3], [0, 0, 0, 0, 5]])
