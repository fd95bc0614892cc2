"""Acting, replay and learning as one program: what Podracer's authors call Anakin.

    T steps of B environments ──► ring ──► fresh and replayed unrolls ──► the agent's update
          ▲                                                                    │
          └─────────────────────────── parameters ◄────────────────────────────┘

The agent's update is the one of every other runtime, on the same `UpdateBatch`. There is no lag: an
unroll is played with the parameters that learn from it. Seeds are mapped; each has environments, a
ring and an agent of its own. Several devices may share a seed: each plays and replays its part.

Reference: Hessel et al., "Podracer architectures for scalable reinforcement learning", 2021.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmg.agents.agent import Agent
from bmg.agents.trajectory import Trajectory, UpdateBatch
from bmg.environments.in_graph import World
from bmg.learner.config import LearnerConfig
from bmg.learner.guard import LearnerState, guarded
from bmg.learner.update import MetricsRow, frames_per_update
from bmg.replay import ring

PyTree = Any


class Playing(NamedTuple):
    """What a seed has beside its learner, or its part on one of its devices."""

    games: PyTree  # [B], of each environment
    replay: ring.Ring
    key: jax.Array  # random key


class State(NamedTuple):
    """Of one seed."""

    learner: LearnerState
    playing: Playing


class Told(NamedTuple):
    """What a chunk of updates tells of one seed."""

    metrics: MetricsRow  # means over the updates
    episode_return: jax.Array  # float32 [updates, B, T], NaN where no episode ended


class Program(NamedTuple):
    """Pure functions of one seed, or of its part on one device."""

    init: Callable[[jax.Array], LearnerState]  # key -> before the first update
    # learner, key -> environments at their beginning, and an empty ring
    play_anew: Callable[[LearnerState, jax.Array], Playing]
    chunk: Callable[[State, jax.Array], tuple[State, Told]]  # state, number of updates -> after


def make_program(
    agent: Agent,
    world: World,
    config: LearnerConfig,
    replay_capacity: int,
    most_updates: int,
    shards: int = 1,
) -> Program:
    """What runs.

    Args:
      agent: whose updates.
      world: the environment.
      config: batch sizes and unroll length; the batch of fresh unrolls says how many environments
        there are.
      replay_capacity: unrolls in the ring; what is more than a multiple of the fresh batch is left
        out.
      most_updates: of a chunk.
      shards: devices that share a seed: each has as many of its environments, and of its unrolls to
        replay. They have different random keys, and the agent's update averages over them.
    """
    batch, replayed = config.online_batch // shards, config.replay_batch // shards
    whole = guarded(agent, frames_per_update(config, action_repeat=1))
    capacity = max(replay_capacity // config.online_batch, 1) * batch
    collect_unrolls = functools.partial(collect, agent, world, length=config.unroll_length)

    def play_anew(learner: LearnerState, key: jax.Array) -> Playing:
        games_key, key = jax.random.split(key)
        games = jax.vmap(world.reset)(jax.random.split(games_key, batch))
        params = agent.acting_params(learner.agent)
        _, unrolls = jax.eval_shape(collect_unrolls, params, games, key, version=learner.updates)
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), unrolls)
        return Playing(games, ring.init(one, capacity), key)

    def update(state: State) -> tuple[State, dict[str, jax.Array], jax.Array]:
        playing = state.playing
        key, act_key, *keys = jax.random.split(playing.key, 3 + agent.num_extra_batches)
        params = agent.acting_params(state.learner.agent)
        games, fresh = collect_unrolls(
            params, playing.games, act_key, version=state.learner.updates
        )
        replay = ring.append(playing.replay, fresh)
        drawn = [ring.sample(replay, k, replayed) for k in keys]
        learner, metrics = whole.update(
            state.learner, UpdateBatch(fresh, drawn[0], tuple(drawn[1:]))
        )
        return State(learner, Playing(games, replay, key)), metrics, fresh.episode_return

    def chunk(state: State, updates: jax.Array) -> tuple[State, Told]:
        _, shapes, returns = jax.eval_shape(update, state)
        sums = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
        every = jnp.full((most_updates, *returns.shape), jnp.nan, returns.dtype)

        def body(index, carry):
            state, sums, every = carry
            state, metrics, returns = update(state)
            return state, jax.tree.map(jnp.add, sums, metrics), every.at[index].set(returns)

        state, sums, every = jax.lax.fori_loop(0, updates, body, (state, sums, every))
        means = {name: x / updates for name, x in sums.items()}
        return state, Told(MetricsRow.of(means), every)

    return Program(whole.init, play_anew, chunk)


def collect(
    agent: Agent,
    world: World,
    params: PyTree,
    games: PyTree,
    key: jax.Array,
    version: jax.Array,
    length: int,
) -> tuple[PyTree, Trajectory]:
    """An unroll of T steps in each of B environments.

    Args:
      agent: who acts.
      world: the environment.
      params: that act.
      games: where the environments are, [B].
      key: random key.
      version: int32 [], learner updates behind these parameters.
      length: T.

    Returns:
      Where they are afterwards; unrolls [B, ...], as actors write them.
    """
    batch = jax.tree.leaves(games)[0].shape[0]
    act_key, draw_key = jax.random.split(key)
    keys = jax.random.split(act_key, (length, batch))
    random = world.draw(draw_key, (length, batch))

    def act(games, given):
        keys, random = given
        frame = jax.vmap(world.frame)(games)
        action, logits = agent.act(params, frame, keys)
        games, transition = jax.vmap(world.step)(games, action, random)
        ended = transition.discount == 0
        returns = jnp.where(ended, transition.episode_return, jnp.nan)
        row = (frame, action, transition.reward, transition.discount, logits, returns)
        return games, row

    games, rows = jax.lax.scan(act, games, (keys, random))
    frame, action, reward, discount, logits, returns = jax.tree.map(
        lambda x: jnp.swapaxes(x, 0, 1), rows
    )
    last = jax.vmap(world.frame)(games)
    trajectory = Trajectory(
        frames=jnp.concatenate([frame, last[:, None]], axis=1),
        age=jnp.zeros((batch, length + 1), jnp.int32),  # nothing is stacked
        action=action.astype(jnp.int32),
        reward=reward,
        discount=discount,
        reset=jnp.zeros((batch, length), bool),
        behaviour_logits=logits,
        episode_return=returns,
        parameter_version=jnp.full(batch, version),
    )
    return games, trajectory


class Evaluating(NamedTuple):
    """Episodes that are played side by side, the first one of each environment."""

    games: PyTree  # [N]
    playing: jax.Array  # bool [N]
    returns: jax.Array  # float32 [N], so far
    key: jax.Array  # random key


def make_evaluation(agent: Agent, world: World, episodes: int, steps: int):
    """Functions of one seed.

    Args:
      agent: whose policy.
      world: the environment.
      episodes: N.
      steps: between two looks.

    Returns:
      key -> `Evaluating` at its beginning; (acting params, evaluating) -> `steps` steps later.
    """

    def begin(key: jax.Array) -> Evaluating:
        games_key, key = jax.random.split(key)
        games = jax.vmap(world.reset)(jax.random.split(games_key, episodes))
        return Evaluating(games, jnp.ones(episodes, bool), jnp.zeros(episodes), key)

    def advance(params: PyTree, state: Evaluating) -> Evaluating:
        key, act_key, draw_key = jax.random.split(state.key, 3)
        keys = jax.random.split(act_key, (steps, episodes))
        random = world.draw(draw_key, (steps, episodes))

        def act(carry, given):
            games, playing, returns = carry
            keys, random = given
            action, _ = agent.act(params, jax.vmap(world.frame)(games), keys)
            games, transition = jax.vmap(world.step)(games, action, random)
            returns = jnp.where(playing, transition.episode_return, returns)
            return (games, playing & (transition.discount != 0), returns), None

        carry, _ = jax.lax.scan(act, state[:3], (keys, random))
        return Evaluating(*carry, key)

    return begin, advance
