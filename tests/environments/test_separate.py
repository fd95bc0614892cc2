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

    def leaves():
        sys.exit(3)

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
        ("mine:leaves", leaves, "mine:leaves cannot be made: SystemExit: 3"),
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
    with pytest.raises(ValueError, match=r"observes uint8\[2, 4\], and declared uint8\[2, 3, 1\]"):
        vector.step(np.array([0]))


class Numbers(gymnasium.Env):
    """Observes and pays what it is given; its episodes have 4 steps."""

    def __init__(self, declared, observed, reward=1.0):
        self.observation_space = gymnasium.spaces.Box(0, 255, np.shape(declared), declared.dtype)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.observed, self.reward = observed, reward

    def reset(self, seed=None, options=None):
        self.left = 4
        return self.observed, {}

    def step(self, action):
        self.left -= 1
        return self.observed, self.reward, self.left == 0, False, {}


FLOATS = np.array([0.5, 0.25], np.float32)
IMAGE = np.arange(6, dtype=np.uint8).reshape(2, 3)


@pytest.mark.parametrize(
    "declared, observed, shape",
    [
        (FLOATS, FLOATS.astype(np.float64), (2,)),
        (FLOATS, [0.5, 0.25], (2,)),
        (FLOATS, np.array([True, False]), (2,)),
        (FLOATS, np.array([3, 4]), (2,)),
        (IMAGE, IMAGE, (2, 3, 1)),
        (IMAGE, IMAGE[..., None], (2, 3, 1)),
        (IMAGE[..., None], IMAGE, (2, 3, 1)),
    ],
)
def test_frames_are_of_the_declared_type(mine, declared, observed, shape):
    mine.make = lambda: Numbers(declared, observed)
    vector = make("mine:make", 2)
    assert vector.spec == factory.make_spec("mine:make", CONFIG)
    for step in (vector.reset(), *(vector.step(np.array([0, 1])) for _ in range(5))):
        assert step.frame.dtype == declared.dtype and step.frame.shape == (2, *shape)
        np.testing.assert_array_equal(step.frame[1].ravel(), np.ravel(observed))


@pytest.mark.parametrize(
    "declared, observed, words",
    [
        (IMAGE, IMAGE / 6.0, r"float64\[2, 3\], and declared uint8\[2, 3, 1\]"),
        (IMAGE, IMAGE.astype(int), r"int64\[2, 3\], and declared uint8"),
        (IMAGE, IMAGE.T, r"uint8\[3, 2\], and declared uint8\[2, 3, 1\]"),
        (IMAGE, IMAGE.ravel(), r"uint8\[6\], and"),
        (FLOATS, FLOATS[None], r"float32\[1, 2\], and declared float32\[2\]"),
        (FLOATS, FLOATS * 1j, r"complex64\[2\]"),
        (FLOATS, [1.0, "2"], "<U"),
        (FLOATS, [[1.0], [2.0, 3.0]], r"object\[\]"),
        (FLOATS, [0.0, np.nan], "NaN or infinity"),
        (FLOATS, [0.0, 1e300], "NaN or infinity"),
    ],
)
def test_other_observations_than_declared_are_refused(mine, declared, observed, words):
    own = Numbers(declared, declared)
    mine.make = lambda: own
    vector = make("mine:make", 1)
    vector.reset()
    vector.step(np.array([0]))
    own.observed = observed
    for call in (
        lambda: vector.step(np.array([0])),
        vector.reset,
        lambda: factory.make_spec("mine:make", CONFIG),
    ):
        with pytest.raises(ValueError, match="mine:make observes .*" + words) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "reward, words",
    [
        (np.nan, "reward nan; allowed are finite numbers"),
        (-np.inf, "reward -inf"),
        (1e39, r"reward 1e\+39"),  # infinite as a 32-bit float
        (None, "reward None; allowed is one number"),
        ("1", "reward '1'; allowed is one number"),
        (np.ones(2), r"reward float64\[2\]"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_rewards_that_are_no_finite_numbers_are_refused(mine, reward, words, several):
    def one():
        return Numbers(FLOATS, FLOATS, reward)

    class Vector:
        spec, num_envs = base.EnvironmentSpec((2,), 2, dtype="float32"), 1

        def reset(self):
            return base.first_step(FLOATS[None])

        def step(self, actions):
            given = reward if np.ndim(reward) else [reward]
            return base.first_step(FLOATS[None])._replace(reward=given)

        def close(self):
            pass

    mine.make = (lambda num_envs, seeds: Vector()) if several else one
    vector = make("mine:make", 1)
    vector.reset()
    for call in (
        lambda: vector.step(np.array([0])),
        lambda: factory.make_spec("mine:make", CONFIG),
    ):
        with pytest.raises(ValueError, match="mine:make gives the reward"):
            call()
        if not several:
            with pytest.raises(ValueError, match=words):
                call()


def test_rewards_of_any_numbers_are_added_up(mine):
    for reward in (2, np.float32(2), np.array([2.0]), np.int64(2)):
        mine.make = lambda reward=reward: Numbers(FLOATS, FLOATS, reward)
        vector = make("mine:make", 1)
        vector.reset()
        steps = [vector.step(np.array([1])) for _ in range(4)]
        assert [float(x.reward[0]) for x in steps] == [2.0] * 4
        assert steps[-1].episode_return == 8.0


def failing(method, error):
    """A Gymnasium environment, one of a vector, that fails there."""

    def fails(*_, **__):
        raise error

    found = Numbers(FLOATS, FLOATS)
    setattr(found, method, fails)
    return found


@pytest.mark.parametrize("method", ["reset", "step", "close"])
@pytest.mark.parametrize("error", [TypeError("no\nseed"), SystemExit(3)])
def test_an_environment_that_fails_is_named_before_a_run(mine, method, error):
    mine.one = lambda: failing(method, error)

    class Vector(SeparateEnvironments):
        def __init__(self, seeds):
            super().__init__([wrap(Numbers(FLOATS, FLOATS), "mine") for _ in seeds], seeds)
            setattr(self, method, getattr(failing(method, error), method))

    mine.several = lambda num_envs, seeds: Vector(seeds)
    told = "SystemExit: 3" if isinstance(error, SystemExit) else "TypeError: no seed"
    for name in ("mine:one", "mine:several"):
        with pytest.raises(ValueError) as caught:
            factory.make_spec(name, CONFIG)
        message, _, place = str(caught.value).rpartition(" (")
        assert message == f"{name} fails in {method}: {told}"
        assert "test_separate.py:" in place
    mine.one = lambda: failing(method, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        factory.make_spec("mine:one", CONFIG)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"frame": np.zeros((2, 3), np.float32)}, r"observes float32\[2, 3\].*float32\[2, 2\]"),
        ({"frame": np.zeros((2, 2), complex)}, r"observes complex128\[2, 2\]"),
        ({"frame": np.full((2, 2), np.nan)}, "observes NaN"),
        ({"reward": np.zeros(3)}, r"reward float64\[3\]; allowed is numbers \[2\]"),
        ({"reward": np.array([0.0, np.inf])}, "reward inf"),
        ({"discount": np.zeros((2, 1))}, r"discount of shape \[2, 1\]; allowed is \[2\]"),
        ({"first": True}, r"first of shape \[\]"),
        ({"reset": np.zeros(1, bool)}, r"reset of shape \[1\]"),
        (None, "gives a tuple for a step; give a bmg.environments.base.Step"),
    ],
)
def test_steps_of_a_users_vector_are_checked(mine, changes, words):
    class Vector:
        spec, num_envs = base.EnvironmentSpec((2,), 2, dtype="float32"), 2
        close = staticmethod(lambda: None)

        def reset(self):
            return base.first_step(np.zeros((2, 2)))

        def step(self, actions):
            return tuple(self.reset()) if changes is None else self.reset()._replace(**changes)

    mine.make = lambda num_envs, seeds: Vector()
    vector = make("mine:make", 2)
    assert vector.reset().frame.dtype == np.float32
    with pytest.raises(ValueError, match="mine:make .*" + words):
        vector.step(np.array([0, 1]))
    with pytest.raises(ValueError, match="allowed are 0 to 1"):
        vector.step(np.array([0, 2]))
