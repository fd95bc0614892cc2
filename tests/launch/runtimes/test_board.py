"""What nodes say, in memory that processes share: always whole, whoever dies in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from bmg.launch.runtimes import board as board_lib
from bmg.launch.runtimes.board import Board
from tests.launch.commands import ROOT

NODES = ["learner", "actor_0", "actor_1"]
WRITER = """
import sys
from bmg.launch.runtimes.board import Board

board = Board.at(["learner", "actor_0", "actor_1"], sys.argv[1])
number = 0
while True:
    board.put("actor_0", {"number": number, "text": "x" * (number % 5_000)})
    board.beat("actor_0")
    number += 1
    if number == 100:
        print("ready", flush=True)
"""


def test_each_node_has_a_place_of_its_own():
    board = Board.make(NODES)
    assert board.statuses() == {} and board.nodes == NODES
    board.put("actor_0", {"state": "running"})
    board.put("learner", {"state": "κ", "notes": ["a", "b"]})
    assert board.statuses() == {
        "learner": {"state": "κ", "notes": ["a", "b"]}, "actor_0": {"state": "running"}
    }  # fmt: skip
    board.put("actor_0", {"state": "stopped"})
    assert board.get("actor_0") == {"state": "stopped"} and board.get("actor_1") is None
    for _ in range(3):
        board.beat("actor_1")
    assert [board.beats(node) for node in NODES] == [0, 0, 3]
    board.put("actor_1", {})
    assert board.beats("actor_1") == 3 and board.get("actor_1") == {}


def test_what_is_too_long_is_refused_and_what_was_there_stays():
    board = Board.make(NODES)
    board.put("learner", {"state": "running"})
    with pytest.raises(ValueError, match="learner"):
        board.put("learner", {"state": "x" * 70_000})
    assert board.get("learner") == {"state": "running"}


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared memory of this kind is Linux's")
def test_a_writer_that_is_killed_leaves_something_whole():
    board, address = Board.share(NODES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, address], env=environment, stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout.readline() == b"ready\n"
            seen = set()
            while len(seen) < 20:  # however slowly they take turns
                status = board.get("actor_0")
                assert len(status["text"]) == status["number"] % 5_000
                seen.add(status["number"])
            writer.send_signal(signal.SIGKILL)
        status = Board.at(NODES, address).get("actor_0")  # with no memory of what was before
        assert len(status["text"]) == status["number"] % 5_000
    assert board.beats("actor_0") > 100 and board.get("learner") is None


def test_a_half_that_is_damaged_is_not_believed(monkeypatch):
    monkeypatch.setattr(board_lib, "_LOOKS", 2)
    board = Board.make(NODES)
    board.put("learner", {"state": "running"})
    assert board.get("learner") == {"state": "running"}
    at = board._memory.find(b"running")
    board._memory[at] = ord("R")
    assert board.get("learner") == {"state": "running"}, "what was read last"
    assert Board(NODES, board._memory).get("learner") is None
