"""Catch against a slow game of one environment, driven by what can be seen on the frames."""

import jax
import numpy as np
import pytest

from bmg.environments import base, in_graph_catch
from bmg.environments.catch import Catch


class SlowCatch:
    """One game, from the rules: a list of rows, and the ball's column given from outside."""

    def __init__(self, rows, columns, ball_column):
        self.rows, self.columns = rows, columns
        self.ball = (0, ball_column)
        self.paddle = columns // 2

    def frame(self):
        board = [[0] * self.columns for _ in range(self.rows)]
        board[self.ball[0]][self.ball[1]] = 255
        board[-1][self.paddle] = 255
        return np.array(board, np.uint8)[:, :, None]

    def step(self, action):
        if action == 0 and self.paddle > 0:
            self.paddle -= 1
        if action == 2 and self.paddle < self.columns - 1:
            self.paddle += 1
        self.ball = (self.ball[0] + 1, self.ball[1])
        if self.ball[0] < self.rows - 1:
            return 0.0, False
        return (1.0 if self.ball[1] == self.paddle else -1.0), True


@pytest.mark.parametrize("rows, columns", [(10, 5), (2, 3), (4, 4)])
def test_against_the_slow_game(rows, columns):
    num_envs = 7
    environment = Catch(num_envs, 3, rows, columns)
    random = np.random.default_rng(0)

    def slow_games(frames):
        return [SlowCatch(rows, columns, int(frame[0, :, 0].argmax())) for frame in frames]

    step = environment.reset()
    assert step.first.all() and (step.discount == 1).all() and (step.reward == 0).all()
    assert np.isnan(step.episode_return).all()
    games = slow_games(step.frame)
    rewards, columns_seen = [], set()
    for _ in range(20 * (rows - 1)):
        for frame, game in zip(step.frame, games):
            np.testing.assert_array_equal(frame[:rows, :columns], game.frame())
            assert frame.shape == (10, 5, 1) and frame.sum() == frame[:rows, :columns].sum()
        actions = random.integers(3, size=num_envs)
        step = environment.step(actions)
        expected = [game.step(action) for game, action in zip(games, actions)]
        reward, end = (np.array(x) for x in zip(*expected))
        np.testing.assert_array_equal(step.reward, reward)
        np.testing.assert_array_equal(step.first, end)
        np.testing.assert_array_equal(step.discount, 1.0 - end)
        np.testing.assert_array_equal(step.episode_return, np.where(end, reward, np.nan))
        if end.any():
            assert end.all()
            games = slow_games(step.frame)
            columns_seen.update(game.ball[1] for game in games)
            rewards.extend(reward)
    assert columns_seen == set(range(columns))
    assert set(rewards) == {-1.0, 1.0}


def test_types_and_spec():
    environment = Catch(4, 0)
    assert environment.spec == base.EnvironmentSpec((10, 5, 1), 3, 1, 1)
    for step in (environment.reset(), environment.step(np.zeros(4, int))):
        assert step.frame.shape == (4, 10, 5, 1)
        assert [x.dtype for x in step[:5]] == [np.uint8, np.float32, np.float32, bool, np.float32]
        assert all(len(x) == 4 for x in step[:5])


def test_seeds_decide_the_balls():
    def columns(seed):
        environment = Catch(50, seed, rows=2)
        frames = [environment.reset().frame]
        frames += [environment.step(np.ones(50, int)).frame for _ in range(3)]
        return np.stack(frames)

    seeds = base.spaced_seeds(1, 0, 50)
    np.testing.assert_array_equal(columns(seeds), columns(seeds))
    assert (columns(seeds) != columns(base.spaced_seeds(1, 1, 50))).any()
    assert (columns(seeds) != columns(base.spaced_seeds(2, 0, 50))).any()


def test_a_second_reset_does_not_repeat_the_first():
    environment = Catch(50, 0)
    assert (environment.reset().frame != environment.reset().frame).any()


def test_refuses_wrong_use():
    environment = Catch(2, 0)
    with pytest.raises(RuntimeError, match="reset"):
        environment.step(np.zeros(2, int))
    environment.reset()
    with pytest.raises(ValueError, match="allowed are 0 to 2"):
        environment.step(np.array([0, 3]))


@pytest.mark.parametrize("rows, columns", [(10, 5), (4, 3)])
def test_in_the_compiled_program_against_the_slow_game(rows, columns):
    params = in_graph_catch.make_params(rows, columns)
    reset_key, action_key, draw_key = jax.random.split(jax.random.PRNGKey(0), 3)
    steps = 40 * (rows - 1)
    actions = jax.random.randint(action_key, (steps,), 0, in_graph_catch.NUM_ACTIONS)
    draws = in_graph_catch.draw(params, draw_key, (steps,))
    step, observe = jax.jit(in_graph_catch.step), jax.jit(in_graph_catch.observe)

    def frame(state):
        seen = np.asarray(observe(params, state))
        assert seen.sum() == seen[:rows, :columns].sum()
        return 255 * seen[:rows, :columns]

    state = jax.jit(in_graph_catch.reset)(params, reset_key)
    game = SlowCatch(rows, columns, int(frame(state)[0, :, 0].argmax()))
    balls, rewards = [], set()
    for action, draw in zip(np.asarray(actions), draws):
        np.testing.assert_array_equal(frame(state), game.frame())
        state, transition = step(params, state, action, draw)
        reward, end = game.step(action)
        assert tuple(map(float, transition)) == (reward, 1.0 - end, reward)
        if end:
            balls.append(int(frame(state)[0, :, 0].argmax()))
            game = SlowCatch(rows, columns, balls[-1])
            rewards.add(reward)
    assert len(balls) == 40 and set(balls) == set(range(columns)) and rewards == {-1.0, 1.0}


@pytest.mark.parametrize("rows, columns", [(1, 5), (11, 5), (6.5, 5), (10, 0), (10, 6), (10, True)])
def test_boards_that_do_not_fit_are_refused(rows, columns):
    words = "columns is .*from 1 to 5" if rows == 10 else "rows is .*from 2 to 10"
    for call in (
        lambda: in_graph_catch.make_params(rows, columns),
        lambda: Catch(2, 0, rows, columns),
    ):
        with pytest.raises(ValueError, match=words):
            call()
