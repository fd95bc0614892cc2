"""Sizes that do not go together are refused in one line."""

import pytest

from bmg.replay.config import ReplayConfig


@pytest.mark.parametrize("value", [0, 33])
def test_a_minimum_that_is_never_reached_is_refused(value):
    expected = f"min_replay_size is {value}; allowed are integers from 1 to 32"
    with pytest.raises(ValueError, match=expected) as caught:
        ReplayConfig(online_capacity=32, min_replay_size=value)
    assert "\n" not in str(caught.value)


def test_minimum_is_unread_without_replay():
    assert ReplayConfig(replay_capacity=0, min_replay_size=1_000).replay_capacity == 0
