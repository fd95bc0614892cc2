"""Configuration of the learner. Defaults are BMG Table 2 unless a field says otherwise."""

from __future__ import annotations

import dataclasses
from typing import Literal

from bmg.storage.fields import (
    Count,
    Depth,
    Devices,
    Few,
    Natural,
    Nodes,
    Pause,
    Seconds,
    check_fields,
    host_and_port,
    shown,
)


@dataclasses.dataclass(frozen=True)
class DevicesConfig:
    """How a host's devices are shared between learning and acting. Ours; with eight devices the
    defaults are the paper's split (BMG App. C.4: 6 learn, 2 act)."""

    learner: Devices = 0
    """Devices of each host that learn; 0 for all that do not act."""
    inference: Devices = 0
    """Devices of each host that choose actions, where the inference server does; 0 for a quarter of
    them: 2 of 8. The learner's first one alone acts as well."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """Several hosts that learn together: each has actors, replay and a learner's process of its
    own, and all of them make the same updates. Batches, schedules and frames are those of all hosts
    together. Ours."""

    count: Nodes = 1
    """How many there are."""
    index: Few = 0
    """Which of them this is; 0 writes checkpoints, TensorBoard and results, and evaluates."""
    coordinator: str = ""
    """ADDRESS:PORT at which host 0 waits for the others, the same on all hosts."""
    start_timeout: Seconds = 600.0
    """Seconds within which all hosts have come, and then within which they have made the first
    update: compilation and the first data included."""
    timeout: Seconds = 180.0
    """Seconds of an update, waiting for data included, after which a host is taken for missing; the
    run then ends on all others."""
    check_updates: Count = 1000
    """Updates after which it is checked again that all hosts hold the same state, bit for bit."""
    cluster: Literal["none", "auto", "slurm", "mpi", "kubernetes", "tpu"] = "none"
    """Where count, index and coordinator come from, as far as they are not given: slurm from srun;
    mpi from mpirun; kubernetes from an indexed Job (the index alone); tpu from a slice. auto: from
    whichever of these has started several hosts, else one host. none: from nowhere;
    docs/devices.md."""

    def __post_init__(self):
        check_fields(self)
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"hosts index is {self.index} of {self.count}; give 0 to {self.count - 1}, or "
                "another --hosts.count."
            )
        if self.count > 1 and host_and_port(self.coordinator) is None:
            raise ValueError(
                f"hosts coordinator is {shown(self.coordinator)}; give host 0's ADDRESS:PORT, such "
                "as 10.0.0.1:8476."
            )


@dataclasses.dataclass(frozen=True)
class LearnerConfig:
    """Batches, and how often things leave the learner."""

    unroll_length: Count = 20
    """T, agent steps per unroll. Table 2."""
    online_batch: Count = 6
    """Unrolls of each batch straight from the actors, each used once. Table 2."""
    replay_batch: Natural = 12
    """Unrolls of each batch from replay; 0 for none. Table 2."""
    platform: str = ""
    """JAX platform of the learner (cpu, cuda, tpu); empty takes the best there is."""
    publish_interval: Count = 1
    """Learner updates between publications of parameters to the actors. Ours."""
    prefetch: Depth = 1
    """Batches waiting on the device; more hides latency and adds policy lag. Ours."""
    profile_updates: Natural = 0
    """Updates of which a JAX profiler trace is written to the run directory's `profile/`, after the
    first ten; TensorBoard's profile plugin and Perfetto show it. Ours."""
    log_rows: Count = 200
    """Rows of a run in metrics.jsonl and TensorBoard, evenly over its frames. Ours."""
    log_interval: Pause = 60.0
    """Seconds after which a row is written even so; 0 for one after each update. Ours."""
    checkpoint_interval: Pause = 300.0
    """Seconds between checkpoints. Ours."""
    checkpoints_kept: Count = 2
    """Newest checkpoints kept. Ours."""

    @staticmethod
    def from_older(values: dict) -> dict:
        """Once, updates could be left out to measure the rest."""
        return {k: v for k, v in values.items() if (k, v) != ("skip_update", False)}

    def __post_init__(self):
        check_fields(self)


def check_shares(config: LearnerConfig, parts: int, of: str, otherwise: str = "") -> None:
    """Refuses batches that cannot be shared evenly by so many parts.

    Args:
      config: with the batches.
      parts: how many.
      of: what they are, such as hosts.
      otherwise: what else the user can do.

    Raises:
      ValueError: in one line, with the nearest sizes that can.
    """
    given, options = [], []
    for name in ("online_batch", "replay_batch"):
        size = getattr(config, name)
        if size % parts:
            below = size // parts * parts
            near = f"{below} or {below + parts}" if below else f"{parts}"
            given.append(f"{name} {size}")
            options.append(f"--learner.{name.replace('_', '-')} {near}")
    if given:
        raise ValueError(
            f"{' and '.join(given)} cannot be shared evenly by {parts} {of}; give "
            f"{' and '.join(options)}{otherwise}."
        )
