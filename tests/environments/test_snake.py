"""Snake: every move against a slow game of its own, over random and over clever play."""

from __future__ import annotations

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.environments import snake

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
PAPERS = snake.make_params()
step = jax.jit(functools.partial(snake.step, PAPERS))
reset = jax.jit(functools.partial(snake.reset, PAPERS))


class SlowGame:
    """The rules, on a deque of cells. Where the fruit comes back is read from the picture."""

    def __init__(self, observation):
        self.cells = collections.deque([cell_of(observation[..., 1])])  # head first
        self.fruit = cell_of(observation[..., 3])
        self.steps = 0

    def move(self, action) -> tuple[float, bool]:
        """(reward, whether the episode ended)."""
        self.steps += 1
        row, column = np.add(self.cells[0], MOVES[action])
        head = (int(row), int(column))
        eaten = head == self.fruit
        if not eaten:
            self.cells.pop()  # the tail leaves its cell before the head arrives
        inside = 0 <= row < snake.SIZE and 0 <= column < snake.SIZE
        dead = not inside or head in self.cells
        self.cells.appendleft(head)
        return float(eaten), dead or self.steps == 5_000 or len(self.cells) == 144

    def picture(self):
        """[12, 12, 5]."""
        grid = np.zeros(snake.OBSERVATION_SHAPE)
        for place, cell in enumerate(self.cells):
            grid[cell][0] = 1
            grid[cell][4] = (len(self.cells) - place) / len(self.cells)
        grid[self.cells[0]][1] = grid[self.cells[-1]][2] = grid[self.fruit][3] = 1
        return grid


def cell_of(plane) -> tuple[int, int]:
    (row,), (column,) = np.nonzero(plane)
    return int(row), int(column)


def clever(game: SlowGame, rng) -> int:
    """Towards the fruit where that is not deadly: long snakes, that follow their tails."""
    best, choice = None, rng.integers(4)
    for action in rng.permutation(4):
        head = tuple(np.add(game.cells[0], MOVES[action]))
        body = list(game.cells)[:-1] if head != game.fruit else game.cells
        if head in body or not all(0 <= x < snake.SIZE for x in head):
            continue
        distance = np.abs(np.subtract(head, game.fruit)).sum()
        if best is None or distance < best:
            best, choice = distance, action
    return int(choice)


@pytest.mark.parametrize(("policy", "steps"), [("random", 2_000), ("clever", 2_000)])
def test_every_move_is_the_slow_games(policy, steps):
    rng = np.random.default_rng(0)
    keys = jax.random.split(jax.random.PRNGKey(1), steps)
    state = reset(jax.random.PRNGKey(0))
    game, total, longest, ends = SlowGame(np.asarray(state.observation)), 0.0, 0, 0
    for key in keys:
        action = int(rng.integers(4)) if policy == "random" else clever(game, rng)
        state, transition = step(state, jnp.int32(action), key)
        reward, ended = game.move(action)
        total += reward
        assert float(transition.reward) == reward
        assert float(transition.discount) == 1.0 - ended
        assert float(transition.episode_return) == total
        longest = max(longest, len(game.cells))
        picture = np.asarray(state.observation)
        if ended:
            assert picture[..., 0].sum() == 1, "the next episode's first picture"
            game, total, ends = SlowGame(picture), 0.0, ends + 1
        else:
            if reward:
                game.fruit = cell_of(picture[..., 3])
                assert game.fruit not in game.cells
            np.testing.assert_allclose(picture, game.picture(), atol=1e-6)
    assert ends >= 3 and longest >= (2 if policy == "random" else 20)


def test_the_time_limit_ends_an_episode():
    state = reset(jax.random.PRNGKey(3))
    late = state._replace(game=state.game.replace(step_count=jnp.int32(snake.TIME_LIMIT - 2)))
    inwards = 2 if np.nonzero(state.observation[..., 1])[0][0] < 6 else 0
    for expected in (1.0, 0.0):
        late, transition = step(late, jnp.int32(inwards), jax.random.PRNGKey(4))
        assert float(transition.discount) == expected
    assert int(late.game.step_count) == 0


def test_the_key_alone_decides_where_fruits_and_snakes_come():
    states = [reset(jax.random.PRNGKey(i)) for i in range(40)]
    heads = {cell_of(state.observation[..., 1]) for state in states}
    assert len(heads) > 25, "random cells"
    again = reset(jax.random.PRNGKey(7))
    np.testing.assert_array_equal(again.observation, states[7].observation)
    # From one and the same state, the fruit comes back elsewhere with another key.
    state = states[0]
    head, fruit = (np.array(cell_of(state.observation[..., i])) for i in (1, 3))
    places = set()
    for key in range(12):
        walk = state
        for axis, (back, forth) in ((0, (0, 2)), (1, (3, 1))):
            for _ in range(abs(fruit[axis] - head[axis])):
                action = forth if fruit[axis] > head[axis] else back
                walk, transition = step(walk, jnp.int32(action), jax.random.PRNGKey(key))
        assert float(transition.reward) == 1
        places.add(cell_of(walk.observation[..., 3]))
    assert len(places) > 6
