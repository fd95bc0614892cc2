"""A network of the run's own: from within, from without, and where there is none."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from bmg.launch import isolation
from tests.launch.commands import environment, learner_rows, nodes_of, started
from tests.waiting import DEADLINE

# Says whether its network is private, and what it sees of it. numpy brings threads along.
PROGRAM = """
import json, os, socket, sys
import numpy
from bmg.launch import isolation

why_not = isolation.enter([sys.executable, *sys.orig_argv[1:]])
server = socket.create_server(("localhost", 0))
client = socket.create_connection(server.getsockname(), timeout=60)
print(json.dumps({
    "why_not": why_not, "arguments": sys.argv[1:], "pid": os.getpid(), "uid": os.getuid(),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "network": os.readlink("/proc/self/ns/net"), "state": os.environ.get("BMG_NETWORK"),
}))
"""


def entered(*arguments: str, **env: str) -> tuple[int, dict]:
    """(process id, what the program says)."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**environment(), **env}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    return process.pid, json.loads(out)


@pytest.fixture
def namespaces():
    """Skips where the kernel gives none."""
    if why_not := entered()[1]["why_not"]:
        pytest.skip(why_not)


def test_a_program_finds_itself_alone(namespaces):
    pid, found = entered("--game", "two words")
    assert found["why_not"] == "" and found["interfaces"] == ["lo"]
    assert found["network"] != os.readlink("/proc/self/ns/net")
    assert found["arguments"] == ["--game", "two words"]
    assert (found["pid"], found["uid"]) == (pid, os.getuid()), "the same process and person"
    assert found["state"] is None, "nothing of it is left to what it starts"


def test_what_the_kernel_refuses_is_said():
    _, found = entered(BMG_NETWORK="the kernel does not allow it (EPERM)")
    assert found["why_not"] == "the kernel does not allow it (EPERM)"
    assert found["network"] == os.readlink("/proc/self/ns/net")


@pytest.mark.parametrize(
    ("attribute", "value", "why_not"),
    [("platform", "darwin", "darwin has no network namespaces"), ("libtpu", True, "TPU")],
)
def test_some_systems_have_none(monkeypatch, attribute, value, why_not):
    monkeypatch.delenv("BMG_NETWORK", raising=False)
    if attribute == "platform":
        monkeypatch.setattr(isolation.sys, "platform", value)
    else:
        monkeypatch.setattr(isolation.importlib.util, "find_spec", lambda name: name == "libtpu")
    assert why_not in isolation.enter(["never executed"])


@pytest.mark.slow
@pytest.mark.launchpad
@pytest.mark.parametrize("network", ["private", "host"])
def test_the_ports_of_a_run(tmp_path, network, request):
    """Both servers listen; from here only --network host, which says so, lets one reach them."""
    if network == "private":
        request.getfixturevalue("namespaces")
    workdir = tmp_path / "runs/catch"
    arguments = (
        "train --game catch --frames 2000000000 --runtime launchpad --actors.num-actors 1 "
        f"--evaluator.num-evaluators 0 --learner.log-interval 0.2 --network {network}"
    ).split()
    with started(*arguments, cwd=tmp_path) as run:
        run.wait_for(lambda: learner_rows(workdir))
        pids = {name: status["pid"] for name, status in nodes_of(workdir).items()}
        ports = set()
        for name in ("replay", "learner"):
            # A process's connections are looked up in the network that it lives in.
            tables = open(f"/proc/{pids[name]}/net/tcp6").read().splitlines()[1:]  # noqa: SIM115
            tables += open(f"/proc/{pids[name]}/net/tcp").read().splitlines()[1:]  # noqa: SIM115
            fields = [line.split() for line in tables]
            ports |= {int(f[1].split(":")[1], 16) for f in fields if f[3] == "0A"}
        assert len(ports) >= 2
        reached = set()
        for port in ports:
            with socket.socket() as peer:
                peer.settimeout(60)
                if peer.connect_ex(("127.0.0.1", port)) == 0:
                    reached.add(port)
        run.interrupt()
        code, out, err = run.finish()
    assert code == 130, out + err
    if network == "private":
        assert reached == set()
        assert "can be reached" not in out
    else:
        assert len(reached) >= 2
        assert "ports can be reached from other machines (--network host)" in out
