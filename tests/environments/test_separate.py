"""Gymnasium's and dm_env's environments as a vector, against the environments themselves."""

from __future__ import annotations

import sys
import types

import dm_env
import gymnasium
import numpy as np
import pytest
from dm_env import specs

from bmg.environments import atari, base, factory
from bmg.environments.separate import SeparateEnvironments, wrap

CONFIG = atari.LIGHT
CARTPOLE = "gymnasium:CartPole-v1"


@pytest.fixture
def mine(monkeypatch):
    """A module of the user's; functions are put into it."""
    module = types.ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def make(game, num_envs=3, seed=0, worker=0, options="", first=0):
    return factory.make(game, num_envs, seed, worker, CONFIG, 1, first, options)


@pytest.mark.parametrize("limit", [4, 15])
def test_cartpole_is_gymnasiums_with_a_reset_step_after_each_time_limit(limit):
    """Each environment beside a copy of its own. With 15 steps some episodes end before."""
    num_envs, steps = 3, 60
    vector = make(CARTPOLE, num_envs, 3, 2, f'{{"max_episode_steps": {limit}}}')
    seeds = base.spaced_seeds(3, 2, num_envs)
    copies = [gymnasium.make("CartPole-v1", max_episode_steps=limit) for _ in seeds]
    assert vector.spec == base.EnvironmentSpec((4,), 2, 1, 1, "float32")
    found = vector.reset()
    for n, copy in enumerate(copies):
        np.testing.assert_array_equal(found.frame[n], copy.reset(seed=int(seeds[n]))[0])
    assert found.frame.dtype == np.float32 and found.first.all()
    rng = np.random.default_rng(0)
    returns, cut, kinds = np.zeros(num_envs), np.zeros(num_envs, bool), set()
    for _ in range(steps):
        actions = rng.integers(2, size=num_envs)
        step = vector.step(actions)
        for n, copy in enumerate(copies):
            own = [x[n] for x in step[1:]]
            if cut[n]:
                frame, cut[n] = copy.reset()[0], False
                expected = [0.0, 0.0, True, returns[n], True]
                returns[n] = 0
                kinds.add("reset")
            else:
                frame, reward, terminated, truncated, _ = copy.step(actions[n])
                returns[n] += reward
                expected = [reward, 1.0, False, np.nan, False]
                cut[n] = truncated and not terminated
                if terminated:
                    frame = copy.reset()[0]
                    expected = [reward, 0.0, True, returns[n], False]
                    returns[n] = 0
                    kinds.add("end")
            np.testing.assert_array_equal(step.frame[n], frame)
            np.testing.assert_array_equal(own, expected)
    assert "reset" in kinds and ("end" in kinds) == (limit == 15)
    vector.close()


class Counter(dm_env.Environment):
    """Counts to 3; its end is a time limit (discount 1) where the last action was 1."""

    def reset(self):
        self.at = 0
        return dm_env.restart(self.observe())

    def step(self, action):
        self.at += 1
        if self.at == 3:
            end = dm_env.truncation if action else dm_env.termination
            return end(2.0, self.observe())
        return dm_env.transition(1.0, self.observe())

    def observe(self):
        return np.full((2, 3), self.at, np.uint8)

    def action_spec(self):
        return specs.DiscreteArray(2)

    def observation_spec(self):
        return specs.Array((2, 3), np.uint8)


def test_dm_env(mine):
    mine.make = Counter
    vector = make("mine:make", 2)
    assert vector.spec == base.EnvironmentSpec((2, 3, 1), 2, 1, 1, "uint8")
    vector.reset()
    rows = [vector.step(np.array([0, 1])) for _ in range(6)]
    frames = np.stack([row.frame[:, 0, 0, 0] for row in rows], axis=1)
    np.testing.assert_array_equal(frames, [[1, 2, 0, 1, 2, 0], [1, 2, 3, 0, 1, 2]])
    for name, expected in {
        "reward": [[1, 1, 2, 1, 1, 2], [1, 1, 2, 0, 1, 1]],
        "discount": [[1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 1, 1]],
        "first": [[0, 0, 1, 0, 0, 1], [0, 0, 0, 1, 0, 0]],
        "reset": [[0] * 6, [0, 0, 0, 1, 0, 0]],
        "episode_return": [[np.nan] * 2 + [4] + [np.nan] * 2 + [4],
                           [np.nan] * 3 + [4] + [np.nan] * 2],
    }.items():  # fmt: skip
        found = np.stack([getattr(row, name) for row in rows], axis=1)
        np.testing.assert_array_equal(found, np.array(expected, float), err_msg=name)


def test_seeds_and_options_reach_functions(mine):
    given = []

    def one(seed, size=9):
        given.append((seed, size))
        return Counter()

    def several(num_envs, seeds, size=9):
        given.append((num_envs, list(seeds), size))
        return SeparateEnvironments([wrap(Counter(), "mine") for _ in seeds], seeds)

    mine.one, mine.several = one, several
    seeds = base.spaced_seeds(5, 1, 3).tolist()
    make("mine:one", 2, 5, 1, '{"size": 4}', first=1)
    assert given == [(seeds[1], 4), (seeds[2], 4)]
    given.clear()
    assert make("mine:several", 3, 5, 1).spec.num_actions == 2
    assert given == [(3, seeds, 9)]


def space(observation=None, action=None):
    """A Gymnasium environment of these spaces."""
    made = gymnasium.Env()
    made.observation_space = observation or gymnasium.spaces.Box(-1, 1, (3,))
    made.action_space = action or gymnasium.spaces.Discrete(2)
    return made


def test_what_does_not_fit_is_refused_in_one_line(mine):
    spaces = gymnasium.spaces

    def raises():
        raise KeyError("no\nmap")

    def changing():
        found = Counter()
        found.observe = lambda: np.zeros((2, 3 + found.at), np.uint8)
        return found

    def wrong_vector(num_envs, seeds):
        return SeparateEnvironments([wrap(Counter(), "mine")], seeds)

    mine.value = 3
    for name, function, words in (
        ("gymnasium:CartPol-v1", None, "cannot be made: .*Did you mean: `CartPole`"),
        ("mine:value", None, "is a int; give a function"),
        ("nowhere:make", None, "cannot be imported"),
        ("mine:raises", raises, "mine:raises cannot be made: KeyError: 'no.*map'"),
        ("mine:number", lambda: 3, "gives a int"),
        ("mine:wrong_vector", wrong_vector, "a vector of as many environments"),
        ("mine:continuous", lambda: space(action=spaces.Box(-1, 1, (2,))), "actions Box.*discrete"),
        ("mine:several", lambda: space(action=spaces.MultiDiscrete([2, 3])), "actions MultiDiscr"),
        ("mine:dict", lambda: space(spaces.Dict(a=spaces.Discrete(2))), "observations Dict"),
        ("mine:state", lambda: space(spaces.Discrete(5)), "observations Discrete"),
        ("mine:scalar", lambda: space(spaces.Box(0, 1, ())), r"observations float32\[\]"),
        ("mine:video", lambda: space(spaces.Box(0, 1, (2, 3, 4, 5))), "allowed is one array"),
    ):  # fmt: skip
        if function is not None:
            setattr(mine, name.partition(":")[2], function)
        for call in (
            lambda: make(name, 2),
            lambda: factory.make_spec(name, CONFIG),
        ):
            if name == "mine:wrong_vector" and call.__code__.co_names[0] != "make":
                continue  # one environment is what it gives
            with pytest.raises(ValueError, match=words) as error:
                call()
            assert "\n" not in str(error.value), name
    mine.changing = changing
    vector = make("mine:changing", 1)
    vector.reset()
    with pytest.raises(ValueError, match=r"observes uint8\[2, 4\], and said uint8\[2, 3, 1\]"):
        vector.step(np.array([0]))
