"""When a node starts again: delays that grow, deaths that are forgotten, and an end."""

from __future__ import annotations

import pytest

from bmg.launch.runtimes.restarts import Restarts
from tests.waiting import Clock


@pytest.fixture
def clock():
    return Clock()


def delay_of(restarts: Restarts, clock: Clock, node: str) -> float:
    """Seconds from a death, which there must be, to the next start."""
    died = clock.now
    while not (due := restarts.due()):
        clock.now += 0.5
    assert due == [node]
    return clock.now - died


def test_the_delay_doubles_while_deaths_follow_each_other(clock):
    restarts = Restarts(100, clock)
    delays = []
    for _ in range(7):
        assert restarts.died("actor_0")
        delays.append(delay_of(restarts, clock, "actor_0"))
    assert delays[:5] == [1, 2, 4, 8, 16]
    assert max(delays) <= 30


def test_a_minute_of_life_resets_the_delay(clock):
    restarts = Restarts(100, clock)
    for _ in range(4):
        assert restarts.died("actor_0")
        assert delay_of(restarts, clock, "actor_0") == 1
        clock.now += 61


def test_the_limit_is_of_ten_minutes_and_of_each_node(clock):
    restarts = Restarts(3, clock)
    for node in ("actor_0", "actor_1"):
        for _ in range(3):
            assert restarts.died(node)
            delay_of(restarts, clock, node)
    assert not restarts.died("actor_0"), "the fourth"
    assert restarts.due() == [] and restarts.waiting == set()
    clock.now += 700
    assert restarts.died("actor_1"), "the others were long ago"


def test_none_are_allowed(clock):
    restarts = Restarts(0, clock)
    assert not restarts.died("actor_0")
    assert "1 times" in restarts.describe("actor_0", "boom")


def test_who_waits_is_known_until_it_starts(clock):
    restarts = Restarts(5, clock)
    assert restarts.died("actor_0") and restarts.died("evaluator_0")
    assert restarts.waiting == {"actor_0", "evaluator_0"}
    assert restarts.due() == []
    clock.now += 1
    assert sorted(restarts.due()) == ["actor_0", "evaluator_0"]
    assert restarts.waiting == set() and restarts.due() == []


def test_the_line_says_who_why_and_when(clock):
    restarts = Restarts(2, clock)
    restarts.died("actor_0")
    assert restarts.describe("actor_0", "no ROM") == (
        "actor_0 died (no ROM); it starts again in 1 s"
    )
    assert "killed" in restarts.describe("actor_0", "")
    clock.now += 1
    restarts.due()
    restarts.died("actor_0")
    clock.now += 2
    restarts.due()
    assert not restarts.died("actor_0")
    line = restarts.describe("actor_0", "no ROM")
    assert "no ROM" in line and "3 times within 10 minutes" in line and "--node-restarts 2" in line
