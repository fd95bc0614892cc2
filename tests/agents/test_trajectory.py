"""Rebuilding frame stacks against a simulated stream of episodes; preparing a batch."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bmg.agents.trajectory import Trajectory, concatenate, prepare, stack_frames

NUM_STACK, NUM_STEPS, STREAM = 4, 9, 60


compiled_stack = jax.jit(stack_frames)
compiled_prepare = jax.jit(prepare, static_argnums=(1, 2))


def simulate(seed: int, channels: int):
    """A stream as an actor sees it: frames, ages, and the stack it acted on at each time.

        episode   . . . | 0  1  2  3  4 | 0  1 | 0  1  2 ...
        age       . . .   0  1  2  3  3   0  1   0  1  2      saturates at S - 1

    The stack is a queue that is emptied where an episode begins.
    """
    rng = np.random.default_rng(seed)
    frames = rng.integers(1, 256, (STREAM, 5, 4, channels), dtype=np.uint8)
    first = rng.random(STREAM) < 0.25
    first[0] = True
    stacks, ages, queue = [], [], []
    for t in range(STREAM):
        if first[t]:
            queue = [np.zeros_like(frames[0])] * NUM_STACK
            since_first = 0
        else:
            since_first += 1
        queue = queue[1:] + [frames[t]]
        stacks.append(np.concatenate(queue, axis=-1))
        ages.append(min(since_first, NUM_STACK - 1))
    return frames, np.array(ages, np.int32), np.stack(stacks), first


@pytest.mark.parametrize("channels", [1, 3])
def test_stacks_are_those_the_actor_acted_on(channels):
    """Every window of the stream: episodes beginning before it, inside it, and at its edges."""
    seen = set()
    for seed in range(3):
        frames, ages, stacks, first = simulate(seed, channels)
        for start in range(NUM_STACK - 1, STREAM - NUM_STEPS):
            window = slice(start, start + NUM_STEPS + 1)
            stored = frames[start - NUM_STACK + 1 : start + NUM_STEPS + 1]
            actual = compiled_stack(stored, ages[window])
            assert actual.dtype == np.uint8
            np.testing.assert_array_equal(actual, stacks[window])
            seen |= set(np.flatnonzero(first[window]))
            seen |= {-k for k in (1, 2, 3) if first[start - k]}
    assert seen == set(range(-3, NUM_STEPS + 1))  # an episode began at each of these


def test_an_episodes_first_stack_is_one_frame():
    """Three black frames and one real one; earlier frames are another episode's."""
    frames = np.full((NUM_STACK + 1, 2, 2, 1), 7, np.uint8)
    actual = compiled_stack(frames, np.array([0, 1], np.int32))
    actual = np.asarray(actual)
    np.testing.assert_array_equal(actual[0, 0, 0], [0, 0, 0, 7])
    np.testing.assert_array_equal(actual[1, 0, 0], [0, 0, 7, 7])


@pytest.mark.parametrize("num_stack", [1, 2])
def test_the_number_of_stacked_frames_follows_from_the_shapes(num_stack):
    frames = np.arange(1, num_stack + 3, dtype=np.uint8).reshape(-1, 1, 1, 1)
    actual = compiled_stack(frames, np.full(3, num_stack - 1, np.int32))
    expected = [[t + 1 + k for k in range(num_stack)] for t in range(3)]
    np.testing.assert_array_equal(np.asarray(actual)[:, 0, 0], expected)


def trajectories(batch: int, seed: int = 0) -> Trajectory:
    rng = np.random.default_rng(seed)
    shape = (batch, NUM_STEPS)
    return Trajectory(
        frames=rng.integers(0, 256, (batch, NUM_STACK + NUM_STEPS, 5, 4, 3), dtype=np.uint8),
        age=rng.integers(0, NUM_STACK, (batch, NUM_STEPS + 1)).astype(np.int32),
        action=rng.integers(0, 6, shape).astype(np.int32),
        reward=rng.normal(0, 5, shape).astype(np.float32),
        discount=(rng.random(shape) > 0.2).astype(np.float32),
        reset=rng.random(shape) > 0.8,
        behaviour_logits=rng.normal(size=(*shape, 6)).astype(np.float32),
        episode_return=np.full(shape, np.nan, np.float32),
        parameter_version=np.arange(batch, dtype=np.int32),
    )


@pytest.mark.parametrize("is_replay", [False, True])
@pytest.mark.parametrize("max_abs_reward", [1.0, 2.5])
def test_prepare(is_replay, max_abs_reward):
    batch = trajectories(3)
    sequences = jax.tree.map(np.asarray, compiled_prepare(batch, is_replay, max_abs_reward))
    assert sequences.observation.shape == (3, NUM_STEPS + 1, 5, 4, 3 * NUM_STACK)
    assert sequences.observation.dtype == np.float32
    for b in range(3):
        stacked = np.asarray(compiled_stack(batch.frames[b], batch.age[b]), np.float64)
        np.testing.assert_allclose(sequences.observation[b], stacked / 255, atol=1e-7)
    assert np.max(sequences.observation) == 1 and np.min(sequences.observation) == 0
    expected = [[min(max(r, -max_abs_reward), max_abs_reward) for r in row] for row in batch.reward]
    np.testing.assert_array_equal(sequences.reward, np.array(expected, np.float32))
    assert np.any(np.abs(batch.reward) > max_abs_reward)
    assert np.any(np.abs(batch.reward) < max_abs_reward)
    for name in ("action", "discount", "reset", "behaviour_logits"):
        np.testing.assert_array_equal(getattr(sequences, name), getattr(batch, name))
    np.testing.assert_array_equal(sequences.is_replay, [is_replay] * 3)


def test_concatenate_keeps_order():
    online = compiled_prepare(trajectories(2, 0), False, 1.0)
    replay = compiled_prepare(trajectories(3, 1), True, 1.0)
    online, replay, joined = jax.tree.map(
        np.asarray, (online, replay, jax.jit(concatenate)(online, replay))
    )
    np.testing.assert_array_equal(joined.is_replay, [False, False, True, True, True])
    for name in joined._fields:
        np.testing.assert_array_equal(getattr(joined, name)[:2], getattr(online, name))
        np.testing.assert_array_equal(getattr(joined, name)[2:], getattr(replay, name))
