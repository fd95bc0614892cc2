"""Sizes and deadlines that cannot work are refused in one line."""

import pytest

from replay.config import ReplayConfig


@pytest.mark.parametrize("field, value, allowed", [
    ("online_capacity", 0, "at least 1"),
    ("replay_capacity", -1, "0 .no replay. or more"),
    ("min_replay_size", 0, "between 1 and 32"),
    ("min_replay_size", 33, "between 1 and 32"),
    ("max_unconfirmed", 0, "at least 1"),
    ("samples_in_flight", 0, "at least 1"),
    ("prefetch_batches", 0, "at least 1"),
    ("write_timeout", 0.0, "more than 0"),
    ("sample_timeout", -1.0, "more than 0"),
    ("poll_interval", 0.0, "more than 0"),
    ("close_timeout", -1.0, "0 seconds or more"),
])
def test_impossible_values_are_refused(field, value, allowed):
    with pytest.raises(ValueError, match=f"replay {field}={value}: must be {allowed}") as caught:
        ReplayConfig(**{"online_capacity": 32, field: value})
    assert "\n" not in str(caught.value)


def test_minimum_is_unread_without_replay():
    assert ReplayConfig(replay_capacity=0, min_replay_size=1_000).replay_capacity == 0
