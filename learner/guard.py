"""The guard of any agent: an update that is not finite leaves it as it was, and is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmg.agents.agent import Agent, Metrics
from bmg.agents.trajectory import UpdateBatch
from bmg.meta.trees import add_up


class LearnerState(NamedTuple):
    """Everything that a learner's update changes; what a checkpoint holds."""

    agent: Any  # the agent's own state
    updates: jax.Array  # int32 [], so far
    skipped: jax.Array  # int32 [], of these, without effect because something was not finite
    skipped_in_a_row: jax.Array  # int32 [], at the end
    key: jax.Array  # random key


# Paths of arrays in checkpoints of STACX and BMG from before agents had a state of their own.
FORMER_PATHS = {".agent.": ".agent.inner.", ".meta.": ".agent.meta."}


class Guarded(NamedTuple):
    """An agent with keys, counters and the guard around it."""

    init: Callable[[jax.Array], LearnerState]  # key -> state, before the first update
    update: Callable[[LearnerState, UpdateBatch], tuple[LearnerState, Metrics]]


def guarded(agent: Agent, frames_per_update: int) -> Guarded:
    """Wraps any agent.

    Args:
      agent: whose.
      frames_per_update: environment frames of one update's online data, on all devices.
    """

    def init(key: jax.Array) -> LearnerState:
        agent_key, key = jax.random.split(key)
        zero = jnp.int32(0)
        state = jax.tree.map(jnp.asarray, agent.init(agent_key))
        check_types(state)
        return LearnerState(state, zero, zero, zero, key)

    def update(state: LearnerState, batch: UpdateBatch):
        check_replay(agent, batch)
        next_key, key = jax.random.split(state.key)
        frames = state.updates * jnp.float32(frames_per_update)
        new, metrics = agent.update(state.agent, batch, frames, key)
        new, metrics = jax.tree.map(jnp.asarray, (new, metrics))
        check_update(state.agent, new, metrics)
        losses = [value for name, value in metrics.items() if name.startswith("loss")]
        finite = all_finite((new, losses))
        after = LearnerState(
            agent=jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, state.agent),
            updates=state.updates + 1,
            skipped=jnp.where(finite, state.skipped, state.skipped + 1),
            skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
            key=next_key,
        )
        counts = {
            "learner/skipped_updates": after.skipped.astype(jnp.float32),
            "learner/skipped_in_a_row": after.skipped_in_a_row.astype(jnp.float32),
        }
        return after, metrics | counts

    return Guarded(init, update)


def check_types(state: Any) -> None:
    """Refuses what no checkpoint holds.

    Raises:
      ValueError: one line.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise ValueError(
                f"the agent's state holds {leaf.dtype} at {jax.tree_util.keystr(path)}; give raw "
                "keys (jax.random.PRNGKey, or jax.random.key_data)."
            )


def check_update(before: Any, after: Any, metrics: Metrics) -> None:
    """Refuses an update that changes more than the numbers of the state, or whose metrics are no
    numbers.

    Raises:
      ValueError: one line.
    """
    was, now = jax.tree.structure(before), jax.tree.structure(after)
    if was != now:
        raise ValueError(f"the agent's update gives a state of the structure {now}, not {was}.")
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after)
    ):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(
                f"the agent's update gives {jax.tree_util.keystr(path)} as {new.dtype}"
                f"{list(new.shape)}; it was {old.dtype}{list(old.shape)}."
            )
    for name, value in metrics.items():
        if value.shape:
            raise ValueError(f"the metric {name} has the shape {list(value.shape)}; give scalars.")


def check_replay(agent: Agent, batch: UpdateBatch) -> None:
    """Refuses a batch that does not hold what the agent takes from replay.

    Raises:
      ValueError: one line.
    """
    if len(batch.extra) != agent.num_extra_batches:
        raise ValueError(
            f"{len(batch.extra)} extra replay batches; the agent takes {agent.num_extra_batches}."
        )
    if agent.uses_replay and not batch.replay.action.shape[0]:
        raise ValueError("the replay batch is empty, but the agent's settings draw from replay.")


def all_finite(tree: Any) -> jax.Array:
    """Whether every floating-point number of a tree is finite; bool []."""
    numbers = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return add_up(jnp.any(~jnp.isfinite(x)) for x in numbers) == 0
