"""Sizes and deadlines of the replay. Imports neither Reverb nor TensorFlow."""

import dataclasses

from bmg.storage.fields import Count, FieldError, Natural, Pause, Seconds, check_fields


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """How much experience is kept, and the time limits of waiting for it.

    Raises:
        ValueError: a size or a time that cannot work, in one line.
    """

    online_capacity: Count = 32
    """Unrolls in the online queue; when it is full, the actors wait for the learner. Ours."""

    replay_capacity: Natural = 10_000
    """Unrolls in the uniform replay, oldest out first; 0 for no replay (plain IMPALA).
    BMG Table 2 (replay buffer size, read as unrolls)."""

    min_replay_size: Natural = 32
    """Unrolls in the replay before the first replay batch is given; unread without replay. Ours."""

    max_unconfirmed: Count = 2
    """Unrolls one writer may have sent that the server has not taken yet. Ours."""

    samples_in_flight: Count = 4
    """Unrolls one sampler asks of the server ahead of time. Ours."""

    prefetch_batches: Count = 1
    """Batches one sampler makes up ahead of time. Ours."""

    write_timeout: Seconds = 600.0
    """Seconds a writer waits for room in the queue before it gives up; longer than the
    learner takes to compile. Ours."""

    sample_timeout: Seconds = 600.0
    """Seconds a sampler waits for a batch before it gives up; longer than the actors take
    to compile. Ours."""

    stall_after: Seconds = 60.0
    """Seconds of any of these waits after which it is named in the log, with what the table holds,
    and counted. Ours."""

    close_timeout: Pause = 1.0
    """Seconds a closing writer waits for its unrolls to be taken (what is not is lost), and a
    closing sampler for its thread. Ours."""

    poll_interval: Seconds = 0.5
    """Seconds between two looks at whether to stop, while waiting. Ours."""

    def __post_init__(self):
        check_fields(self)
        if self.replay_capacity:
            # While the learner waits for its first replay batch nobody empties the online queue.
            # Once that is full nothing more is written: a larger minimum would never be reached.
            most = min(self.online_capacity, self.replay_capacity)
            if not 1 <= self.min_replay_size <= most:
                raise FieldError(
                    "min_replay_size",
                    f"is {self.min_replay_size}; allowed are integers from 1 to {most} (the "
                    "smaller of online_capacity and replay_capacity)",
                )
