"""What a person sees is of the same episode that the agent plays, or is not shown."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest

from bmg.environments import atari, factory
from bmg.environments.screens import make_screen

STEPS = 150


def followed(game, config=atari.LIGHT, options="", seed=3, steps=STEPS):
    """A screen that followed random actions, and the frames that an agent saw meanwhile."""
    agents = factory.make(game, 1, seed, 1, config, 1, options=options)
    screen = make_screen(game, seed, 1, config, options)
    step = agents.reset()
    screen.reset()
    frames, rng = [step.frame[0].copy()], np.random.default_rng(0)
    for _ in range(steps):
        actions = rng.integers(0, agents.spec.num_actions, 1)
        step = agents.step(actions)
        screen.follow(actions, step)
        frames.append(step.frame[0].copy())
    agents.close()
    screen.close()
    return screen, frames


def shrunk(picture):
    """Luminance, 84 x 84, each cell a mean over its area: [210, 160, 3] -> [84, 84]."""
    grey = picture @ np.array([0.299, 0.587, 0.114])
    fine = np.repeat(np.repeat(grey, 2, axis=0), 21, axis=1)  # [84 * 5, 84 * 40]
    return fine.reshape(84, 5, 84, 40).mean((1, 3))


@pytest.mark.parametrize("game, sticky", [("pong", 0.0), ("breakout", 0.25)])
def test_ataris_whole_screen_is_of_the_same_moment(game, sticky):
    """Made small and grey it is what the agent sees, also after drawn no-ops and repeats."""
    # A maximum over two frames is another one in colour.
    config = dataclasses.replace(atari.LIGHT, sticky_actions=sticky, max_pool=False)
    screen, frames = followed(game, config)
    assert screen.alike and len(screen.pictures) == len(frames) == STEPS + 1
    assert screen.pictures[0].shape == (210, 160, 3)
    assert len({frame.tobytes() for frame in frames}) > STEPS / 2
    for picture, frame in zip(screen.pictures, frames):
        np.testing.assert_allclose(shrunk(picture), frame[..., 0], atol=2.0)


def test_nothing_more_is_to_be_seen():
    assert make_screen("pong", 0, 1, atari.PAPER, "") is None
    assert make_screen("catch", 0, 1, atari.PAPER, "") is None
    assert make_screen("minatar/breakout", 0, 1, atari.PAPER, "") is None


class Walk(gymnasium.Env):
    """One number; the picture's colour is that number."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(0, 255, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None, trouble=""):
        self.render_mode, self._trouble = render_mode, trouble
        self._rng = np.random.default_rng(id(self))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._at = int(self.np_random.integers(0, 200))
        return np.array([self._at], np.float32), {}

    def step(self, action):
        self._at = (self._at + 1 + int(action)) % 256
        reward = self._rng.normal() if self._trouble == "unseeded" else 1.0
        return np.array([self._at], np.float32), reward, False, False, {}

    def render(self):
        if self._trouble == "no library":
            raise gymnasium.error.DependencyNotInstalled("pygame is not installed")
        shape = (4, 4) if self._trouble == "grey" else (4, 4, 3)
        return np.full(shape, self._at, np.uint8)


def make_walk(render_mode=None, trouble=""):
    return Walk(render_mode, trouble)


def make_blind(trouble=""):
    return Walk(None, trouble)


def make_many(num_envs, seeds, render_mode=None):
    raise AssertionError("a vector is not drawn")


HERE = "tests.environments.test_screens:"


def test_an_environment_of_ones_own_that_renders():
    screen, frames = followed(HERE + "make_walk")
    assert screen.alike
    for picture, frame in zip(screen.pictures, frames):
        assert picture.shape == (4, 4, 3) and np.all(picture == frame)


def test_a_registered_environment_that_renders():
    gymnasium.register("Walk-v0", entry_point=Walk)
    screen, frames = followed("gymnasium:Walk-v0")
    assert screen.alike and np.all(screen.pictures[-1] == frames[-1])


@pytest.mark.parametrize("trouble", ["unseeded", "no library", "grey"])
def test_a_screen_of_another_episode_is_not_shown(trouble):
    screen, _ = followed(HERE + "make_walk", options=f'{{"trouble": "{trouble}"}}', steps=3)
    assert not screen.alike


def test_environments_that_are_not_asked_to_render():
    for name in ("make_blind", "make_many"):
        assert make_screen(HERE + name, 0, 1, atari.PAPER, "") is None
    assert make_screen(HERE + "make_walk", 0, 1, atari.PAPER, '{"no": 1}') is None
