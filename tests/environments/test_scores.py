"""Reference scores: complete, read right, and names refused with the nearest match."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bmg.environments import scores
from bmg.environments.catch import Catch
from tests.tables import named


def test_the_57_games():
    assert len(scores.GAMES) == len(set(scores.GAMES)) == 57
    assert list(scores.GAMES) == sorted(scores.GAMES)
    for game in scores.GAMES:
        random, human = scores.SCORES[game]
        assert math.isfinite(random) and math.isfinite(human)
        assert human > random, game


def test_random_is_zero_and_human_is_one():
    for game in (*scores.GAMES, scores.CATCH):
        with named(game):
            random, human = scores.SCORES[game]
            assert scores.human_normalized_score(game, random) == 0.0
            assert scores.human_normalized_score(game, human) == 1.0


def test_pong_by_hand():
    # Random -20.7, human 14.6; a perfect game is 21: (21 + 20.7) / (14.6 + 20.7).
    assert scores.human_normalized_score("pong", -20.7) == 0.0
    assert scores.human_normalized_score("pong", 14.6) == 1.0
    assert scores.human_normalized_score("pong", 21.0) == pytest.approx(41.7 / 35.3)


def test_catch_random_score_is_the_exact_expectation():
    # The mean over all sequences of actions of a Catch with 4 rows, and over all balls.
    rows, columns = 4, 5
    outcomes = []
    for code in range(3 ** (rows - 1)):
        paddle = columns // 2
        for t in range(rows - 1):
            paddle = min(max(paddle + code // 3**t % 3 - 1, 0), columns - 1)
        outcomes += [1 if ball == paddle else -1 for ball in range(columns)]
    assert sum(outcomes) / len(outcomes) == pytest.approx(scores.SCORES["catch"].random)

    # And the real one, to four standard errors (0.8 / sqrt(20000) each).
    environment = Catch(20_000, 0)
    environment.reset()
    random = np.random.default_rng(1)
    for _ in range(9):
        step = environment.step(random.integers(3, size=20_000))
    assert abs(step.episode_return.mean() + 0.6) < 4 * 0.8 / math.sqrt(20_000)


def test_names_and_configurations_load_without_an_emulator():
    code = (
        "import sys; from bmg.environments import atari, base, catch, factory, scores; "
        "print([m for m in ('ale_py', 'gymnasium', 'jax', 'tensorflow') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert loaded.stdout.strip() == "[]", loaded.stderr
