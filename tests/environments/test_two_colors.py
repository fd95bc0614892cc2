"""Two colours against a slow loop in plain Python, and what its rules say."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.environments import two_colors

SIDE = 5
PAPERS = two_colors.make_params()


class Slow:
    """The rules of BMG appendix B.1, read once more: coordinates, lists and ifs."""

    def __init__(self, state: two_colors.State, flip_every: int, respawn: str):
        self.agent, self.blue, self.red = (divmod(int(x), SIDE) for x in state[:3])
        self.steps, self.flip_every, self.respawn = int(state.steps), flip_every, respawn

    @staticmethod
    def pick(draw: float, occupied: list) -> tuple[int, int]:
        free = [(r, c) for r in range(SIDE) for c in range(SIDE) if (r, c) not in occupied]
        return free[int(np.float32(draw) * np.float32(len(free)))]

    def step(self, action: int, draw) -> float:
        row, column = self.agent
        if action == 0 and row > 0:
            row -= 1
        elif action == 1 and row < SIDE - 1:
            row += 1
        elif action == 2 and column > 0:
            column -= 1
        elif action == 3 and column < SIDE - 1:
            column += 1
        self.agent = (row, column)
        good, bad = (
            (self.blue, self.red)
            if (self.steps // self.flip_every) % 2 == 0
            else (self.red, self.blue)
        )
        self.steps += 1
        if self.agent not in (good, bad):
            return -0.04
        reward = 1.0 if self.agent == good else -1.0
        if self.respawn == "all":
            self.agent = self.pick(draw[0], [])
            self.blue = self.pick(draw[1], [self.agent])
            self.red = self.pick(draw[2], [self.agent, self.blue])
        elif self.agent == self.blue:
            self.blue = self.pick(draw[0], [self.agent, self.red])
        else:
            self.red = self.pick(draw[0], [self.agent, self.blue])
        return reward


@pytest.mark.parametrize("respawn", ["collected", "all"])
def test_a_random_walk_is_the_slow_loop_s(respawn):
    count, flip_every = 3_000, 70
    keys = jax.random.split(jax.random.PRNGKey(3), 3)
    params = two_colors.make_params(flip_every, respawn)
    start = two_colors.reset(params, keys[0])
    actions = jax.random.randint(keys[1], (count,), 0, 4)
    draws = two_colors.draw(params, keys[2], (count,))
    assert draws.shape == (count, 3)

    def body(state, inputs):
        state, transition = two_colors.step(params, state, *inputs)
        return state, (state, transition.reward)

    _, (states, rewards) = jax.jit(lambda: jax.lax.scan(body, start, (actions, draws)))()
    slow, collected = Slow(start, flip_every, respawn), collections.Counter()
    for index in range(count):
        reward = slow.step(int(actions[index]), np.asarray(draws[index]))
        assert rewards[index] == np.float32(reward), index
        places = [divmod(int(x[index]), SIDE) for x in states[:3]]
        assert places == [slow.agent, slow.blue, slow.red], index
        assert len(set(places)) == 3, "nothing may share a cell"
        collected[reward] += 1
    assert min(collected[1.0], collected[-1.0]) > 30, "both squares were to be tried"
    assert int(states.steps[-1]) == count


def world(agent, blue, red, steps=0):
    cells = (row * SIDE + column for row, column in (agent, blue, red))
    return two_colors.State(*(jnp.int32(cell) for cell in cells), jnp.int32(steps))


@pytest.mark.parametrize(
    "steps, blue_pays", [(0, 1.0), (99_999, 1.0), (100_000, -1.0), (199_999, -1.0), (200_000, 1.0)]
)
def test_the_squares_change_places_every_100_000_steps(steps, blue_pays):
    right = jnp.int32(3)
    draw = jnp.full(3, 0.5)
    _, found = two_colors.step(PAPERS, world((0, 0), (0, 1), (4, 4), steps), right, draw)
    assert found.reward == blue_pays
    _, found = two_colors.step(PAPERS, world((0, 0), (4, 4), (0, 1), steps), right, draw)
    assert found.reward == -blue_pays


@pytest.mark.parametrize("collected", ["blue", "red"])
def test_a_square_jumps_to_any_free_cell_with_the_same_chance(collected):
    near, far = (2, 3), (0, 0)
    start = world((2, 2), near, far) if collected == "blue" else world((2, 2), far, near)
    # 23 free cells, 100 evenly spaced draws for each.
    draws = (np.arange(2_300) + 0.5) / 2_300
    after, _ = jax.vmap(lambda d: two_colors.step(PAPERS, start, jnp.int32(3), jnp.full(3, d)))(
        draws
    )
    counts = collections.Counter(np.asarray(getattr(after, collected)).tolist())
    free = set(range(25)) - {2 * SIDE + 3, 0}
    assert counts == dict.fromkeys(free, 100)
    assert set(np.asarray(after.agent).tolist()) == {2 * SIDE + 3}, "the agent stays"


def test_the_largest_draw_is_a_cell_too():
    largest = np.nextafter(np.float32(1), np.float32(0))
    for respawn in ("collected", "all"):
        params = two_colors.make_params(respawn=respawn)
        start = world((0, 0), (0, 1), (0, 2))
        after, _ = two_colors.step(params, start, jnp.int32(3), jnp.full(3, largest))
        places = {int(x) for x in after[:3]}
        assert len(places) == 3 and max(places) == 24


def test_new_worlds_are_all_the_same_likely():
    keys = jax.random.split(jax.random.PRNGKey(0), 20_000)
    states = jax.vmap(two_colors.reset, (None, 0))(PAPERS, keys)
    cells = np.stack([np.asarray(x) for x in states[:3]])
    assert not np.any(states.steps)
    assert np.all((cells[0] != cells[1]) & (cells[1] != cells[2]) & (cells[0] != cells[2]))
    for of_one in cells:
        frequency = np.bincount(of_one, minlength=25) / len(keys)
        # Five standard deviations of a frequency of 1/25 over 20,000 draws.
        assert np.all(np.abs(frequency - 1 / 25) < 5 * np.sqrt(0.04 * 0.96 / len(keys)))


def test_an_observation_names_six_coordinates():
    seen = np.asarray(two_colors.observe(PAPERS, world((0, 4), (3, 1), (2, 2))))
    assert seen.shape == (two_colors.OBSERVATION_SIZE,) == (30,)
    assert np.flatnonzero(seen.reshape(6, 5)).tolist() == [0, 9, 13, 16, 22, 27]
    assert seen.sum() == 6 and set(seen.tolist()) == {0.0, 1.0}


def test_a_smaller_grid_is_the_upper_left_part_of_the_largest():
    params = two_colors.make_params(size=3)
    keys = jax.random.split(jax.random.PRNGKey(0), 500)
    starts = jax.vmap(two_colors.reset, (None, 0))(params, keys)
    assert set(np.asarray(starts.red).tolist()) == set(range(9))
    # From the middle of the right edge: a wall to the right, three cells in each direction.
    start = two_colors.State(*map(jnp.int32, (5, 0, 8, 0)))
    moved = [two_colors.step(params, start, jnp.int32(a), jnp.zeros(3))[0].agent for a in range(4)]
    assert [int(cell) for cell in moved] == [2, 8, 4, 5]
    seen = np.asarray(two_colors.observe(params, start)).reshape(3, 2, 5)
    assert [np.flatnonzero(x).item() for x in seen.reshape(6, 5)] == [1, 2, 0, 0, 2, 2]
