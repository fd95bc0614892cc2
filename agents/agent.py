"""What the rest of the system knows of an agent: seven fields, and the data of an update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bmg.agents.trajectory import UpdateBatch

PyTree = Any
Key = jax.Array
Metrics = dict[str, jax.Array]  # `group/name` -> []


class Spec(NamedTuple):
    """What an agent has to know of its environment and devices."""

    observation_shape: tuple[int, ...]  # of a stacked observation: (H, W, S * C), or (S * D,)
    num_actions: int  # A
    axis_name: str | None = None  # the device axis that `update` is mapped over, or None


class Agent(NamedTuple):
    """An agent as pure functions. `make(config, spec) -> Agent` is all that its file must offer; it
    is called where no device may be opened, so it creates no arrays."""

    init: Callable[[Key], PyTree]
    """key -> state, the agent's own tree of arrays; keys in it are raw ones (uint32)."""
    update: Callable[[PyTree, UpdateBatch, jax.Array, Key], tuple[PyTree, Metrics]]
    """(state, batch, frames [], key) -> (state, metrics): one learner update, after `frames`
    environment frames. The state keeps its structure, shapes and types; metrics are scalars. Of
    several devices each sees its share of the batch; gradients and metrics are averaged over
    `spec.axis_name`. Metrics named `loss.../...` must be finite, else the update is left out."""
    act: Callable[[PyTree, jax.Array, Key], tuple[jax.Array, jax.Array]]
    """(params, observations [N, *observation_shape], keys [N, 2]) -> (actions int32 [N], logits of
    the policy [N, A]). A key for each, so that what one draws does not depend on the others."""
    acting_params: Callable[[PyTree], PyTree]
    """state -> what `act` needs of it."""
    num_extra_batches: int = 0
    """Replay batches of an update beside the main one."""
    needs_replay: bool = False
    """Whether the main batch's replayed part may not be empty."""
    value: Callable[[PyTree, jax.Array], jax.Array] | None = None
    """(params of `act`, observations [N, ...]) -> values of these observations [N], for videos;
    None for an agent without values."""

    @property
    def uses_replay(self) -> bool:
        """Whether an update is impossible without replayed data."""
        return self.needs_replay or self.num_extra_batches > 0
