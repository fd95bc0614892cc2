"""MinAtar: every step beside Young and Tian's own implementation, which gets the same draws."""

from __future__ import annotations

import collections
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.environments import minatar
from bmg.environments.minatar import common, freeway

KEY = jax.random.PRNGKey(5)


class Numbers:
    """Stands in for a numpy generator: what was put in comes out, in its order."""

    def __init__(self, *numbers):
        self.numbers = collections.deque(numbers)

    def rand(self, *shape):
        return np.reshape(self.numbers.popleft(), shape)

    def randint(self, low, high=None, size=None):
        number = self.numbers.popleft()
        assert np.shape(number) == (() if size is None else (size,))
        assert np.all((number >= (low if high else 0)) & (number < (high or low)))
        return number


def velocities_as_numbers(velocities):
    return [np.abs(velocities), np.where(velocities > 0, 0.75, 0.25)]


def integer(draw, below):
    return int(np.float32(draw) * np.float32(below))


class Original:
    """MinAtar's game, with all its draws given to it."""

    def __init__(self, name: str, state, sticky: float, ramping: bool):
        from minatar import Environment

        self.name = name
        self.environment = Environment(name, sticky, ramping)
        self.game = self.environment.env
        self.actions = self.environment.minimal_action_set()
        letters = "".join(self.game.action_map[action] for action in self.actions)
        assert letters == "".join(action[0] for action in minatar.GAMES[name].ACTIONS)
        first = []
        if name == "breakout":
            first = [int(state.column != 0)]
        elif name == "freeway":
            first = velocities_as_numbers(state.velocities)
        self.reset(first)

    def reset(self, draws: list):
        self.game.random = Numbers(*draws)
        self.environment.reset()
        assert not self.game.random.numbers

    def draws_of_step(self, random) -> list:
        """In the order in which the game asks for them, if it does."""
        draws = []
        if self.name == "asterix" and self.game.spawn_timer == 0:
            empty = self.game.entities.count(None)
            row = [integer(random.row, empty)] if empty else []
            draws = [random.side, random.treasure, *row]
        if self.name == "freeway":
            draws = velocities_as_numbers(np.asarray(freeway._velocities(random.velocities)))
        if self.name == "seaquest" and self.game.e_spawn_timer == 0:
            draws += [random.side, random.submarine, 1 + integer(random.row, 8)]
        if self.name == "seaquest" and self.game.d_spawn_timer == 0:
            draws += [random.diver_side, 1 + integer(random.diver_row, 8)]
        return draws

    def step(self, action: int, random) -> tuple[float, bool]:
        """(reward, whether the episode ended); the next one has begun then."""
        draws = self.draws_of_step(random)
        self.environment.random, self.game.random = Numbers(random.sticky), Numbers(*draws)
        reward, ended = self.environment.act(self.actions[action])
        # Freeway asks after a crossing alone.
        assert not self.environment.random.numbers
        assert not self.game.random.numbers or self.name == "freeway"
        if ended:
            begin = [integer(random.begin, 2)] if self.name == "breakout" else []
            self.reset(draws if self.name == "freeway" else begin)
        return reward, ended


@functools.cache
def functions(name: str):
    """Of a game, jitted: a step with its observation; an estimate of what each action leads to."""
    game = minatar.GAMES[name]

    @jax.jit
    def step(params, state, action, random):
        after, transition = game.step(params, state, action, random)
        return after, game.observe(params, after), transition

    @jax.jit
    def estimate(params, state, key):
        """For each action: 0.1 x the mean of what random play pays after it, plus twice how often
        the episode then goes on, over 12 steps."""

        def play(action, key):
            action_key, draw_key = jax.random.split(key)
            actions = jax.random.randint(action_key, (12,), 0, game.NUM_ACTIONS)

            def act(carry, inputs):
                state, alive, total = carry
                state, transition = game.step(params, state, *inputs)
                total += alive * transition.reward
                return (state, alive * transition.discount, total), None

            inputs = actions.at[0].set(action), game.draw(params, draw_key, (12,))
            (_, alive, total), _ = jax.lax.scan(act, (state, 1.0, 0.0), inputs)
            return 0.1 * total + 2 * alive

        keys = jax.random.split(key, 10)
        plays = jax.vmap(jax.vmap(play, (None, 0)), (0, None))
        return jnp.mean(plays(jnp.arange(game.NUM_ACTIONS), keys), axis=1)

    return step, estimate


def wishes(name: str, game) -> np.ndarray:
    """What to add to the estimates: plans over more steps than those see."""
    wish = np.zeros(6)
    if name == "breakout":
        wish[1 + (game.ball_x > game.pos)] = 3.0 * (game.ball_x != game.pos)
    elif name == "freeway":
        wish[1] = 0.3
    elif name == "seaquest":
        x, y, ahead = game.sub_x, game.sub_y, 1 if game.sub_or else -1
        if any(e[1] == y and (e[0] - x) * ahead > 0 for e in game.e_fish + game.e_subs):
            wish[5] += 0.3
        enough = 6 if game.ramp_index else 1
        up = game.diver_count != 0 and (game.diver_count >= enough or game.oxygen < 40)
        goals = [(x, 0)] if up else [diver[:2] for diver in game.divers if 0 < diver[0] < 9]
        if goals:
            column, row = min(goals, key=lambda goal: abs(goal[0] - x) + abs(goal[1] - y))
            wish[3 if column > x else 1] += 0.4 * (column != x)
            wish[4 if row > y else 2] += 0.5 * (row != y)
        if not up and y <= 1:
            wish[[2, 4]] += (-1.0, 0.3)
        if game.e_spawn_speed == 1 and len(game.e_fish + game.e_subs) < 14:
            wish[2] += 9.0  # no enemy comes into the first row
    return wish


class Scene(NamedTuple):
    """How two games begin and go on; what must have happened by then."""

    name: str
    happens: dict[str, float]  # at least
    steps: int = 500
    clever: bool = False
    sticky: float = 0.1
    ramping: bool = True
    ramps: int | None = None  # how often the difficulty rose, in all
    # The original's attributes, and the state's fields
    begin: tuple[dict, dict] = ({}, {})


def compare(scene: Scene) -> collections.Counter:
    """Plays both side by side: what happened."""
    name, steps = scene.name, scene.steps
    game, params = minatar.GAMES[name], minatar.make_params(scene.sticky, scene.ramping)
    rng = np.random.default_rng(0)
    reset_key, draw_key, key = jax.random.split(KEY, 3)
    state = jax.jit(game.reset)(params, reset_key)
    step, estimate = functions(name)
    original = Original(name, jax.device_get(state), scene.sticky, scene.ramping)
    for attribute, value in scene.begin[0].items():
        setattr(original.game, attribute, np.copy(value) if np.ndim(value) else value)
    state = state._replace(
        **{
            field: jnp.asarray(x, getattr(state, field).dtype)
            for field, x in scene.begin[1].items()
        }
    )
    np.testing.assert_array_equal(game.observe(params, state), original.environment.state())
    draws = jax.device_get(game.draw(params, draw_key, (steps,)))
    seen, total, length = collections.Counter(), 0.0, 0
    for t in range(steps):
        random = jax.tree.map(lambda x, t=t: x[t], draws)
        action = int(rng.integers(game.NUM_ACTIONS))
        if scene.clever:
            values = np.asarray(estimate(params, state, jax.random.fold_in(key, t)))
            action = int(np.argmax(values + wishes(name, original.game)[: game.NUM_ACTIONS]))
        state, picture, transition = step(params, state, np.int32(action), random)
        seen["ramps"] = max(seen["ramps"], original.game.difficulty_ramp() or 0)
        reward, ended = original.step(action, random)
        total, length = total + reward, length + 1
        assert tuple(map(float, transition)) == (reward, float(not ended), total), f"step {t}"
        np.testing.assert_array_equal(picture, original.environment.state(), f"step {t}")
        seen["paid"] += reward
        seen["ended"] += ended
        seen["longest"], seen["most"] = max(seen["longest"], length), max(seen["most"], total)
        if name == "seaquest":
            seen["enemies"] = max(seen["enemies"], int(state.enemies.there.sum()))
            seen["extra diver"] += original.game.diver_count < 0
        if ended:
            total, length = 0.0, 0
    return seen


def _plane(*cells):
    plane = np.zeros((10, 10), bool)
    plane[tuple(zip(*cells))] = True
    return plane


LAST_BRICK, TWO_ALIENS = _plane((3, 4)), _plane((3, 5), (3, 6))
LATE_ASTERIX = (
    {"spawn_speed": 2, "move_speed": 2, "ramp_index": 7, "ramp_timer": 5},
    {"spawn_interval": 2, "move_interval": 2, "ramps": 7, "ramp_timer": 5},
)
LATE_SEAQUEST = (
    {
        "e_spawn_speed": 2, "move_speed": 3, "ramp_index": 17, "diver_count": 6, "sub_y": 2,
        "surface": False,
    },
    {
        "spawn_interval": 2, "move_interval": 3, "ramps": 17, "on_board": 6, "row": 2,
        "surfaced": False,
    },
)  # fmt: skip


def _wave(interval: int):
    return (
        {"alien_map": TWO_ALIENS.astype(float), "enemy_move_interval": interval},
        {"aliens": TWO_ALIENS, "move_interval": interval},
    )


SCENES = [
    Scene("asterix", {"ended": 3, "paid": 1}),
    Scene("asterix", {"ended": 3, "paid": 1}, steps=300, sticky=0.5, ramping=False, ramps=0),
    Scene("asterix", {"paid": 3, "longest": 110, "ramps": 1}, clever=True),
    Scene("asterix", {"ended": 1, "paid": 3}, steps=300, clever=True, ramps=8, begin=LATE_ASTERIX),
    Scene("breakout", {"ended": 20, "paid": 5}),
    Scene("breakout", {"ended": 20, "paid": 5}, sticky=0.5, ramping=False, ramps=0),
    Scene(
        "breakout",
        {"most": 10, "longest": 150},
        clever=True,
        begin=({"brick_map": LAST_BRICK.astype(float)}, {"bricks": LAST_BRICK[1:4]}),
    ),
    Scene("freeway", {}),
    Scene(
        "freeway",
        {"paid": 3, "ended": 1},
        clever=True,
        begin=({"terminate_timer": 300}, {"steps": 2200}),
    ),
    Scene("seaquest", {"ended": 5, "paid": 1}),
    Scene("seaquest", {"ended": 5}, sticky=0.5, ramping=False, ramps=0),
    Scene("seaquest", {"ramps": 2, "paid": 10}, clever=True),
    Scene(
        "seaquest",
        {"enemies": 14, "extra diver": 30, "paid": 12},
        steps=300,
        clever=True,
        ramps=18,
        begin=LATE_SEAQUEST,
    ),
    Scene("space_invaders", {"ended": 3, "paid": 10}),
    Scene("space_invaders", {"ended": 3, "paid": 10}, sticky=0.5, ramping=False, ramps=0),
    Scene("space_invaders", {"ramps": 1, "paid": 27}, clever=True, begin=_wave(7)),
    Scene(
        "space_invaders",
        {"paid": 4},
        steps=200,
        clever=True,
        ramping=False,
        ramps=0,
        begin=_wave(12),
    ),
    Scene("space_invaders", {"paid": 4}, steps=200, clever=True, ramps=0, begin=_wave(6)),
]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_every_step_is_the_originals(scene):
    seen = compare(scene)
    assert {key: seen[key] for key, least in scene.happens.items() if seen[key] < least} == {}
    assert seen["ramps"] == scene.ramps or scene.ramps is None


@pytest.mark.parametrize("name", minatar.GAMES)
def test_draws_are_uniform_and_independent(name):
    """Also of one step's other draws, and of the next step's."""
    drawn = minatar.GAMES[name].draw(minatar.make_params(), KEY, (100, 200))
    columns = [np.reshape(x, (20_000, -1)) for x in drawn]
    columns = np.concatenate([*columns, *(np.roll(x, 1, axis=0) for x in columns)], axis=1)
    assert columns.min() >= 0 and columns.max() < 1
    assert np.all(np.abs(columns.mean(0) - 0.5) < 5 * np.sqrt(1 / 12 / 20_000))
    correlations = np.corrcoef(columns, rowvar=False) - np.eye(columns.shape[1])
    assert np.all(np.abs(correlations) < 5 / np.sqrt(20_000))
    for column in columns.T:
        tenths = np.bincount((10 * column).astype(int), minlength=10)
        assert np.all(np.abs(tenths - 2_000) < 5 * np.sqrt(20_000 * 0.1 * 0.9))


def test_integers_of_draws_are_alike_often():
    draws = jnp.arange(0.0005, 1, 0.001)
    for below in range(1, 11):
        counts = np.bincount(common.integer(draws, below), minlength=below)
        assert len(counts) == below and np.ptp(counts) <= 1
    below_one = np.nextafter(np.float32(1), np.float32(0))
    assert int(common.integer(below_one, 7)) == 6
    velocities = np.asarray(freeway._velocities(draws))
    assert np.unique(velocities).tolist() == [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]
    assert set(np.bincount(velocities + 5)) == {0, 100}
