"""Atari games: a vector of emulators in C++ threads (ale-py's `AtariVectorEnv`), as in BMG.

What this file adds to `AtariVectorEnv`: a discount of 0 at a loss of life without a reset, returns
of episodes, seeds, and a check of actions, since an unknown one would make it wait for ever.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bmg.environments import base, scores
from bmg.storage.fields import Count, Depth, Few, Pixels, Share, check_fields


@dataclasses.dataclass(frozen=True)
class AtariConfig:
    """How the games are played and rendered. Defaults are BMG Table 2 unless a field says so."""

    height: Pixels = 210
    """Rows of a frame, pixels. Table 2 prints (H, W, D) as 160, 210, 3 with H and W swapped: the
    screen has 210 rows of 160 pixels."""
    width: Pixels = 160
    """Columns of a frame, pixels. Table 2; see height."""
    grayscale: bool = False
    """One channel of luminance in place of RGB. Table 2 (none)."""
    max_pool: bool = False
    """Maximum over the last two frames of an action repeat (against flicker), else the last frame
    alone. Table 2 (none)."""
    action_repeat: Depth = 4
    """Environment frames per agent step; rewards are summed over them. Table 2."""
    num_stack: Depth = 4
    """Frames that the policy sees at once; they are stacked by the agent, not here. Table 2."""
    noop_max: Few = 30
    """No-op frames at the start of an episode, uniform in 0 ... noop_max. Table 2 says 30; IMPALA
    draws from 1 ... 30, while the emulator's draw always includes 0."""
    sticky_actions: Share = 0.0
    """Probability, per frame, that the emulator repeats its previous action. Table 2 (none)."""
    full_action_space: bool = False
    """All 18 actions in place of the game's minimal set. IMPALA Table G.1 (minimal for experts of
    one game); BMG does not state it."""
    zero_discount_on_life_loss: bool = True
    """Discount 0 where a life is lost; the game and the episode's return continue. Table 2."""
    max_episode_frames: Count = 108_000
    """Environment frames, no-ops left out, after which an episode ends (30 minutes); such an end is
    treated as a terminal. Table 2; how it is treated is ours, the paper is silent."""

    def __post_init__(self) -> None:
        check_fields(self)


# BMG Table 2: the whole screen in colour.
PAPER = AtariConfig()

# Frames as in IMPALA Table G.1 (84 x 84 grey, maximum over two frames): a fourteenth of the bytes.
# The rest stays BMG's; IMPALA ends the episode at a loss of life.
LIGHT = dataclasses.replace(PAPER, height=84, width=84, grayscale=True, max_pool=True)


def frame_shape(config: AtariConfig) -> tuple[int, int, int]:
    """(H, W, C) of one single frame."""
    return (config.height, config.width, 1 if config.grayscale else 3)


def make_spec(game: str, config: AtariConfig) -> base.EnvironmentSpec:
    """The spec of `Atari(game, ..., config)`, from the ROM alone: no vector is started.

    Raises:
        ValueError: for an unknown game.
    """
    return base.EnvironmentSpec(
        frame_shape=frame_shape(config),
        num_actions=len(action_names(game, config)),
        num_stack=config.num_stack,
        action_repeat=config.action_repeat,
    )


def action_names(game: str, config: AtariConfig) -> tuple[str, ...]:
    """What the actions do, in their order, such as "up right fire"; from the ROM alone.

    Raises:
        ValueError: for an unknown game.
    """
    import ale_py  # here, so that configurations load without it

    _check_game(game)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # else it greets on stderr
    ale = ale_py.ALEInterface()
    ale.loadROM(ale_py.roms.get_rom_path(game))
    actions = ale.getLegalActionSet() if config.full_action_space else ale.getMinimalActionSet()
    words = ("up", "down", "left", "right", "fire")  # of names such as UPRIGHTFIRE
    found = []
    for action in actions:
        own = [word for word in words if word in action.name.lower()]
        found.append(" ".join(own) or "none")
    return tuple(found)


class Atari:
    """N emulators of one game in lockstep; see `base.VectorEnvironment`.

    Uses ale-py's SAME_STEP autoreset: the emulator resets with the step that ends an episode, so
    the frame and the lives that it reports are the next episode's, and the reward the old one's.
    Nothing is clipped and FIRE is not pressed for the agent.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        seed: int | np.ndarray,
        config: AtariConfig,
        num_threads: int = 0,
    ):
        """Loads the ROMs and starts the threads.

        Args:
            game: one of `scores.GAMES`.
            num_envs: number of emulators, N.
            seed: integers [N], one for each emulator (such as `base.spaced_seeds`); a single
                integer stands for worker 0 of that base seed.
            config: how the game is played and shown.
            num_threads: of the emulators; 0 takes one for each core.

        Raises:
            ValueError: for an unknown game, or a number of seeds other than N.
        """
        from ale_py.vector_env import AtariVectorEnv  # here, so that configurations load without it
        from gymnasium.vector import AutoresetMode

        self.spec = make_spec(game, config)
        self.num_envs = num_envs
        self._seeds = _seeds(seed, num_envs)
        self._zero_discount_on_life_loss = config.zero_discount_on_life_loss
        self._lives: np.ndarray | None = None  # [N], None before the first reset
        self._returns = np.zeros(num_envs, np.float64)  # of the running episodes
        self._env = AtariVectorEnv(
            game,
            num_envs,
            num_threads=num_threads,
            autoreset_mode=AutoresetMode.SAME_STEP,
            max_num_frames_per_episode=config.max_episode_frames,
            repeat_action_probability=config.sticky_actions,
            full_action_space=config.full_action_space,
            img_height=config.height,
            img_width=config.width,
            grayscale=config.grayscale,
            maxpool=config.max_pool,
            frameskip=config.action_repeat,
            stack_num=1,
            noop_max=config.noop_max + 1,  # ale-py draws from 0 ... noop_max - 1
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=False,
        )

    def reset(self) -> base.Step:
        """See `base.VectorEnvironment`."""
        observation, info = self._env.reset(seed=self._seeds)
        self._seeds = None
        self._lives = info["lives"]
        self._returns[:] = 0
        return base.first_step(self._frame(observation))

    def step(self, actions: np.ndarray) -> base.Step:
        """See `base.VectorEnvironment`."""
        if self._lives is None:
            raise RuntimeError("step() before reset(): call reset() first")
        actions = base.check_actions(actions, self.num_envs, self.spec.num_actions)
        observation, reward, terminated, truncated, info = self._env.step(actions)

        end = terminated | truncated
        zero = end
        if self._zero_discount_on_life_loss:
            # At an end the lives are already those of the next episode; the discount is 0 anyway.
            # Games without lives always report 0.
            zero = end | (info["lives"] < self._lives)
        self._lives = info["lives"]

        self._returns += reward
        episode_return = np.where(end, self._returns, np.nan).astype(np.float32)
        self._returns[end] = 0
        return base.Step(
            frame=self._frame(observation),
            reward=reward.astype(np.float32),
            discount=1 - zero.astype(np.float32),
            first=end,
            episode_return=episode_return,
        )

    def close(self) -> None:
        """See `base.VectorEnvironment`; a second call does nothing."""
        self._lives = None
        self._env = None  # ends the threads: the emulators stop when nobody holds them

    def _frame(self, observation: np.ndarray) -> np.ndarray:
        """uint8 [N, 1, H, W] or [N, 1, H, W, 3] as [N, H, W, C], without a copy."""
        return observation.reshape(self.num_envs, *self.spec.frame_shape)


def _check_game(game: str) -> None:
    if game not in scores.GAMES:
        raise ValueError(
            f"{game!r} is no Atari game; allowed are scores.GAMES; use factory.make for others"
        )


def _seeds(seed: int | np.ndarray, num_envs: int) -> np.ndarray:
    """int32 [N]."""
    if np.ndim(seed) == 0:
        return base.spaced_seeds(int(seed), 0, num_envs)
    seeds = np.asarray(seed)
    if seeds.shape != (num_envs,) or len(np.unique(seeds)) != num_envs or seeds.min() < 0:
        raise ValueError(
            f"seeds are {seeds.tolist()}; allowed are {num_envs} different integers from 0, one "
            "for each environment; use base.spaced_seeds"
        )
    return seeds.astype(np.int32)
