"""What nodes say of themselves, and what the launcher makes of it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from bmg.launch.presets import PRESETS
from bmg.launch.remote.entrance import remote_actor_number
from bmg.launch.runtimes import assembly, status
from bmg.launch.runtimes.board import Board
from bmg.launch.runtimes.status import Notes, clear_statuses, node_metrics, node_names, process_of
from bmg.learner.config import HostsConfig
from bmg.learner.learner import NotFiniteError
from bmg.storage.checkpoint import CheckpointError
from bmg.storage.processes import name_of
from tests.tables import named
from tests.waiting import eventually


@pytest.fixture
def config(tmp_path):
    for folder in ("nodes", "logs"):
        (tmp_path / folder).mkdir()
    return dataclasses.replace(PRESETS["local"]("catch"), workdir=str(tmp_path))


@pytest.fixture
def board(config):
    return Board.make(node_names(config))


def test_a_node_says_how_it_is(config, board):
    node = status.Node(config, "actor_0", board)
    said = board.statuses()["actor_0"]
    assert (said["state"], said["message"], said["pid"]) == ("running", "", os.getpid())
    assert process_of(said) == psutil.Process()
    with node.ending() as finish:
        finish("finished")
    assert board.statuses()["actor_0"]["state"] == "finished"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("two\nlines"), "failed"),
        (TimeoutError("no room"), "stalled"),
        (CheckpointError("is truncated"), "failed"),
        (NotFiniteError("all skipped"), "failed"),
    ],
)
def test_an_error_is_in_the_state_and_in_the_log(config, board, error, state):
    node = status.Node(config, "actor_1", board)
    with pytest.raises(type(error)), node.ending():
        raise error
    said = board.statuses()["actor_1"]
    assert said["state"] == state and said["message"] == " ".join(str(error).split())
    ours = isinstance(error, (CheckpointError, NotFiniteError))
    assert said["mistake"] == ours, "a library's ValueError may come of a lost host"
    assert "Traceback" in (config.path / "logs" / "actor_1.log").read_text()
    assert status.failed_nodes(board.statuses()) == ["actor_1"]


def test_what_keeps_a_run_from_its_first_update():
    nodes = ["replay", "learner", "actor_0", "actor_1", "evaluator_0", "gate"]
    for begun, hosts, words in [
        ([], 1, "not begun yet: replay, learner, actor_0 and 2 more"),
        (["replay", "learner", "evaluator_0"], 2, "not begun yet: actor_0, actor_1"),
        (nodes[:-1], 1, "all nodes have begun; the first compilation, the first unrolls"),
        (nodes[:-1], 2,
         "all nodes have begun; other hosts, the first compilation, the first unrolls"),
    ]:  # fmt: skip
        with named(begun, hosts):
            said = dict.fromkeys(begun, {"state": "running"})
            assert status.what_is_awaited(nodes, said, hosts) == words
            assert len(f"starting for 999 s: {words}") <= 100


def test_starts_are_counted_over_the_whole_run_and_restarts_in_its_stretch(config, board):
    assert [status.Node(config, "actor_0", board).start for _ in range(3)] == [0, 1, 2]
    assert status.Node(config, "evaluator_0", board).start == 0
    assert board.statuses()["actor_0"]["restarts"] == 2
    assert node_metrics(board)["nodes/restarts"] == 2
    clear_statuses(config.path)
    assert not list((config.path / "nodes").glob("*.json"))
    board = Board.make(node_names(config))  # of the next stretch
    assert status.Node(config, "actor_0", board).start == 3
    assert node_metrics(board)["nodes/restarts"] == 0


def test_no_two_starts_share_their_seeds():
    def config_of(host: int):
        config = PRESETS["local"]("catch")
        return dataclasses.replace(
            config,
            actors=dataclasses.replace(config.actors, num_actors=250),
            learner=dataclasses.replace(config.learner, replay_batch=4),
            hosts=HostsConfig(4, host, "10.0.0.1:8476"),
        )

    configs = [config_of(host) for host in range(4)]
    numbers = {
        assembly.actor_number(config, index, start)
        for config in configs
        for index in range(250)
        for start in range(20)
    }
    numbers |= {
        assembly.evaluator_number(index, start) for index in range(1000) for start in range(20)
    }
    assert len(numbers) == 2 * 1000 * 20 and min(numbers) == 0
    remote = {remote_actor_number(config, n) for config in configs for n in range(20_000)}
    assert len(remote) == 4 * 20_000 and not remote & numbers
    numbers |= remote
    assert max(numbers) < 2**31 // 1024, "each has a block of 1024 seeds"
    assert [assembly.actor_number(configs[0], i, 0) for i in range(3)] == [0, 1, 2]


def test_remote_actors_are_counted_where_there_is_a_gate(config):
    assert "nodes/remote_actors" not in node_metrics(Board.make(node_names(config)))
    board = Board.make(node_names(dataclasses.replace(config, gate_port=8500)))
    status.Node(config, "actor_0", board)
    board.put(status.GATE, status.gate_status(actors=3, lost=2))
    found = node_metrics(board)
    assert (found["nodes/remote_actors"], found["nodes/remote_actors_lost"]) == (3, 2)
    assert found["nodes/restarts"] == 0
    assert process_of(board.statuses()[status.GATE]) is None, "it is the launcher's, to be left"
    assert Notes().new(board.statuses()) == [] and not status.failed_nodes(board.statuses())


def test_each_start_plays_another_game(config):
    def first_frames(start: int):
        environment = assembly._make_environments(
            config, assembly.actor_number(config, 0, start), 8, 1
        )
        return environment.reset().frame.tobytes(), environment.step([1] * 8).frame.tobytes()

    assert first_frames(0) == first_frames(0)
    assert len({first_frames(start) for start in range(6)}) == 6


def test_every_note_is_told_once(config, board):
    notes, node = Notes(), status.Node(config, "learner", board)
    assert notes.new(board.statuses()) == []
    node.note("one")
    node.set_state("running")  # what is said of the state takes no note away
    node.note("two")
    assert notes.new(board.statuses()) == ["learner: one", "learner: two"]
    assert notes.new(board.statuses()) == []
    for i in range(100):
        node.note(f"{i}")
    assert notes.new(board.statuses()) == [f"learner: {i}" for i in range(80, 100)]
    assert status.Node(config, "learner", board).stalls == 0
    assert notes.new(board.statuses()) == []
    node = status.Node(config, "learner", board)
    node.stalled("no room")
    assert node.stalls == 1
    assert notes.new(board.statuses()) == ["learner: stalled: no room"]


def test_signs_of_life_touch_the_file(config, board, monkeypatch):
    monkeypatch.setattr(status, "_PULSE_INTERVAL", 0.05)
    node = status.Node(config, "actor_0", board)
    stop = threading.Event()
    alive = node.alive(stop.is_set)
    path = status.status_file(config.path, "actor_0")
    os.utime(path, (1.0, 1.0))
    assert alive() is False
    touched = path.stat().st_mtime
    assert touched > 1.0
    eventually(lambda: not alive() and path.stat().st_mtime > touched)
    stop.set()
    assert alive() is True


def test_a_node_that_cannot_write_lives_on(config, board):
    node = status.Node(config, "actor_0", board)
    for path in (config.path / "nodes").iterdir():
        path.unlink()
    (config.path / "nodes").rmdir()
    node.note("the launcher reads this")
    assert node.alive(lambda: False)() is False
    assert board.beats("actor_0") == 1
    assert board.get("actor_0")["notes"] == ["the launcher reads this"]
    with pytest.raises(ValueError), node.ending():
        raise ValueError("the end")
    assert board.get("actor_0")["state"] == "failed"
    assert status.Node(config, "actor_0", board).start == 1, "another start, other seeds"


def test_nodes_of_an_earlier_run_must_have_left(config, monkeypatch):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        path = status.status_file(config.path, "learner")
        said = {"pid": sleeper.pid, "process": name_of(sleeper.pid), "state": "running"}
        path.write_text(json.dumps(said))
        # As after a step of the clock: psutil works out by it when a process began.
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() + 3_600)
        with pytest.raises(ValueError, match=f"earlier run are still in .*: {sleeper.pid};"):
            clear_statuses(config.path)
        assert path.exists()
        later = {**said, "process": f"{sleeper.pid}/of-a-later-process"}
        assert process_of(later) is None
        sleeper.send_signal(signal.SIGKILL)
        eventually(lambda: process_of(said) is None)
        clear_statuses(config.path)
        assert not path.exists()
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "5", "null", '{"process": 5}', '{"process": "x/y"}', "[" * 100_000]
)
def test_what_a_node_never_said_is_no_obstacle(config, content):
    """A file that is empty or something else, as after a crash of the machine."""
    path = status.status_file(config.path, "actor_0")
    path.write_text(content)
    path.with_suffix(".starts").write_text(content)
    clear_statuses(config.path)
    assert not path.exists()
    assert status.Node(config, "actor_0", Board.make(["actor_0"])).start in (0, 5)


def test_threads_may_all_say_something(config, board):
    node = status.Node(config, "learner", board)
    threads = [
        threading.Thread(target=lambda: [node.note(f"{i}") for i in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert "learner" in board.statuses(), "never half a file"
        time.sleep(0.001)
    assert board.statuses()["learner"]["noted"] == 4 * 20
    assert not list(config.path.rglob("*.tmp"))


def test_memory_is_of_each_process(config, board, monkeypatch):
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() + 3_600)
    status.Node(config, "learner", board)
    status.Node(config, "actor_0", board)
    found = node_metrics(board)
    memory = {name for name in found if name.startswith("memory_mib/")}
    assert memory == {"memory_mib/learner"}, "two nodes, one process"
    assert found["memory_mib/learner"] == pytest.approx(
        psutil.Process().memory_info().rss / 2**20, rel=0.1
    )
