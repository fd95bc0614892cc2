"""Rollout against a loop that keeps every episode's frames, on a tape and on real ROMs."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.actors.inference import LocalInference
from bmg.actors.rollout import Rollout, trajectory_signature
from bmg.agents.trajectory import stack_frames
from bmg.environments.atari import LIGHT, PAPER
from bmg.environments.base import EnvironmentSpec, Step, first_step
from bmg.environments.factory import make
from tests.actors.fakes import Newest, make_rollout, never

CLOCK = itertools.count().__next__


class Tape:
    """Plays N prepared tapes of steps and records the actions that were given."""

    def __init__(self, num_stack: int, first: np.ndarray, channels: int = 1, seed: int = 0):
        """`first` [steps, N]: whether an episode ended with that step."""
        rng = np.random.default_rng(seed)
        num_steps, self.num_envs = first.shape
        shape = (2, 3, channels)
        self.spec = EnvironmentSpec(shape, 2 * 3 * channels * num_stack, num_stack, 4)
        # No two frames are equal: the first pixel is the number of the step.
        self.frame = rng.integers(1, 256, (num_steps + 1, self.num_envs, *shape)).astype(np.uint8)
        self.frame[..., 0, 0, 0] = 1 + np.arange(num_steps + 1)[:, None]
        life_lost = rng.random(first.shape) < 0.15
        self.steps = [
            Step(
                frame=self.frame[t + 1],
                reward=rng.normal(size=self.num_envs).astype(np.float32),
                discount=1 - (first[t] | life_lost[t]).astype(np.float32),
                first=first[t],
                episode_return=np.where(first[t], 100 + t, np.nan).astype(np.float32),
            )
            for t in range(num_steps)
        ]
        self.actions: list[np.ndarray] = []

    def reset(self) -> Step:
        return first_step(self.frame[0])

    def step(self, actions: np.ndarray) -> Step:
        self.actions.append(np.array(actions))
        return self.steps[len(self.actions) - 1]

    def close(self) -> None:
        pass


def show_observation(params, observation, keys):
    """A policy whose logits are the very observation; actions are a function of it."""
    flat = observation.reshape(observation.shape[0], -1)
    weights = jnp.arange(flat.shape[1]) % 7
    return jnp.sum(flat.astype(jnp.int32) * weights, axis=1) % 5, flat * params


def oracle_stacks(frames: np.ndarray, first: np.ndarray, num_stack: int) -> np.ndarray:
    """Stacks of one environment by loops: [steps + 1, H, W, S * C] from frames [steps + 1, ...]
    and `first` [steps + 1] of each frame. Nothing of an earlier episode is in a later stack."""
    stacks, episode = [], []
    for frame, is_first in zip(frames, first):
        episode = [frame] if is_first else [*episode, frame]
        newest = episode[-num_stack:]
        black = [np.zeros_like(frame)] * (num_stack - len(newest))
        stacks.append(np.concatenate([*black, *newest], axis=-1))
    return np.stack(stacks)


def ends(num_steps: int, *times: tuple[int, ...]) -> np.ndarray:
    """`first` [steps, N] of episodes that end with the steps given for each environment."""
    first = np.zeros((num_steps, len(times)), bool)
    for n, of_env in enumerate(times):
        first[list(of_env), n] = True
    return first


def patterns(length: int, num_unrolls: int) -> np.ndarray:
    """Ends at the last step of an unroll, at its first, around a boundary, never, and always."""
    total = length * num_unrolls
    return ends(
        total,
        tuple(range(length - 1, total, length)),
        tuple(range(0, total, length)),
        (length - 1, length, total - 1),
        (),
        tuple(range(total)),
        (1, total // 2),
    )


@pytest.mark.parametrize(
    ("length", "num_stack", "channels"), [(4, 3, 1), (1, 4, 1), (2, 4, 3), (5, 1, 1), (6, 2, 3)]
)
def test_unrolls_are_what_happened(length, num_stack, channels):
    num_unrolls = 5
    tape = Tape(num_stack, patterns(length, num_unrolls), channels)
    rollout = make_rollout(tape, show_observation, length)
    unrolls = [rollout.collect(10 + i, CLOCK) for i in range(num_unrolls)]

    for n in range(tape.num_envs):
        first = np.array([True, *(step.first[n] for step in tape.steps)])
        frames = tape.frame[:, n]
        stacks = oracle_stacks(frames, first, num_stack)
        age, ages = 0, []
        for is_first in first:
            age = 0 if is_first else min(age + 1, num_stack - 1)
            ages.append(age)
        for i, unroll in enumerate(unrolls):
            start = i * length
            for j in range(num_stack + length):
                time = start - (num_stack - 1) + j
                expected = frames[time] if time >= 0 else np.zeros_like(frames[0])
                np.testing.assert_array_equal(unroll.frames[n, j], expected)
            np.testing.assert_array_equal(unroll.age[n], ages[start : start + length + 1])
            for t in range(length):
                step = tape.steps[start + t]
                observation = stacks[start + t]
                np.testing.assert_array_equal(
                    unroll.behaviour_logits[n, t], observation.ravel().astype(np.float32)
                )
                weights = np.arange(observation.size) % 7
                chosen = int(np.sum(observation.ravel().astype(int) * weights)) % 5
                assert unroll.action[n, t] == chosen
                assert tape.actions[start + t][n] == chosen
                assert unroll.reward[n, t] == step.reward[n]
                assert unroll.discount[n, t] == step.discount[n]
                np.testing.assert_equal(unroll.episode_return[n, t], step.episode_return[n])
            np.testing.assert_array_equal(
                stack_frames(unroll.frames[n], unroll.age[n]), stacks[start : start + length + 1]
            )
            assert unroll.parameter_version[n] == 10 + i


def test_unrolls_have_their_signature():
    tape = Tape(3, patterns(4, 2))
    unroll = make_rollout(tape, show_observation, 4).collect(7, CLOCK)
    signature = trajectory_signature(tape.spec, 4)
    for name, array, expected in zip(signature._fields, unroll, signature):
        assert isinstance(array, np.ndarray), name
        assert array.shape == (tape.num_envs, *expected.shape), name
        assert array.dtype == expected.dtype, name


def test_unrolls_belong_to_the_caller():
    tape = Tape(3, patterns(4, 4))
    rollout = make_rollout(tape, show_observation, 4)
    kept = rollout.collect(0, CLOCK)
    copies = jax.tree.map(np.copy, kept)
    second = rollout.collect(1, CLOCK)
    jax.tree.map(np.testing.assert_array_equal, kept, copies)
    second_copies = jax.tree.map(np.copy, second)
    for array in kept:  # and the caller may scribble on them
        array[...] = 0
    jax.tree.map(np.testing.assert_array_equal, second, second_copies)
    third = rollout.collect(2, CLOCK)
    np.testing.assert_array_equal(third.frames[:, :3], second_copies.frames[:, -3:])


def test_the_same_parameters_act_until_newer_ones_are_asked_for():
    tape, parameters = Tape(2, patterns(3, 3)), Newest(1.0)
    inference = LocalInference(show_observation, parameters)
    rollout = Rollout([tape], inference.ask, 3, jax.random.PRNGKey(0))
    inference.newest(never)
    parameters.publish(2.0, 1)
    first = rollout.collect(0, CLOCK)
    assert inference.newest(never).version == 1
    second = rollout.collect(1, CLOCK)
    for unroll, factor in [(first, 1), (second, 2)]:
        for n in range(tape.num_envs):
            stacks = np.asarray(stack_frames(unroll.frames[n], unroll.age[n]))[:-1]
            np.testing.assert_array_equal(
                unroll.behaviour_logits[n], factor * stacks.reshape(3, -1).astype(np.float32)
            )


def test_every_step_draws_with_its_own_key():
    def act(params, observation, keys):
        draws = jax.vmap(jax.random.uniform)(keys)[:, None]
        return (draws[:, 0] * 3).astype(jnp.int32), jnp.broadcast_to(draws, (len(draws), 12))

    def draws_of(seed: int) -> np.ndarray:
        tape = Tape(2, patterns(5, 4))
        rollout = make_rollout(tape, act, 5, seed)
        unrolls = [rollout.collect(0, CLOCK) for _ in range(4)]
        return np.concatenate([u.behaviour_logits[..., 0] for u in unrolls], axis=1).ravel()

    draws = draws_of(0)
    assert len(np.unique(draws)) == draws.size
    np.testing.assert_array_equal(draws, draws_of(0))
    assert not np.isin(draws_of(1), draws).any()


class Recorded:
    """A real environment that keeps what it showed; its spec asks for the observation as logits."""

    def __init__(self, environment):
        self._environment = environment
        self.num_envs = environment.num_envs
        height, width, channels = environment.spec.frame_shape
        stack = environment.spec.num_stack
        self.real_spec = environment.spec
        self.spec = environment.spec._replace(num_actions=height * width * channels * stack)
        self.frames, self.steps = [], []

    def _keep(self, step: Step) -> Step:
        self.frames.append(np.array(step.frame))
        self.steps.append(step)
        return step

    def reset(self) -> Step:
        return self._keep(self._environment.reset())

    def step(self, actions: np.ndarray) -> Step:
        return self._keep(self._environment.step(actions))

    def close(self) -> None:
        self._environment.close()


SMALL_RGB = dataclasses.replace(PAPER, height=21, width=16)


@pytest.mark.parametrize(
    ("config", "num_stack"), [(LIGHT, 4), (SMALL_RGB, 3)], ids=["grey_84", "small_rgb"]
)
def test_stacks_across_ends_of_episodes_and_lives_on_a_rom(config, num_stack):
    """What the actor acted on is what the learner rebuilds, and it never mixes two episodes."""
    # The frame limit ends some episodes early, so that ends come at many places.
    config = dataclasses.replace(config, num_stack=num_stack, max_episode_frames=720)
    environment = Recorded(make("breakout", 3, 5, 0, config, num_threads=1))
    num_actions = environment.real_spec.num_actions

    def act(params, observation, keys):
        actions = jax.vmap(lambda key: jax.random.randint(key, (), 0, num_actions))(keys)
        return actions, observation.reshape(observation.shape[0], -1).astype(jnp.float32)

    length, num_unrolls = 20, 12
    rollout = make_rollout(environment, act, length, seed=3)
    unrolls = []
    for _ in range(num_unrolls):
        unroll = rollout.collect(0, CLOCK)
        unrolls.append(unroll._replace(behaviour_logits=unroll.behaviour_logits.astype(np.uint8)))
    environment.close()

    steps = environment.steps[1:]
    first = np.array([step.first for step in environment.steps])  # [steps + 1, N]
    discount = np.array([step.discount for step in steps])
    end, zero = first[1:], discount == 0
    assert end.sum() >= 3, "the run was to cross ends of episodes"
    assert (zero & ~end).sum() >= 3, "the run was to cross losses of lives"
    for n in range(environment.num_envs):
        frames = np.stack([frame[n] for frame in environment.frames])
        stacks = oracle_stacks(frames, first[:, n], num_stack)
        for i, unroll in enumerate(unrolls):
            start = i * length
            acted_on = unroll.behaviour_logits[n].reshape(length, *stacks.shape[1:])
            rebuilt = np.asarray(stack_frames(unroll.frames[n], unroll.age[n]))
            np.testing.assert_array_equal(rebuilt[:-1], acted_on)
            np.testing.assert_array_equal(rebuilt, stacks[start : start + length + 1])
            for t in range(length):
                step = steps[start + t]
                assert unroll.reward[n, t] == step.reward[n]
                assert unroll.discount[n, t] == step.discount[n]
                np.testing.assert_equal(unroll.episode_return[n, t], step.episode_return[n])


def test_rewards_that_are_not_finite_are_replaced_and_counted():
    first = np.zeros((6, 2), bool)
    first[2] = first[5] = True
    tape = Tape(1, first)
    tape.steps[0].reward[0] = np.nan
    tape.steps[1].reward[:] = [np.inf, 3.0]
    tape.steps[4].reward[1] = -np.inf
    tape.steps[2].episode_return[0] = np.inf
    expected = np.stack([step.reward for step in tape.steps], 1)
    expected[~np.isfinite(expected)] = 0.0
    rollout = make_rollout(tape, show_observation, 3)
    unrolls = [rollout.collect(0, CLOCK) for _ in range(2)]
    np.testing.assert_array_equal(np.concatenate([x.reward for x in unrolls], 1), expected)
    assert rollout.not_finite_rewards == 3
    returns = np.concatenate([x.episode_return for x in unrolls], 1)
    ended = np.zeros((6, 2), bool)
    ended[2, 1] = ended[5] = True
    np.testing.assert_array_equal(~np.isnan(returns), ended.T)
    discount = np.concatenate([x.discount for x in unrolls], 1)
    np.testing.assert_array_equal(discount, np.stack([step.discount for step in tape.steps], 1))
