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

from launch import parts, status
from launch.presets import PRESETS
from launch.status import Node, Notes, clear_statuses, node_metrics, process_of, read_statuses
from learner.config import HostsConfig
from tests.waiting import eventually


@pytest.fixture
def config(tmp_path):
    for folder in ("nodes", "logs"):
        (tmp_path / folder).mkdir()
    return dataclasses.replace(PRESETS["local"]("catch"), workdir=str(tmp_path))


def test_a_node_says_how_it_is(config):
    node = Node(config, "actor_0")
    said = read_statuses(config)["actor_0"]
    assert (said["state"], said["message"], said["pid"]) == ("running", "", os.getpid())
    assert process_of(said) == psutil.Process()
    with node.ending() as finish:
        finish("finished")
    assert read_statuses(config)["actor_0"]["state"] == "finished"


@pytest.mark.parametrize(
    ("error", "state"), [(ValueError("two\nlines"), "failed"), (TimeoutError("no room"), "stalled")]
)
def test_an_error_is_in_the_state_and_in_the_log(config, error, state):
    node = Node(config, "actor_1")
    with pytest.raises(type(error)), node.ending():
        raise error
    said = read_statuses(config)["actor_1"]
    assert said["state"] == state and said["message"] == " ".join(str(error).split())
    assert "Traceback" in (config.path / "logs" / "actor_1.log").read_text()
    assert status.failed_nodes(read_statuses(config)) == ["actor_1"]


def test_starts_are_counted_over_the_whole_run_and_restarts_in_its_stretch(config):
    assert [Node(config, "actor_0").start for _ in range(3)] == [0, 1, 2]
    assert Node(config, "evaluator_0").start == 0
    assert read_statuses(config)["actor_0"]["restarts"] == 2
    assert node_metrics(config)["nodes/restarts"] == 2
    clear_statuses(config.path)
    assert read_statuses(config) == {}
    assert Node(config, "actor_0").start == 3
    assert node_metrics(config)["nodes/restarts"] == 0


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
        parts.actor_number(config, index, start)
        for config in configs
        for index in range(250)
        for start in range(20)
    }
    numbers |= {
        parts.evaluator_number(index, start) for index in range(1000) for start in range(20)
    }
    assert len(numbers) == 2 * 1000 * 20 and min(numbers) == 0
    assert max(numbers) < 2**31 // 1024, "each has a block of 1024 seeds"
    assert [parts.actor_number(configs[0], i, 0) for i in range(3)] == [0, 1, 2]


def test_each_start_plays_another_game(config):
    def first_frames(start: int):
        environment = parts._make_environments(config, parts.actor_number(config, 0, start), 8, 1)
        return environment.reset().frame.tobytes(), environment.step([1] * 8).frame.tobytes()

    assert first_frames(0) == first_frames(0)
    assert len({first_frames(start) for start in range(6)}) == 6


def test_every_note_is_told_once(config):
    notes, node = Notes(), Node(config, "learner")
    assert notes.new(read_statuses(config)) == []
    node.note("one")
    node.say("running")  # what is said of the state takes no note away
    node.note("two")
    assert notes.new(read_statuses(config)) == ["learner: one", "learner: two"]
    assert notes.new(read_statuses(config)) == []
    for i in range(100):
        node.note(f"{i}")
    assert notes.new(read_statuses(config)) == [f"learner: {i}" for i in range(80, 100)]
    assert Node(config, "learner").stalls == 0
    assert notes.new(read_statuses(config)) == []
    node = Node(config, "learner")
    node.stalled("no room")
    assert node.stalls == 1
    assert notes.new(read_statuses(config)) == ["learner: stalled: no room"]


def test_signs_of_life_touch_the_file(config, monkeypatch):
    monkeypatch.setattr(status, "_PULSE_INTERVAL", 0.05)
    node = Node(config, "actor_0")
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


def test_a_node_that_cannot_write_lives_on(config):
    node = Node(config, "actor_0")
    for path in (config.path / "nodes").iterdir():
        path.unlink()
    (config.path / "nodes").rmdir()
    node.note("nobody reads this")
    assert node.alive(lambda: False)() is False


def test_nodes_of_an_earlier_run_must_have_left(config):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        path = status.status_file(config.path, "learner")
        created = psutil.Process(sleeper.pid).create_time()
        said = {"pid": sleeper.pid, "created": created, "state": "running", "message": "",
                "restarts": 0}  # fmt: skip
        path.write_text(json.dumps(said))
        with pytest.raises(ValueError, match=f"earlier run are still in .*: {sleeper.pid};"):
            clear_statuses(config.path)
        assert path.exists()
        path.write_text(json.dumps({**said, "created": created - 100.0}))
        assert process_of(json.loads(path.read_text())) is None, "a later process of its number"
        path.write_text(json.dumps(said))
        sleeper.send_signal(signal.SIGKILL)
        eventually(lambda: process_of(said) is None)
        clear_statuses(config.path)
        assert not path.exists()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_threads_may_all_say_something(config):
    node = Node(config, "learner")
    threads = [
        threading.Thread(target=lambda: [node.note(f"{i}") for i in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert "learner" in read_statuses(config), "never half a file"
        time.sleep(0.001)
    assert read_statuses(config)["learner"]["noted"] == 4 * 20
    assert not list(config.path.rglob("*.tmp"))


def test_memory_is_of_each_process(config):
    Node(config, "learner")
    Node(config, "actor_0")
    found = node_metrics(config)
    memory = {name for name in found if name.startswith("memory_mib/")}
    assert memory == {"memory_mib/learner"}, "two nodes, one process"
    assert found["memory_mib/learner"] == pytest.approx(
        psutil.Process().memory_info().rss / 2**20, rel=0.1
    )
