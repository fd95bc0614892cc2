"""The tables that the Reverb server holds."""

from __future__ import annotations

from typing import Any

import tree

from bmg.replay.backend import reverb, tf
from bmg.replay.config import ReplayConfig
from bmg.replay.interface import ONLINE, REPLAY
from bmg.replay.signature import Signature


class NoCheckpointer(reverb.checkpointers.CheckpointerBase):
    """A server's checkpoints are not wanted: what the replay held is filled anew. Reverb's own
    default makes a temporary directory, which a killed process leaves behind."""

    def __init__(self):
        pass

    def internal_checkpointer(self) -> None:
        """Nothing."""


def table_names(config: ReplayConfig) -> tuple[str, ...]:
    """Returns the tables' names, in the order in which a writer makes its items."""
    return (REPLAY, ONLINE) if config.replay_capacity else (ONLINE,)


def make_tables(signature: Any, config: ReplayConfig) -> list[reverb.Table]:
    """Returns the tables: `online`, and `replay` if it has a capacity. An unroll is one chunk, to
    which both tables' items point.

    Args:
        signature: (nested) structure of objects with `.shape` and `.dtype` of one unroll.
        config: sizes.
    """
    checked = Signature(signature)
    spec = tree.unflatten_as(
        signature,
        [
            tf.TensorSpec(shape, dtype, name)
            for shape, dtype, name in zip(checked.shapes, checked.dtypes, checked.names)
        ],
    )
    tables = [reverb.Table.queue(ONLINE, config.online_capacity, signature=spec)]
    if config.replay_capacity:
        tables.append(
            reverb.Table(
                name=REPLAY,
                sampler=reverb.selectors.Uniform(),
                remover=reverb.selectors.Fifo(),
                max_size=config.replay_capacity,
                rate_limiter=reverb.rate_limiters.MinSize(config.min_replay_size),
                max_times_sampled=0,  # no limit
                signature=spec,
            )
        )
    return tables
