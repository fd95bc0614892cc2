"""The vector of emulators against one plain emulator each, stepped frame by frame in Python."""

from __future__ import annotations

import dataclasses

import ale_py
import numpy as np
import psutil
import pytest

from bmg.environments import atari, base
from tests.waiting import eventually

SEEDS = np.array([11, 12], np.int32)


def area_weights(small: int, large: int) -> np.ndarray:
    """[small, large]: the share of each large pixel in each small one."""
    scale = large / small
    weights = np.zeros((small, large))
    for i in range(small):
        for j in range(large):
            overlap = min((i + 1) * scale, j + 1) - max(i * scale, j)
            weights[i, j] = max(overlap, 0) / scale
    return weights


class SlowAtari:
    """One emulator without no-ops, by the protocol's words: see BMG Table 2."""

    def __init__(self, game: str, seed: int, config: atari.AtariConfig):
        assert config.noop_max == 0  # the number of no-ops is drawn inside the vector
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.config = config
        self.ale = ale_py.ALEInterface()
        self.ale.setInt("random_seed", int(seed))
        self.ale.setFloat("repeat_action_probability", config.sticky_actions)
        self.ale.loadROM(ale_py.roms.get_rom_path(game))
        self.actions = self.ale.getMinimalActionSet()
        self.rows = area_weights(config.height, 210)
        self.columns = area_weights(config.width, 160)
        self.begin()

    def begin(self) -> None:
        self.ale.reset_game()
        self.frames_played, self.episode_return = 0, 0
        self.screens = [self.screen()]

    def screen(self) -> np.ndarray:
        return self.ale.getScreenGrayscale() if self.config.grayscale else self.ale.getScreenRGB()

    def frame(self) -> np.ndarray:
        screen = self.screens[-1]
        if self.config.max_pool:
            screen = np.maximum.reduce(self.screens)
        if screen.shape[:2] == (self.config.height, self.config.width):
            return screen.reshape(*screen.shape[:2], -1)
        channels = np.moveaxis(screen.reshape(210, 160, -1), -1, 0).astype(float)
        return np.moveaxis(self.rows @ channels @ self.columns.T, 0, -1)

    def step(self, action: int) -> tuple[float, float, bool, float]:
        """Reward, discount, whether the episode ended, and its return if so."""
        reward, lives = 0, self.ale.lives()
        for _ in range(self.config.action_repeat):
            reward += self.ale.act(self.actions[action])
            self.frames_played += 1
            self.screens = [self.screens[-1], self.screen()]
            end = self.ale.game_over() or self.frames_played == self.config.max_episode_frames
            if end:
                break
        self.episode_return += reward
        lost = self.ale.lives() < lives and self.config.zero_discount_on_life_loss
        result = reward, 0.0 if end or lost else 1.0, end, self.episode_return if end else np.nan
        if end:
            self.begin()
        return result


def assert_same_frames(frames: np.ndarray, games: list[SlowAtari]) -> None:
    expected = np.stack([game.frame() for game in games])
    if frames.shape[1:3] == (210, 160):
        np.testing.assert_array_equal(frames, expected)
    else:  # the emulator's resize rounds in single precision
        np.testing.assert_allclose(frames, expected, atol=0.51)


PAPER = dataclasses.replace(atari.PAPER, noop_max=0)
LIGHT = dataclasses.replace(atari.LIGHT, noop_max=0)


@pytest.mark.parametrize(
    "game, config, steps, least",
    [
        # least: episode ends, losses of a life within an episode, rewards above 1 that must occur
        ("breakout", PAPER, 500, (2, 8, 0)),
        ("breakout", LIGHT, 500, (2, 8, 0)),
        ("space_invaders", LIGHT, 500, (1, 3, 10)),  # its shots flicker
        ("ms_pacman", dataclasses.replace(PAPER, max_pool=True), 300, (0, 2, 20)),
        # No lives are reported; its limit of frames is not a multiple of the action repeat.
        ("pong", dataclasses.replace(LIGHT, max_episode_frames=502), 300, (4, 0, 0)),
        # The limit comes before the last life, on a loss or not.
        ("breakout", dataclasses.replace(LIGHT, max_episode_frames=200), 300, (10, 2, 0)),
        ("breakout", dataclasses.replace(LIGHT, sticky_actions=0.25), 300, (1, 4, 0)),
        ("breakout", dataclasses.replace(LIGHT, zero_discount_on_life_loss=False), 300, (1, 0, 0)),
        ("pong", dataclasses.replace(LIGHT, action_repeat=1, max_pool=False), 200, (0, 0, 0)),
    ],
)
def test_every_step_is_that_of_a_plain_emulator(game, config, steps, least):
    environment = atari.Atari(game, len(SEEDS), SEEDS, config, num_threads=1)
    games = [SlowAtari(game, seed, config) for seed in SEEDS]
    step = environment.reset()
    assert_same_frames(step.frame, games)
    random = np.random.default_rng(0)
    seen = np.zeros(3, int)
    for _ in range(steps):
        actions = random.integers(environment.spec.num_actions, size=len(SEEDS))
        step = environment.step(actions)
        expected = [slow.step(action) for slow, action in zip(games, actions)]
        reward, discount, end, episode_return = (np.array(x) for x in zip(*expected))
        np.testing.assert_array_equal(step.reward, reward)
        np.testing.assert_array_equal(step.discount, discount)
        np.testing.assert_array_equal(step.first, end)
        np.testing.assert_array_equal(step.episode_return, episode_return)
        assert_same_frames(step.frame, games)
        seen += [end.sum(), ((discount == 0) & ~end).sum(), (reward > 1).sum()]
    environment.close()
    assert (seen >= least).all(), f"the game was too quiet to test anything: {seen}"


@pytest.mark.parametrize(
    "config, shape", [(atari.PAPER, (3, 210, 160, 3)), (atari.LIGHT, (3, 84, 84, 1))]
)
def test_types_shapes_and_the_first_step(config, shape):
    environment = atari.Atari("pong", 3, 0, config, num_threads=1)
    assert environment.spec == base.EnvironmentSpec(shape[1:], 6, 4, 4)
    first = environment.reset()
    assert first.first.all() and (first.discount == 1).all() and (first.reward == 0).all()
    assert np.isnan(first.episode_return).all()
    kept = first.frame.copy()
    for step in (first, environment.step(np.full(3, 2)), environment.step(np.full(3, 2))):
        assert step.frame.shape == shape
        assert [x.dtype for x in step[:5]] == [np.uint8, np.float32, np.float32, bool, np.float32]
        assert all(x.shape == (3,) for x in step[1:5])
    np.testing.assert_array_equal(first.frame, kept)  # later steps do not write into earlier ones
    environment.close()


class Tape:
    """Stands for the emulators: plays back what was recorded."""

    def __init__(self, reset_lives, events):
        self.lives, self.events = reset_lives, iter(events)

    def reset(self, seed):
        return np.zeros((1, 1, 84, 84), np.uint8), {"lives": np.array([self.lives], np.int32)}

    def step(self, actions):
        lives, reward, terminated, truncated = next(self.events)
        arrays = (np.array([x]) for x in (reward, terminated, truncated))
        return np.zeros((1, 1, 84, 84), np.uint8), *arrays, {"lives": np.array([lives], np.int32)}


@pytest.mark.parametrize("on_life_loss", [True, False])
def test_lives_and_returns_as_data(on_life_loss):
    nan, lost = np.nan, 0.0 if on_life_loss else 1.0
    tape = [
        # lives, reward, terminated, truncated -> discount, first, episode_return
        ((3, 10, False, False), (1.0, False, nan)),
        ((2, 0, False, False), (lost, False, nan)),  # a life lost
        ((3, 5, False, False), (1.0, False, nan)),  # a life won
        ((1, 0, False, False), (lost, False, nan)),  # two lives lost at once
        ((3, 7, True, False), (0.0, True, 22.0)),  # game over: the lives are the next episode's
        ((3, 1, False, False), (1.0, False, nan)),
        ((2, 1, False, True), (0.0, True, 2.0)),  # the limit; the next has fewer lives
        ((2, 4, False, False), (1.0, False, nan)),
        ((0, 0, False, False), (lost, False, nan)),  # none left, and the game goes on for a moment
        ((0, -1, False, False), (1.0, False, nan)),
        ((3, 0, True, False), (0.0, True, 3.0)),
        ((3, 0, True, False), (0.0, True, 0.0)),  # an episode of one step
    ]
    config = dataclasses.replace(atari.LIGHT, zero_discount_on_life_loss=on_life_loss)
    environment = atari.Atari("breakout", 1, 0, config, num_threads=1)
    environment._env = Tape(3, [event for event, _ in tape])
    environment.reset()
    for event, (discount, first, episode_return) in tape:
        step = environment.step(np.zeros(1, int))
        assert step.reward[0] == event[1]
        assert step.discount[0] == discount, event
        assert step.first[0] == first
        np.testing.assert_equal(step.episode_return[0], np.float32(episode_return))


def noops_seen(config, resets):
    """The numbers of no-ops before the first frames, as a plain emulator counts them.

    Freeway shows another screen after each of the first 30 no-ops.
    """
    slow = SlowAtari("freeway", 0, PAPER)
    screens = {slow.screen().tobytes(): 0}
    for count in range(1, 31):
        slow.ale.act(ale_py.Action.NOOP)
        screens[slow.screen().tobytes()] = count
    assert len(screens) == 31

    # Every episode ends after one step, so every step begins one.
    config = dataclasses.replace(config, max_episode_frames=4)
    environment = atari.Atari("freeway", 8, 0, config, num_threads=1)
    frames = [environment.reset().frame]
    for _ in range(resets - 1):
        step = environment.step(np.zeros(8, int))
        assert step.first.all() and (step.discount == 0).all()
        frames.append(step.frame)
    environment.close()
    return [screens[frame.tobytes()] for frame in np.concatenate(frames)]


@pytest.mark.long
def test_noops_are_uniform_up_to_the_maximum_at_every_start():
    counts = np.bincount(noops_seen(atari.PAPER, resets=35), minlength=31)
    assert len(counts) == 31 and counts.sum() == 280
    assert counts.min() > 0  # missing one by chance: 31 * (30/31)^280 = 0.3 %; seeds are fixed
    assert set(noops_seen(dataclasses.replace(atari.PAPER, noop_max=2), resets=8)) == {0, 1, 2}
    assert set(noops_seen(PAPER, resets=4)) == {0}


def play(seeds, num_threads=1, steps=60, resets=1):
    """Every array of `steps` steps of Ms. Pac-Man under the same actions."""
    environment = atari.Atari("ms_pacman", len(seeds), seeds, atari.LIGHT, num_threads)
    random = np.random.default_rng(0)
    for _ in range(resets):
        shown = [environment.reset()]
    shown += [environment.step(random.integers(9, size=len(seeds))) for _ in range(steps)]
    environment.close()
    return [np.stack(x) for x in zip(*shown)]


@pytest.mark.long
def test_seeds_replay_exactly_and_workers_differ():
    one = play(base.spaced_seeds(3, 0, 4))
    for num_threads in (1, 2):
        for x, y in zip(one, play(base.spaced_seeds(3, 0, 4), num_threads)):
            np.testing.assert_array_equal(x, y)
    assert (one[0] != play(base.spaced_seeds(3, 1, 4))[0]).any()
    assert (one[0] != play(base.spaced_seeds(4, 0, 4))[0]).any()
    # A second reset goes on with the random numbers, so that it is not the same episodes again.
    assert (one[0] != play(base.spaced_seeds(3, 0, 4), resets=2)[0]).any()


def test_reset_in_mid_episode_begins_a_new_return():
    # The first points of this game come after some 70 steps; its limit is at 100.
    config = dataclasses.replace(LIGHT, max_episode_frames=400)
    environment = atari.Atari("ms_pacman", 1, np.array([5]), config, num_threads=1)
    left = np.array([3])
    environment.reset()
    before = sum(environment.step(left).reward[0] for _ in range(99))
    environment.reset()
    steps = [environment.step(left) for _ in range(100)]
    after = sum(step.reward[0] for step in steps)
    assert before > 0 and after > 0
    assert [bool(step.first[0]) for step in steps] == [False] * 99 + [True]
    assert steps[-1].episode_return[0] == after
    environment.close()


def test_wrong_actions_are_refused_and_do_no_harm():
    environment = atari.Atari("breakout", 2, 0, atari.LIGHT, num_threads=1)
    with pytest.raises(RuntimeError, match="reset"):
        environment.step(np.zeros(2, int))
    environment.reset()
    for actions in ([0, 4], [-1, 0], [0], [0.0, 1.0]):
        with pytest.raises(ValueError, match="allowed are"):
            environment.step(np.array(actions))
    assert environment.step(np.array([3, 0])).frame.shape == (2, 84, 84, 1)
    environment.close()


def test_close_ends_the_threads():
    threads = psutil.Process().num_threads
    before = threads()
    environment = atari.Atari("pong", 2, 0, atari.LIGHT, num_threads=2)
    environment.reset()
    assert threads() > before
    environment.close()
    environment.close()
    eventually(lambda: threads() == before)  # one that has been joined is counted for a moment


@pytest.mark.parametrize("seeds", [[1, 2, 3], [4, 4], [-1, 0]])
def test_refuses_wrong_seeds(seeds):
    with pytest.raises(ValueError, match="2 different integers"):
        atari.Atari("pong", 2, np.array(seeds), atari.LIGHT, num_threads=1)


def test_presets_are_the_papers():
    assert atari.PAPER == atari.AtariConfig()
    assert atari.frame_shape(atari.PAPER) == (210, 160, 3) and not atari.PAPER.max_pool
    assert atari.frame_shape(atari.LIGHT) == (84, 84, 1) and atari.LIGHT.max_pool
    for config in (atari.PAPER, atari.LIGHT):
        assert (config.action_repeat, config.num_stack, config.noop_max) == (4, 4, 30)
        assert (config.sticky_actions, config.max_episode_frames) == (0.0, 108_000)
        assert config.zero_discount_on_life_loss and not config.full_action_space


def test_catch_is_not_an_atari_game():
    with pytest.raises(ValueError, match="no Atari game"):
        atari.Atari("catch", 1, 0, atari.LIGHT)
