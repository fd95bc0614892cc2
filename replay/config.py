"""Sizes and deadlines of the replay. Imports neither Reverb nor TensorFlow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """How much experience is held, and how long anyone waits for it.

    Raises:
        ValueError: a size or a time that cannot work, in one line.
    """

    online_capacity: int = 32
    """Unrolls in the online queue; when it is full, the actors wait for the learner. Ours."""

    replay_capacity: int = 10_000
    """Unrolls in the uniform replay, oldest out first; 0 for no replay (plain IMPALA).
    BMG Table 2 (replay buffer size, read as unrolls)."""

    min_replay_size: int = 32
    """Unrolls in the replay before the first replay batch is given; unread without replay. Ours."""

    max_unconfirmed: int = 2
    """Unrolls one writer may have sent that the server has not taken yet. Ours."""

    samples_in_flight: int = 4
    """Unrolls one sampler asks of the server ahead of time. Ours."""

    prefetch_batches: int = 1
    """Batches one sampler makes up ahead of time. Ours."""

    write_timeout: float = 600.0
    """Seconds a writer waits for room in the queue before it gives up; longer than the
    learner takes to compile. Ours."""

    sample_timeout: float = 600.0
    """Seconds a sampler waits for a batch before it gives up; longer than the actors take
    to compile. Ours."""

    stall_after: float = 60.0
    """Seconds of any of these waits after which it is named in the log, with what the table holds,
    and counted. Ours."""

    close_timeout: float = 1.0
    """Seconds a closing writer waits for its unrolls to be taken (what is not is lost), and a
    closing sampler for its thread. Ours."""

    poll_interval: float = 0.5
    """Seconds between two looks at whether to stop, while waiting. Ours."""

    def __post_init__(self):
        for name in ("online_capacity", "max_unconfirmed", "samples_in_flight", "prefetch_batches"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("write_timeout", "sample_timeout", "stall_after", "poll_interval"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "more than 0 seconds")
        _require(self.close_timeout >= 0, "close_timeout", self.close_timeout, "0 seconds or more")
        _require(self.replay_capacity >= 0, "replay_capacity", self.replay_capacity,
                 "0 (no replay) or more")
        if self.replay_capacity:
            # While the learner waits for its first replay batch nobody empties the online queue.
            # Once that is full nothing more is written: a larger minimum would never be reached.
            most = min(self.online_capacity, self.replay_capacity)
            _require(1 <= self.min_replay_size <= most, "min_replay_size", self.min_replay_size,
                     f"between 1 and {most} (the smaller of online_capacity and replay_capacity)")


def _require(holds: bool, name: str, given: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"replay {name}={given}: must be {allowed}")
