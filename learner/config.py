"""Configuration of the learner. Defaults are BMG Table 2 unless a field says otherwise."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class LearnerConfig:
    """Batches, devices, and how often things leave the learner."""

    unroll_length: int = 20
    """T, agent steps per unroll. Table 2."""
    online_batch: int = 6
    """Unrolls of each batch straight from the actors, each used once. Table 2."""
    replay_batch: int = 12
    """Unrolls of each batch from replay; 0 for none. Table 2."""
    num_devices: int = 0
    """Devices the batch is split over; 0 for all there are."""
    platform: str = ""
    """JAX platform of the learner (cpu, cuda, tpu); empty takes the best there is."""
    publish_interval: int = 1
    """Learner updates between publications of parameters to the actors. Ours."""
    prefetch: int = 1
    """Batches waiting on the device; more hides latency and adds policy lag. Ours."""
    skip_update: bool = False
    """Leave the update out and only consume the data, to measure the rest of the system. Ours."""
    profile_updates: int = 0
    """Updates of which a JAX profiler trace is written to the run directory's `profile/`, after the
    first ten; TensorBoard's profile plugin and Perfetto show it. Ours."""
    log_interval: float = 5.0
    """Seconds between lines in metrics.jsonl and TensorBoard. Ours."""
    checkpoint_interval: float = 300.0
    """Seconds between checkpoints. Ours."""
    checkpoints_kept: int = 2
    """Newest checkpoints kept. Ours."""

    def __post_init__(self):
        if self.unroll_length < 1 or self.online_batch < 1 or self.replay_batch < 0:
            raise ValueError(
                f"unroll_length {self.unroll_length}, online_batch {self.online_batch} and "
                f"replay_batch {self.replay_batch}: give at least 1, 1 and 0."
            )
        if self.profile_updates < 0:
            raise ValueError(f"profile_updates is {self.profile_updates}; give 0 or more.")
