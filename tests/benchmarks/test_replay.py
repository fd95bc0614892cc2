"""`bmg benchmark replay`: what is recorded, what is read, and that nothing is left behind."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil

import numpy as np
import pytest

from bmg.actors.rollout import trajectory_signature
from bmg.benchmarks import replay
from bmg.benchmarks.replay import Config
from bmg.environments.atari import PAPER, AtariConfig
from bmg.environments.factory import make_spec

COLUMNS = [
    "what", "updates_per_second", "megabytes_per_second", "of_needed", "reader_ms", "server_ms",
    "writers_ms", "busiest_thread_ms",
]  # fmt: skip
TINY = AtariConfig(height=14, width=10)


def tiny(*only: str) -> Config:
    return Config(
        seconds=0.5, unrolls=30, unroll_length=4, replay_capacity=40, atari=TINY, only=only
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with what is recorded."""
    folder = tmp_path_factory.mktemp("recorded")
    replay.record(tiny(), folder)
    return folder


@pytest.fixture
def recorded_before(recorded, monkeypatch):
    """A measurement takes it instead of recording anew."""

    def record(config, folder):
        shutil.copytree(recorded, folder, dirs_exist_ok=True)

    monkeypatch.setattr(replay, "record", record)


def test_what_the_paper_needs():
    signature = trajectory_signature(make_spec("pong", PAPER), Config.unroll_length)
    assert math.isclose(replay.needed(Config()), 200e6 / 86_400 / 480)
    frames = (6 + 4 * 12) * 24 * 210 * 160 * 3
    assert frames < replay.update_bytes(Config(), signature) < 1.001 * frames


def test_many_different_unrolls_of_the_programs_signature_are_recorded(recorded):
    config, found = tiny(), replay.load(recorded)
    assert len({frames.tobytes() for frames in found.frames}) == config.unrolls
    assert np.unique(found.action).tolist() == list(range(6))
    wanted = trajectory_signature(make_spec("pong", TINY), config.unroll_length)
    assert replay.signature_of(found) == wanted


@pytest.mark.parametrize(
    "only",
    [
        ("in one process's memory", "copies alone"),
        pytest.param(("as the program has it",), marks=pytest.mark.reverb),
        pytest.param(("server in the reader's process",), marks=pytest.mark.reverb),
    ],
)
def test_the_rows_tell_of_all_that_an_update_reads(recorded_before, only):
    config = tiny(*only)
    signature = trajectory_signature(make_spec("pong", TINY), config.unroll_length)
    rows = list(replay.measure(config))
    assert [row["what"] for row in rows] == list(only)
    for row in rows:
        assert list(row) == COLUMNS
        read = 1e6 * row["megabytes_per_second"] / row["updates_per_second"]
        assert math.isclose(read, replay.update_bytes(config, signature))
        assert math.isclose(row["of_needed"], row["updates_per_second"] / replay.needed(config))
        # Both are read in whole ticks of the kernel's clock, as user's and system's time.
        ticks = 2 * 1000 / os.sysconf("SC_CLK_TCK")
        most = row["reader_ms"] + ticks / (config.seconds * row["updates_per_second"])
        assert 0 < row["busiest_thread_ms"] <= most
        assert (row["server_ms"] > 0) == (row["what"] == "as the program has it")
    assert not multiprocessing.active_children()


def test_a_process_that_fails_ends_the_measurement(recorded_before):
    """One line that says so; the others have ended too."""
    config = tiny("copies")
    object.__setattr__(config, "online_batch", -1)  # which no configuration can have
    with pytest.raises(RuntimeError, match="ended early"):
        list(replay.measure(config))
    assert not multiprocessing.active_children()


def test_an_unknown_row_is_refused():
    with pytest.raises(ValueError, match="copies alone"):
        list(replay.measure(Config(only=("copy",))))
