"""Waits: their end, the word on the way, and suspended processes."""

from __future__ import annotations

import dataclasses

import pytest

from bmg.replay.waiting import Wait
from tests.replay.test_waiting import fill, held_back
from tests.waiting import Call, Stop, eventually, waits


def test_a_wait_is_over_after_its_limit_and_says_once_that_it_is_long(clock):
    said = []
    wait = Wait(10.0, 0.5, 3.0, said.append)
    looks = 0
    while not wait.over():
        assert 0 < wait.seconds <= 0.5
        clock.now += 0.5
        looks += 1
    assert looks == 20
    assert said == [3.0]


def test_the_last_look_is_not_beyond_the_limit(clock):
    wait = Wait(1.2, 0.5, 60.0, lambda _: None)
    for expected in (0.5, 0.5, 0.2):
        assert wait.seconds == pytest.approx(expected)
        clock.now += wait.seconds
        over = wait.over()
    assert over


def test_a_suspended_process_did_not_wait(clock):
    said = []
    wait = Wait(600.0, 0.5, 60.0, said.append)
    clock.now += 3_600.0  # SIGSTOP for an hour
    assert not wait.over() and said == []
    while not wait.over():
        clock.now += 0.5
    assert 1_000 + 3_600 + 590 < clock.now < 1_000 + 3_600 + 600


def test_rare_looks_are_no_suspension(clock):
    wait = Wait(60.0, 20.0, 100.0, lambda _: None)
    looks = 0
    while not wait.over():
        clock.now += 20.0
        looks += 1
    assert looks == 3


def test_a_stalled_writer_names_the_table(make_replay, clock, config, make_unroll):
    said, written, stop = [], [], Stop()
    config = dataclasses.replace(config, online_capacity=2, max_unconfirmed=1, stall_after=0.3)
    replay = make_replay(config, stop, on_stall=said.append)()
    writing = Call(lambda: fill(replay, make_unroll, written, count=6))
    assert held_back(writing, stop, replay, config, written) and said == []
    clock.now += 0.4
    eventually(lambda: said)
    assert "table online holds 2 of at most 2 unrolls" in said[0] and "learner" in said[0]
    clock.now += 0.6
    assert waits(writing, stop, written)
    assert len(said) == 1, "one line for each wait, and it goes on"
    online = replay.sample_online(6)
    assert next(online).index.tolist() == list(range(6))
    assert writing.result()


@pytest.mark.parametrize("table", ["online", "replay"])
def test_a_stalled_sampler_names_the_table(make_replay, clock, config, make_unroll, table):
    said, stop = [], Stop()
    config = dataclasses.replace(config, stall_after=0.3)
    handle = make_replay(config, stop, on_stall=said.append)
    batches = getattr(handle(), f"sample_{table}")(2)
    sampling = Call(lambda: next(batches))
    assert waits(sampling, stop) and said == []
    clock.now += 0.4
    eventually(lambda: said)
    assert f"table {table} holds 0 of" in said[0] and "actors" in said[0]
    writer = handle()
    for i in range(10):
        assert writer.append(make_unroll(i))
    assert sampling.result().index.shape == (2,)
    assert len(said) == 1
