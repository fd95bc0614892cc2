"""The agent's update on all devices, as one compiled program.

Parameters are replicated, the batch is split, gradients are averaged inside the differentiated
inner step: the same global batch gives the same update on any number of devices.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bmg.agents.agent import Agent, Metrics, Spec
from bmg.agents.config import AgentConfig
from bmg.agents.factory import make_agent
from bmg.agents.trajectory import Trajectory, UpdateBatch
from bmg.learner.config import LearnerConfig, check_shares
from bmg.learner.guard import LearnerState, guarded

AXIS = "devices"


@functools.partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["names"])
@dataclasses.dataclass(frozen=True)
class MetricsRow:
    """Metrics in one array: a transfer of many scalars costs more than the scalars."""

    values: jax.Array  # float32 [M]
    names: tuple[str, ...]  # M

    @classmethod
    def of(cls, metrics: Metrics) -> MetricsRow:
        """Of scalars by name."""
        names = tuple(sorted(metrics))
        return cls(jnp.stack([metrics[name] for name in names]), names)


class ShardedAgent(NamedTuple):
    """An agent on several devices."""

    agent: Agent
    init: Callable[[jax.Array], LearnerState]  # key -> state
    mesh: Mesh  # the devices along one axis
    update: Callable[[LearnerState, UpdateBatch], tuple[LearnerState, MetricsRow]]

    def is_alike(self, state: LearnerState) -> bool:
        """Whether all devices hold the same state, by the sums of its arrays."""

        def one(state):
            arrays = [x for x in jax.tree.leaves(state) if x.size]
            sums = jnp.stack([jnp.sum(jnp.nan_to_num(x.astype(jnp.float32))) for x in arrays])
            return jnp.all(jax.lax.pmax(sums, AXIS) == jax.lax.pmin(sums, AXIS))

        everywhere = PartitionSpec()
        mapped = jax.shard_map(
            one, mesh=self.mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
        )
        return bool(first(jax.jit(mapped)(state)))

    def replicate(self, state: LearnerState) -> LearnerState:
        """Puts one copy of the state on each device; all hosts give the same state."""
        # `update` donates what it is given: every array has to be a new one.
        state = jax.tree.map(np.array, state)
        return jax.device_put(state, NamedSharding(self.mesh, PartitionSpec()))

    def shard(self, batch: UpdateBatch) -> UpdateBatch:
        """Splits a host batch [B, ...]: each device gets its part alone, in one transfer. Of
        several hosts each gives what its own devices get."""
        split = NamedSharding(self.mesh, PartitionSpec(AXIS))
        if split.is_fully_addressable:
            return jax.device_put(batch, split)
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(split, np.asarray(x)), batch
        )


def check_batch(config: LearnerConfig, agent: Agent, num_devices: int) -> None:
    """Refuses batches that devices cannot share evenly, or that the agent cannot use.

    Raises:
      ValueError: in one line.
    """
    check_shares(config, num_devices, "devices", ", or another --devices.learner")
    if agent.uses_replay and config.replay_batch == 0:
        raise ValueError(
            "replay_batch is 0, but K > 1, L > 1, extra_replay_batches and final_data 'replay' "
            "draw from replay; give --learner.replay-batch."
        )


def with_precision(config: AgentConfig, device: jax.Device) -> AgentConfig:
    """The agent with its network's precision chosen for the learner's device.

    Raises:
      ValueError: bfloat16 on a GPU that lacks it; one line.
    """
    precision = config.network.precision
    has_it = device.platform != "gpu" or float(device.compute_capability) >= 8.0
    if precision == "auto":
        precision = "bfloat16" if device.platform != "cpu" and has_it else "float32"
    if precision == "bfloat16" and not has_it:
        raise ValueError(
            f"{device.device_kind} has no bfloat16; give --agent.network.precision float32."
        )
    network = dataclasses.replace(config.network, precision=precision)
    return dataclasses.replace(config, network=network)


def make_sharded_agent(
    agent_config: AgentConfig,
    config: LearnerConfig,
    spec: Spec,
    action_repeat: int,
    devices: Sequence[jax.Device],
) -> ShardedAgent:
    """Spreads the agent's update over `devices`; the state's buffers are donated.

    Args:
      agent_config: which agent.
      config: batch sizes and unroll length.
      spec: what the agent is made for.
      action_repeat: environment frames per agent step.
      devices: where it runs.
    """
    agent = make_agent(with_precision(agent_config, devices[0]), spec._replace(axis_name=AXIS))
    check_batch(config, agent, len(devices))
    whole = guarded(agent, frames_per_update(config, action_repeat))

    def update(state: LearnerState, batch: UpdateBatch):
        state, metrics = whole.update(state, batch)
        return state, MetricsRow.of(metrics)

    mesh = Mesh(np.array(devices), (AXIS,))
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    on_all_devices = jax.shard_map(
        update,
        mesh=mesh,
        in_specs=(everywhere, split),
        out_specs=(everywhere, everywhere),
        check_vma=False,  # the update says itself where it averages over devices
    )
    update = jax.jit(on_all_devices, donate_argnums=0)
    # As one program, which may have been kept: operation by operation it takes seconds.
    return ShardedAgent(agent, jax.jit(whole.init), mesh, update)


def frames_per_update(config: LearnerConfig, action_repeat: int) -> int:
    """Environment frames that one learner update consumes: its online data."""
    return config.online_batch * config.unroll_length * action_repeat


def first(tree):
    """The first device's copy of a replicated tree, as numpy arrays."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data), tree)


def empty_trajectories(signature: Trajectory) -> Trajectory:
    """Zero unrolls, for a learner without replay."""
    return jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), signature)
