"""Every grid world of the paper against a slow game in plain Python, and what its rules say."""

from __future__ import annotations

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.environments import atari, base, factory, grid, worlds
from bmg.environments.grid import Kind
from bmg.environments.worlds import WORLDS, GridWorld

GRIDS = {name: world for name, world in WORLDS.items() if isinstance(world, GridWorld)}
KEY = jax.random.PRNGKey(3)


class Slow:
    """Oh et al. appendix A.1 and A.2, read once more: coordinates, lists, dictionaries, ifs."""

    def __init__(self, world: GridWorld, collects: bool, start, places):
        """With the places of all episodes, or of the first one where places are random."""
        self.world, self.collects = world, collects
        self.free = [
            (r, c) for r, row in enumerate(world.rows) for c, cell in enumerate(row) if cell != "#"
        ]
        self.kinds = [kind for kind in world.kinds for _ in range(kind.count)]
        self.start, self.places, self.episodes = start, list(places), 0
        self.begin(start, self.places)

    def begin(self, start, places):
        self.agent, self.objects = start, dict(enumerate(places))
        self.steps, self.episode_return = 0, 0.0
        self.episodes += 1

    def pick(self, draw: float, taken) -> tuple[int, int]:
        left = [cell for cell in self.free if cell not in taken]
        return left[min(int(np.float32(draw) * np.float32(len(left))), len(left) - 1)]

    def step(self, action: int, draws) -> tuple[float, float, float]:
        row, column = action % 9 // 3 - 1, action % 3 - 1
        goal = (self.agent[0] + row, self.agent[1] + column)
        if action >= 9 and self.collects:
            touched = goal
        else:
            if goal in self.free:
                self.agent = goal
            touched = None if self.collects else self.agent
        reward, ended = 0.0, False
        gone = [i for i in range(len(self.kinds)) if i not in self.objects]
        for i, kind in enumerate(self.kinds):
            if i in self.objects and self.objects[i] == touched:
                del self.objects[i]
                reward += kind.reward
                ended = ended or float(draws.ends) < kind.ends
        for i in gone:
            if np.float32(draws.returns[i]) < np.float32(self.kinds[i].returns):
                if self.world.tabular:
                    self.objects[i] = self.places[i]
                else:
                    self.objects[i] = self.pick(
                        draws.cells[i], [self.agent, *self.objects.values()]
                    )
        self.steps += 1
        self.episode_return += reward
        ended = ended or self.steps >= self.world.time_limit
        total = self.episode_return
        if ended and self.world.tabular:
            self.begin(self.start, self.places)
        elif ended:
            cells = []
            for draw in draws.begin[: 1 + len(self.kinds)]:
                cells.append(self.pick(draw, cells))
            self.begin(cells[0], cells[1:])
        return reward, 0.0 if ended else 1.0, total

    def number(self) -> int:
        bits = sum(1 << i for i in self.objects)
        return self.free.index(self.agent) * 2 ** len(self.kinds) + bits

    def planes(self):
        seen = np.zeros(grid.OBSERVATION_SHAPE, np.float32)
        order = {kind: i for i, kind in enumerate(self.world.kinds)}
        for i, cell in self.objects.items():
            seen[(*cell, order[self.kinds[i]])] += 1
        seen[(*self.agent, grid.MOST_KINDS)] = 1
        return seen


def cell_of(number) -> tuple[int, int]:
    row, column = divmod(int(number), grid.LARGEST + 2)
    return row - 1, column - 1


def greedy(game: Slow, rng) -> int:
    """Mostly towards an object, another one in each episode, so that things happen; sometimes
    anything, also what is no action of this world."""
    if not game.objects or rng.random() < 0.3:
        return int(rng.integers(18))
    targets = list(game.objects.values())
    target = targets[game.episodes % len(targets)]
    row, column = (int(np.sign(t - a)) for t, a in zip(target, game.agent))
    near = max(abs(t - a) for t, a in zip(target, game.agent)) <= 1
    return 3 * (row + 1) + column + 1 + 9 * (near and game.collects)


@pytest.mark.parametrize("collects", [False, True])
@pytest.mark.parametrize("name", GRIDS)
def test_a_game_is_the_slow_one(name, collects):
    world, rng = GRIDS[name], np.random.default_rng(7)
    world = world._replace(time_limit=min(world.time_limit, 120))
    place_key, reset_key, draw_key = jax.random.split(KEY, 3)
    params = grid.make_params(
        world.rows, world.kinds, world.time_limit, collects, place_key if world.tabular else None
    )
    state = grid.reset(params, reset_key)
    count = sum(kind.count for kind in world.kinds)
    game = Slow(world, collects, cell_of(state.agent), map(cell_of, state.objects[:count]))
    draws = jax.device_get(grid.draw(params, draw_key, (400,)))
    step, observe = jax.jit(grid.step), jax.jit(grid.observe)
    seen = collections.Counter()
    for t in range(400):
        action = greedy(game, rng)
        random = jax.tree.map(lambda x, t=t: x[t], draws)
        state, transition = step(params, state, jnp.int32(action), random)
        reward, discount, total = game.step(action, random)
        assert transition == pytest.approx((reward, discount, total))
        assert cell_of(state.agent) == game.agent
        present = {i for i in range(grid.MOST_OBJECTS) if state.present[i]}
        assert {i: cell_of(state.objects[i]) for i in present} == game.objects
        assert len({*game.objects.values()}) == len(game.objects)
        if world.tabular:
            assert grid.index(params, state) == game.number() < grid.num_states(params)
        np.testing.assert_array_equal(observe(params, state), game.planes())
        seen["ended"] += discount == 0
        seen["good"] += reward > 0
        seen["bad"] += reward < 0
    assert seen["ended"] and seen["good"]
    assert seen["bad"] or all(kind.reward > 0 for kind in world.kinds)


def test_places_are_distinct_and_uniform():
    """All free cells alike, walls never; the agent's as well as the objects'."""
    rows = ("..#", ".#.", "...")
    params = grid.make_params(rows, (Kind(2, 1, 0, 0), Kind(1, -1, 0, 0)), 10)
    states = jax.vmap(lambda key: grid.reset(params, key))(jax.random.split(KEY, 7_000))
    cells = np.column_stack([states.agent, states.objects[:, :3]])
    assert all(len(set(row)) == 4 for row in cells)
    for column in cells.T:
        found = collections.Counter(cell_of(cell) for cell in column)
        assert set(found) == {(0, 0), (0, 1), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)}
        assert all(abs(number - 1_000) < 150 for number in found.values())  # 5 deviations


def test_a_last_draw_next_to_one_is_a_free_cell():
    params = grid.make_params(("...",), (Kind(2, 1, 0, 0),), 10)
    below_one = jnp.full(1 + grid.MOST_OBJECTS, np.nextafter(np.float32(1), np.float32(0)))
    state = grid._begin(params, below_one)
    assert [cell_of(x) for x in (state.agent, *state.objects[:2])] == [(0, 2), (0, 1), (0, 0)]


def test_an_object_that_was_collected_may_come_back_in_later_steps_alone():
    """With probability 1: gone in one observation, there in the next."""
    params = grid.make_params((".",) * 2, (Kind(1, 1, 0, 1),), 99, key=KEY)
    here, there = cell_of(params.places.agent), cell_of(params.places.objects[0])
    move = 3 * (there[0] - here[0] + 1) + 1
    state = grid.reset(params, KEY)
    rewards, present = [], []
    for action in (move, 4, 4, 4):  # then it stays
        random = jax.tree.map(lambda x: x[0], grid.draw(params, KEY, (1,)))
        state, transition = grid.step(params, state, jnp.int32(action), random)
        rewards.append(float(transition.reward))
        present.append(bool(state.present[0]))
    assert rewards == [1, 0, 1, 0] and present == [False, True, False, True]


def test_the_papers_tables():
    assert len(worlds.PAPER) == 15
    sizes = {name: (len(w.rows), len(w.rows[0]), w.time_limit) for name, w in GRIDS.items()}
    assert sizes["dense"] == sizes["random-dense"] == (11, 11, 500)
    assert sizes["sparse"] == (13, 13, 50) and sizes["longer"] == (7, 9, 2000)
    assert sizes["long"] == sizes["random-long"] == (11, 11, 1000)
    assert sizes["long-dense"] == sizes["random-very-dense"] == (11, 11, 2000)
    assert sizes["random-small"] == (5, 7, 500) and sizes["random-sparse"] == (5, 7, 50)
    assert GRIDS["dense"].kinds == ((2, 1, 0, 0.05), (1, -1, 0.5, 0.1), (1, -1, 0, 0.5))
    assert GRIDS["longer"].kinds == ((2, 1, 0.1, 0.01), (5, -1, 0.8, 1))


@pytest.mark.parametrize(
    "rows, kinds, message",
    [
        (("." * 14,), (), "a grid of 1x14 cells .* allowed are up to 13x13, 7 and 3."),
        (("." * 13,), (Kind(8, 1, 0, 0),), "8 objects of 1 kinds"),
        (("." * 13,), (Kind(1, 1, 0, 0),) * 4, "4 objects of 4 kinds"),
        (("..#",), (Kind(2, 1, 0, 0),), "2 free cells for the agent and 2 objects; give more"),
    ],
)
def test_what_does_not_fit_is_refused(rows, kinds, message):
    with pytest.raises(ValueError, match=message):
        grid.make_params(rows, kinds, 10)


@pytest.mark.parametrize(("world", "fixed"), [("dense", True), ("random-dense", False)])
def test_a_world_as_a_game(world, fixed):
    """Fixed places are those of the seed, in all environments and episodes; others are drawn."""
    vector = make_game(world, num_envs=4, seed=3)
    assert vector.spec == base.EnvironmentSpec((13, 13, 4), 9, dtype="float32")
    first = vector.reset().frame
    kinds = worlds.WORLDS[world].kinds
    np.testing.assert_array_equal(first.sum((1, 2))[:, :-1], [[kind.count for kind in kinds]] * 4)
    assert np.all(first.sum((1, 2))[:, -1] == 1)
    other_seed = make_game(world, num_envs=1, seed=4).reset().frame
    assert np.array_equal(first[0], first[1]) == fixed
    assert np.array_equal(first[0], other_seed[0]) != fixed
    rng, rewards, seen = np.random.default_rng(0), set(), 0
    for _ in range(worlds.WORLDS[world].time_limit):
        step = vector.step(rng.integers(9, size=4))
        rewards |= set(step.reward.tolist())
        for n in np.flatnonzero(step.first):
            seen += 1
            assert np.array_equal(step.frame[n], first[n]) == fixed
    assert rewards == {-1.0, 0.0, 1.0} and seen >= 4


def make_game(world, num_envs, seed):
    options = json.dumps({"world": world, "seed": seed})
    return factory.make("grid", num_envs, 0, 0, atari.LIGHT, 1, 0, options)


def test_a_world_that_is_no_grid_is_no_game():
    with pytest.raises(ValueError, match="'chain-short'; allowed are dense, sparse, .*, cliff"):
        factory.make_world("grid", '{"world": "chain-short"}')
