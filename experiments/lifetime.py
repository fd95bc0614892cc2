"""What a learner is to the program that runs it: a lifetime in windows of updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bmg.meta import core
from bmg.meta.side_by_side import SHARDS

PyTree = Any


class MetaState(NamedTuple):
    """The meta-learner."""

    params: PyTree  # w
    opt_state: optax.OptState


class State(NamedTuple):
    """One lifetime; what a checkpoint holds, once for each seed."""

    agent: PyTree  # the inner learner with its world, where it has them
    meta: MetaState | None  # None where nothing is meta-learned
    key: jax.Array  # random key


class Lifetime(NamedTuple):
    """One lifetime as pure functions, without a batch axis: callers `vmap` over seeds."""

    init: Callable[[jax.Array], State]  # key -> state
    # One meta-update, whatever it spans: updates of one agent, or a mean over many tasks.
    # state, data -> (state, records), where records hold float32 [updates of a window] of each of
    # `columns`.
    window: Callable[[State, PyTree], tuple[State, dict[str, jax.Array]]]
    updates_per_window: int  # rows that a window records
    steps_per_update: int  # of what the configuration counts
    columns: tuple[str, ...]  # what is recorded of each update
    # Whether it convolves. On a CPU, XLA differentiates a convolution 50 times slower inside of a
    # loop, and a batch of kernels is slow as well: there such lifetimes are neither scanned nor
    # mapped.
    convolves: bool = False
    # Arrays that all lifetimes read, such as images: an argument of the compiled program, of which
    # a constant would become a part.
    data: PyTree = None
    # What tells those data from others, JSON values by name: a checkpoint goes on with the same.
    identity: Mapping[str, Any] = MappingProxyType({})
    chunk_steps: int = 2_000  # of each lifetime between two looks at the run
    # Equal pieces of a window, which may lie on as many devices: it sees to the share of its own
    # device along the axis `SHARDS`, and leaves the same state on all of them.
    shards: int = 1
    # Whether the arrays of `State.agent` are in these pieces along their first axis: `init` and
    # `window` then see and leave their own device's, and the rest is the same on all of them.
    spread: bool = False


def fixed_window(step: core.Step, state: State) -> tuple[State, PyTree]:
    """One update of the agent, whose meta-parameters stay as they are; also its `aux`.

    Args:
      step: the agent's update.
      state: the lifetime.
    """
    next_key, key = jax.random.split(state.key)
    meta_params = None if state.meta is None else state.meta.params
    agent, aux = step(meta_params, state.agent, None, key)
    return State(agent, state.meta, next_key), aux


def meta_window(
    compute: Callable[..., core.MetaGradient],
    optimizer: optax.GradientTransformation,
    num_steps: int,
    objective_batch: PyTree,
    state: State,
) -> tuple[State, core.MetaGradient]:
    """One meta-update: K steps of the agent, the meta-gradient, the meta-optimiser.

    The agents here meet their data on the way, so the batches of the unroll are empty.

    Args:
      compute: what `core.meta_gradient` gives.
      optimizer: of the meta-parameters.
      num_steps: K, which may be 0.
      objective_batch: of the objective.
      state: the lifetime.

    Returns:
      The lifetime, continued from the objective's next state, and the meta-gradient's result.
    """
    next_key, key = jax.random.split(state.key)
    result = compute(state.meta.params, state.agent, (None,) * num_steps, objective_batch, key)
    updates, opt_state = optimizer.update(result.gradient, state.meta.opt_state)
    meta = MetaState(optax.apply_updates(state.meta.params, updates), opt_state)
    return State(result.next_state, meta, next_key), result


@jax.custom_batching.custom_vmap
def alike(x: jax.Array) -> jax.Array:
    """What is the same in all lifetimes, such as how far they are: a `lax.cond` on it then takes
    one branch where lifetimes are mapped, which would take both on a value for each."""
    return x


@alike.def_vmap
def _(axis_size: int, in_batched: tuple[bool], x: jax.Array):
    del axis_size
    return x[0] if in_batched[0] else x, False


def share(x: jax.Array, axis_name: str | None = SHARDS) -> jax.Array:
    """This device's part of [N, ...], of the size that the others have; the last one's is filled up
    with what is there. Without an axis, all of it."""
    if axis_name is None:
        return x
    count = -(-len(x) // jax.lax.axis_size(axis_name))
    index = jax.lax.axis_index(axis_name) * count + jnp.arange(count)
    return x[index % len(x)]


def gathered(x: jax.Array, axis_name: str | None = SHARDS) -> jax.Array:
    """All devices' parts in their order: of what `share` made of [N, ...], the first N."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)
