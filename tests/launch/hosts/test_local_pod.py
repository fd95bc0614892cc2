"""Hosts as processes of this machine: they learn together, and end together."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal

import psutil
import pytest

from bmg.launch.hosts.local_pod import Layout, _cores
from tests.launch.commands import (
    checkpoints_of,
    json_of,
    learner_rows,
    nodes_of,
    rows_of,
    started,
)
from tests.launch.test_cli import save_run
from tests.tables import named

POD = (
    "pod local --game catch --actors.num-actors 1 --learner.replay-batch 4 "
    "--learner.log-interval 0.5 --evaluator.num-evaluators 0"
).split()


BAD_INPUT = [
    ("--hosts 0", ["--hosts is 0", "from 1 to 250"]),
    ("--hosts", ["--hosts has no value"]),
    ("--hosts two", ["--hosts is 'two'"]),
    ("--hosts 251", ["--hosts is 251", "to 250"]),
    ("--hosts 2 --devices-per-host 0", ["--devices-per-host is 0"]),
    ("--hosts 2 --cores-per-host -1", ["--cores-per-host is -1"]),
    ("--hosts 2 --game catch", ["replay_batch 1", "2 hosts", "--learner.replay-batch 2;"]),
    ("--hosts 2 --framez 3", ["no option '--framez'", "--frames"]),
    (
        "--hosts 3 --game catch",
        ["online_batch 4", "3 hosts", "online-batch 3 or 6 and", "replay-batch 3;"],
    ),
    ("--hosts 2 --game catchh", ["'catchh'", "'catch'"]),
]


def test_bad_input_is_one_line(command):
    for options, words in BAD_INPUT:
        with named(options):
            line = command.refused("pod", "local", *options.split())
            assert all(word in line for word in words), line


def test_a_run_directory_that_is_taken_is_refused_before_a_host_starts(command, tmp_path):
    """Else the first host would refuse it, and the others would wait for the first."""
    save_run(tmp_path / "run")
    options = ["--game", "catch", "--learner.replay-batch", "4", "--workdir", "run"]
    line = command.refused("pod", "local", "--hosts", "2", *options)
    assert "run holds a run already; give --resume" in line
    assert not (tmp_path / "run/hosts").exists()
    line = command.refused("pod", "local", *options[:-1], "none", "--resume")
    assert "no run to resume in none" in line


def test_an_unknown_command_is_refused(command):
    assert "Did you mean local?" in command.refused("pod", "locl")


def test_help_says_what_there_is(command):
    assert "create" in command("pod")[1] and "--dry-run" in command("pod", "--help")[1]
    assert "--devices-per-host" in command("pod", "local", "--help")[1]


def test_cores_are_dealt_out_in_turn(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5})
    assert [_cores(Layout(3, 1, 1), index) for index in range(4)] == ["2", "3", "5", "2"]
    assert [_cores(Layout(2, 1, 2), index) for index in range(2)] == ["2,3", "5,2"]
    assert _cores(Layout(2, 1, 0), 1) == ""


def learning(*workdirs: pathlib.Path):
    """A condition: the learners there have logged so many updates."""
    return lambda: all(
        any(row["learner/updates"] >= 5 for row in learner_rows(workdir)) for workdir in workdirs
    )


@pytest.mark.slow
@pytest.mark.launchpad
def test_two_hosts_run_to_the_end_and_one_writes(tmp_path):
    workdir, other = tmp_path / "run", tmp_path / "run/hosts/1"
    options = ["--hosts", "2", "--frames", "24000", "--workdir", workdir]
    with started(*POD, *options, cwd=tmp_path) as run:
        networks = {}

        def seen() -> bool:
            """Of each node, which shows itself long before there is something to learn from."""
            for folder in (workdir, other):
                for name, status in nodes_of(folder).items():
                    with contextlib.suppress(OSError):  # it has gone meanwhile
                        networks[folder, name] = os.readlink(f"/proc/{status['pid']}/ns/net")
            return len(networks) == 2 * 3  # replay, learner, actor

        run.wait_for(seen)
        code, out, err = run.finish()
        assert run.left() == []
    assert code == 0, out + err
    if "share one loopback" not in out and "can be reached" not in out:
        every = "each host has a network of its own, with all of its nodes"
        assert len(set(networks.values())) == 2, every
        assert json_of(other / "config.json")["hosts"]["coordinator"] == "10.77.0.1:8476"
    results = json_of(workdir / "results.json")
    assert results["complete"] and results["updates"] * 80 == results["frames"] == 24000
    assert len(checkpoints_of(workdir)) > 0 and list((workdir / "tensorboard").iterdir())
    assert not (other / "results.json").exists() and not checkpoints_of(other)
    assert not list((other / "tensorboard").iterdir())
    # Both count the episodes of both, and each has its own actor's reports.
    first, second = learner_rows(workdir)[-1], learner_rows(other)[-1]
    for name in ("learner/updates", "learner/frames", "training/return", "learner/episodes"):
        assert first.get(name) == second.get(name), name
    assert any("actors/steps_per_second" in row for row in rows_of(other))


@pytest.mark.slow
@pytest.mark.launchpad
def test_a_lost_host_ends_the_run_which_goes_on_with_fewer(tmp_path):
    workdir, other = tmp_path / "run", tmp_path / "run/hosts/1"
    options = ["--frames", "2000000000", "--workdir", workdir]
    with started(*POD, "--hosts", "2", *options, cwd=tmp_path) as run:
        run.wait_for(learning(workdir, other))
        psutil.Process(nodes_of(other)["learner"]["pid"]).kill()
        code, out, err = run.finish()
        assert run.left() == []
    assert code == 1, out + err
    assert "a host is missing" in err and "--resume" in err
    assert "host 0 ended with exit code 1" in err and "host 1 ended with exit code 1" in err
    newest = int(checkpoints_of(workdir)[-1].removesuffix(".npz").removeprefix("checkpoint_"))
    with started(*POD, "--hosts", "1", "--resume", *options, cwd=tmp_path) as run:
        rows = len(learner_rows(workdir))
        run.wait_for(lambda: len(learner_rows(workdir)) > rows + 1)
        os.kill(run.process.pid, signal.SIGTERM)
        code, out, err = run.finish()
        assert run.left() == []
    assert code == 130, out + err
    assert learner_rows(workdir)[rows]["learner/updates"] > newest
    assert json_of(workdir / "results.json")["updates"] > newest
