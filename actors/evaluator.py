"""Evaluation: full episodes, raw rewards, the parameters that they belong to."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import numpy as np

from bmg.actors.parameters import Parameters
from bmg.actors.rollout import FrameStack
from bmg.agents.messages import Evaluation, VersionedParameters
from bmg.environments.base import VectorEnvironment


def play_episodes(
    environment: VectorEnvironment,
    act: Callable,
    params,
    key: jax.Array,
    should_stop: Callable[[], bool],
) -> np.ndarray | None:
    """Plays one episode in each of N environments, side by side.

    Each environment contributes its first episode whatever its length, so that short episodes
    are not over-represented.

    Args:
      environment: N environments, reset here.
      act: jitted (params, observations [N, ...], keys [N, 2]) -> (actions, logits).
      params: the main task's parameters.
      key: random key of the actions; the policy is sampled, as in training.
      should_stop: polled at each step.

    Returns:
      Raw returns [N], as the environment gives them; None when asked to stop.
    """
    stack = FrameStack(environment.num_envs, environment.spec)
    stack.push(environment.reset())
    returns = np.full(environment.num_envs, np.nan, np.float32)
    playing = np.ones(environment.num_envs, bool)
    while playing.any():
        if should_stop():
            return None
        key, *_ = keys = np.asarray(jax.random.split(key, 1 + environment.num_envs))
        actions, _ = act(params, stack.stack, keys[1:])
        step = environment.step(np.asarray(actions))
        stack.push(step)
        ended = playing & step.first
        returns[ended] = step.episode_return[ended]
        playing &= ~ended
    return returns


def run_evaluator(
    environment: VectorEnvironment,
    act: Callable,
    parameters: Parameters,
    report: Callable[[Evaluation], None],
    should_stop: Callable[[], bool],
    interval: float,
    key: jax.Array,
) -> None:
    """Evaluates the newest parameters over and over, and the final ones once.

    Args:
      environment: as many environments as episodes.
      act: (params, observations, keys) -> (actions, logits).
      parameters: where parameters come from.
      report: takes each evaluation.
      should_stop: polled at every step and while waiting.
      interval: seconds between evaluations.
      key: random key.
    """
    act = jax.jit(act)
    while not should_stop():
        latest = parameters.wait(should_stop)
        if latest is None:
            return
        key, subkey = jax.random.split(key)

        def interrupted(played: VersionedParameters = latest) -> bool:
            # The final parameters end an evaluation of older ones: nobody waits for that one.
            newest = parameters.wait(should_stop)
            return newest is None or should_stop() or (newest.final and not played.final)

        every = play_episodes(environment, act, latest.params, subkey, interrupted)
        if every is None:
            continue
        found = Evaluation.of(every, latest.version, latest.frames, latest.final)
        if found is None:
            raise FloatingPointError(f"none of {len(every)} episodes had a finite return")
        report(found)
        if latest.final:
            return
        wake = time.monotonic() + interval
        while time.monotonic() < wake and not interrupted():
            time.sleep(0.2)
