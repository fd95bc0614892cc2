"""From stored unrolls of single frames to the batches that the losses see.

One unroll of T transitions is stored as single frames (no frame is stored four times); stacks are
rebuilt here, on the device that needs them:

    frames   f(-3) f(-2) f(-1) | f(0)  f(1)  ...  f(T)      S - 1 leading frames, then T + 1
    age                          age_0 age_1 ...  age_T     frames since the episode's first one

    stack at t = [f(t-3), f(t-2), f(t-1), f(t)], with f(t-j) zero where age_t < j:
    an episode's first stack is three black frames and one real one, and no stack ever mixes
    two episodes.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Trajectory(NamedTuple):
    """One unroll as actors write it: T transitions, S stacked frames, A actions."""

    frames: jax.Array  # uint8 [S - 1 + T + 1, H, W, C] or float32 [..., D], single frames
    age: jax.Array  # int32 [T + 1], frames since the episode's first; saturates at S - 1
    action: jax.Array  # int32 [T], a_t
    reward: jax.Array  # float32 [T], r_{t+1}, raw
    discount: jax.Array  # float32 [T], 0 where the episode (or a life) ended, else 1
    reset: jax.Array  # bool [T], a_t did nothing: a time limit had cut the episode at frame t
    behaviour_logits: jax.Array  # float32 [T, A], full logits of the policy that acted
    episode_return: jax.Array  # float32 [T], raw return of the episode that ended here, else NaN
    parameter_version: jax.Array  # int32 [], learner updates behind the parameters that acted


class Sequences(NamedTuple):
    """A batch of unrolls as the losses see it: stacked, scaled, clipped."""

    observation: jax.Array  # float32 [B, T + 1, H, W, S * C]; pixels in [0, 1]
    action: jax.Array  # int32 [B, T]
    reward: jax.Array  # float32 [B, T], clipped
    discount: jax.Array  # float32 [B, T]
    reset: jax.Array  # bool [B, T], no loss looks at such a step
    behaviour_logits: jax.Array  # float32 [B, T, A]
    is_replay: jax.Array  # bool [B]


def stack_frames(frames: jax.Array, age: jax.Array) -> jax.Array:
    """Rebuilds the stacked observations of one unroll.

    Args:
      frames: [S - 1 + T + 1, ..., C].
      age: int32 [T + 1].

    Returns:
      [T + 1, ..., S * C] of the same type, oldest frame first along the last axis.
    """
    chex.assert_rank(age, 1)
    num_steps = age.shape[0]
    num_stack = frames.shape[0] - num_steps + 1
    stacked = []
    for k in range(num_stack):  # k-th frame of the stack, num_stack - 1 is the newest
        valid = (age >= num_stack - 1 - k).reshape(-1, *(1,) * (frames.ndim - 1))
        stacked.append(jnp.where(valid, frames[k : k + num_steps], 0))
    return jnp.concatenate(stacked, axis=-1).astype(frames.dtype)


def scale_pixels(observation: jax.Array) -> jax.Array:
    """uint8 in [0, 255] to float32 in [0, 1]: what every network sees, acting or learning. Floats
    are seen as they are."""
    if observation.dtype == jnp.uint8:
        return observation.astype(jnp.float32) / 255.0
    return observation


def prepare(trajectories: Trajectory, is_replay: bool, max_abs_reward: float) -> Sequences:
    """Stacks, scales and clips a batch of unrolls, once for all the steps that use it.

    Args:
      trajectories: with a leading axis [B] on each field.
      is_replay: whether they were sampled from replay (LASER's mask applies to those only).
      max_abs_reward: rewards are clipped to [-max_abs_reward, max_abs_reward].

    Returns:
      Sequences of the B unrolls.
    """
    chex.assert_rank(trajectories.action, 2)
    observation = jax.vmap(stack_frames)(trajectories.frames, trajectories.age)
    return Sequences(
        observation=scale_pixels(observation),
        action=trajectories.action,
        reward=jnp.clip(trajectories.reward, -max_abs_reward, max_abs_reward),
        discount=trajectories.discount,
        reset=trajectories.reset,
        behaviour_logits=trajectories.behaviour_logits,
        is_replay=jnp.full(trajectories.action.shape[:1], is_replay),
    )


def concatenate(*batches: Sequences) -> Sequences:
    """Joins batches along [B]."""
    return jax.tree.map(lambda *x: jnp.concatenate(x), *batches)


class UpdateBatch(NamedTuple):
    """The data of one learner update, of one device."""

    online: Trajectory  # [B_online] unrolls, each used once
    replay: Trajectory  # [B_replay] unrolls; B_replay may be 0
    extra: tuple[Trajectory, ...] = ()  # as many replay batches of [B_replay] as the agent asks for


def prepare_batch(
    batch: UpdateBatch, max_abs_reward: float
) -> tuple[Sequences, tuple[Sequences, ...]]:
    """All of an update's data, prepared once.

    Returns:
      The main batch, online sequences first, and the extra ones.
    """
    main = prepare(batch.online, False, max_abs_reward)
    if batch.replay.action.shape[0]:
        main = concatenate(main, prepare(batch.replay, True, max_abs_reward))
    return main, tuple(prepare(extra, True, max_abs_reward) for extra in batch.extra)
