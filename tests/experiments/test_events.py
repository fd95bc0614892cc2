"""TensorBoard's events of lifetimes: every row once, also where a run stops and goes on."""

from __future__ import annotations

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bmg.experiments.records import Records
from bmg.launch.events import Events


def steps_in(folder) -> list[int]:
    found = EventAccumulator(str(folder / "seed-0"))
    found.Reload()
    return [event.step for event in found.Scalars("x")]


def test_a_row_that_is_complete_at_a_stop_is_written(tmp_path):
    """And one that is not, once it is."""
    records = Records(("x",), 1, 1, 5)
    for stop, expected in ((10, [5, 10]), (13, [5, 10]), (20, [5, 10, 15, 20])):
        events = Events(tmp_path, range(1), 100, records.updates)
        while records.updates < stop:
            records = records.plus({"x": np.ones((1, 1))})
            events.update(records)
        events.update(records)
        events.close()
        assert steps_in(tmp_path) == expected
