"""`bmg actors`: actors that join a real run, die, come back, and end with it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import shlex
import socket
import ssl
import subprocess
import sys
import threading

import psutil
import pytest

from bmg import __version__
from bmg.agents.config import AgentConfig
from bmg.launch import actors
from bmg.launch.config import TrainConfig
from bmg.launch.presets import PRESETS
from bmg.launch.remote.gate import RUN as RUN_SERVICE
from bmg.launch.remote.peer import Peer
from bmg.launch.remote.secret import JOIN, keep
from bmg.storage.fields import from_dict
from bmg.storage.run_directory import to_dict
from tests.launch.commands import (
    ROOT,
    environment,
    json_of,
    learner_rows,
    started,
    started_as,
)
from tests.launch.remote.test_gate import Place
from tests.ports import free_port
from tests.tables import named
from tests.waiting import DEADLINE, eventually

pytestmark = pytest.mark.launchpad

RUN = (
    "train --game catch --runtime launchpad --actors.num-actors 1 --evaluator.num-evaluators 0 "
    "--learner.log-interval 0.2 --workdir runs/catch"
).split()
ENDLESS = ["--frames", "2000000000"]


def test_bad_input_is_one_line(command, tmp_path):
    keep(tmp_path)
    (tmp_path / "damaged.json").write_text("{")
    for options, words in [
        ("", ["--learner is missing"]),
        ("--learner 10.0.0.1:8500", ["--join is missing"]),
        ("--learner 10.0.0.1 --join join.json", ["'10.0.0.1'", "give HOST:PORT"]),
        ("--learner 10.0.0.1:x --join join.json", ["give HOST:PORT"]),
        ("--learner :8500 --join join.json", ["give HOST:PORT"]),
        ("--learner ::1 --join join.json", ["'::1'", "in brackets"]),
        ("--learner a:70000 --join join.json", ["give HOST:PORT"]),
        ("--learner a..b:8500 --join join.json", ["'a..b:8500'", "give HOST:PORT"]),
        ("--learner a:8500 --join none.json", ["'none.json' cannot be read", "give the join.json"]),
        ("--learner a:8500 --join damaged.json", ["'damaged.json' cannot be read"]),
        ("--learner a:8500 --join join.json --actors 0", ["--actors is 0", "from 1"]),
    ]:
        with named(options):
            line = command.refused("actors", *options.split())
            assert all(word in line for word in words), line


def test_a_join_file_that_others_can_read_is_named(command, tmp_path, monkeypatch):
    """And used: where a container mounts it nobody may be able to change its mode."""
    keep(tmp_path)
    (tmp_path / JOIN).rename(tmp_path / "a copy.json")
    monkeypatch.setattr(actors, "_act", lambda config, join: len(join.token))
    join = ["actors", "--learner", "a:8500", "--join"]
    for mode in (0o600, 0o400, 0o440, 0o644):
        with named(oct(mode)):
            (tmp_path / "a copy.json").chmod(mode)
            code, out, err = command(*join, "a copy.json")
            assert code == 43 and out == "", err
            assert (err == "") == (mode in (0o600, 0o400))
    assert "give chmod 600 'a copy.json'" in err and err.startswith("bmg: ")
    assert len(err.splitlines()) == 1
    shell = f"cat {shlex.quote(str(tmp_path / 'a copy.json'))}"
    with subprocess.Popen(shell, shell=True, stdout=subprocess.PIPE) as process:
        pipe = f"/dev/fd/{process.stdout.fileno()}"
        assert command(*join, pipe) == (43, "", ""), "a pipe has no mode that counts"


def test_a_gate_needs_launchpad(command):
    for runtime in ("local-threads", "in-graph"):
        options = f"--game catch --runtime {runtime} --gate-port 8500".split()
        line = command.refused("train", *options)
        assert "--gate-port 8500" in line and runtime in line and "--runtime launchpad" in line
        assert "or --gate-port 0" in line, "a run that goes on has it in its configuration"
    assert "0 to 65535" in command.refused("train", "--game", "catch", "--gate-port", "65536")


def told_of(**changed) -> dict:
    """The configuration of a run that allows no actor to die."""
    return to_dict(dataclasses.replace(PRESETS["local"]("catch"), node_restarts=0, **changed))


@pytest.fixture
def place(tmp_path, request):
    """A gate without a run behind it."""
    told = {"version": __version__, "number": 7, "config": told_of()}
    place = Place(tmp_path, **{**told, **getattr(request, "param", {})})
    yield place
    place.close()


def join(place, monkeypatch, program: str, **options) -> int:
    """The exit code of `bmg actors`, whose actor is this program."""
    monkeypatch.setattr(actors, "COMMAND", (sys.executable, "-c", program))
    config = actors.ActorsConfig(f"127.0.0.1:{place.port}", JOIN, env_threads=3, **options)
    return asyncio.run(actors._run(config, place.join, threading.Event()))


def test_a_temporary_folder_that_is_too_deep_for_sockets(place, monkeypatch, tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(actors.tempfile, "tempdir", str(deep))
    with pytest.raises(ValueError, match="TMPDIR is .*; give a shorter one"):
        join(place, monkeypatch, "")


def test_what_an_actor_is_given(place, monkeypatch, tmp_path):
    program = f"import sys; open({str(tmp_path / 'given')!r}, 'w').write(sys.stdin.read())"
    assert join(place, monkeypatch, program) == 1
    given = json_of(tmp_path / "given")
    assert given["number"] == 7
    config = from_dict(TrainConfig, given["config"])
    run = PRESETS["local"]("catch").actors
    assert config.game == "catch"
    assert config.actors == dataclasses.replace(run, env_threads=3), "else as the run's own"


def lpg(rule: pathlib.Path) -> AgentConfig:
    agent = PRESETS["local"]("catch").agent
    return dataclasses.replace(
        agent, algorithm="lpg", lpg=dataclasses.replace(agent.lpg, rule=str(rule))
    )


def test_what_the_run_names_and_is_not_here_is_one_line(tmp_path, monkeypatch):
    agents = [(lpg(tmp_path / "none.npz"), "there is no rule"), ("mine.agents:make", "mine")]
    for agent, words in agents:
        if isinstance(agent, str):
            agent = dataclasses.replace(PRESETS["local"]("catch").agent, algorithm=agent)
        place = Place(tmp_path, version=__version__, number=7, config=told_of(agent=agent))
        try:
            with pytest.raises(ValueError, match=words) as caught:
                join(place, monkeypatch, "")
            assert "\n" not in str(caught.value)
        finally:
            place.close()


def test_a_rule_may_lie_elsewhere_here():
    told = told_of(agent=lpg(pathlib.Path("/there/rule.npz")))
    for given, expected in [(None, "/there/rule.npz"), ("here.npz", "here.npz")]:
        config = actors.ActorsConfig("127.0.0.1:1", JOIN, rule=given)
        run = from_dict(TrainConfig, config.changed(told))
        assert run.agent.lpg.rule == expected
        assert run.agent.lpg.baseline and run.actors == from_dict(TrainConfig, told).actors


def test_a_rule_is_for_an_agent_that_has_one(place, monkeypatch):
    with pytest.raises(ValueError, match="--rule is for a run of the agent lpg, .* is bmg"):
        join(place, monkeypatch, "", rule="rule.npz")


def test_an_actor_that_keeps_dying_ends_all(place, monkeypatch, capsys):
    assert join(place, monkeypatch, "raise SystemExit(3)") == 1
    err = capsys.readouterr().err
    assert err.startswith("bmg: actor 0 died (exit code 3)") and "--node-restarts 0" in err
    assert (1, 0) in place.counts
    eventually(lambda: place.counts[-1] == (0, 1))


@pytest.mark.parametrize("place", [{"config": told_of(silence_timeout=0.5)}], indirect=True)
def test_an_actor_that_hangs_is_killed(place, monkeypatch, capsys):
    before = set(psutil.Process().children())
    assert join(place, monkeypatch, "import time; time.sleep(600)") == 1
    assert "actor 0 died (no sign of life for 0.5 s)" in capsys.readouterr().err
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize("place", [{"version": "0.0.9"}], indirect=True)
def test_another_version_is_refused(place, monkeypatch):
    with pytest.raises(ValueError, match=r"is of bmg 0\.0\.9, and this is .*; install the same"):
        join(place, monkeypatch, "")


@pytest.mark.slow
def test_no_run_is_there(tmp_path):
    keep(tmp_path)
    arguments = f"actors --learner 127.0.0.1:{free_port()} --join join.json --patience 1".split()
    with started(*arguments, cwd=tmp_path) as alone:
        code, out, err = alone.finish()
    port = arguments[2].partition(":")[2]
    problem = f"no connection to 127.0.0.1:{port} (refused: nothing listens there)"
    asks = f"; is the run there, with --gate-port {port}? tries for 1 s"
    assert code == 1 and out == f"{problem}{asks}\n"
    assert err.startswith(f"bmg: {problem} for 1 s; start the run with --gate-port {port}, ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "error, words",
    [
        (ConnectionRefusedError(111, "Connect call failed ('10.0.0.1', 8500)"),
         "refused: nothing listens there"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), "
                 "[Errno 101] Connect call failed ('10.0.0.1', 1)"),
         "refused: nothing listens there"),
        (OSError(113, "Connect call failed ('10.0.0.1', 8500)"), "No route to host"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1007)"),
         "what answers there is not a run's gate"),
        (ConnectionError("no answer"), "no answer"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)  # fmt: skip
def test_why_there_is_no_connection(error, words):
    assert actors._reason(error) == words


def test_what_is_no_gate_is_named(tmp_path):
    """Such as an SSH server, which speaks first."""
    secret, _ = keep(tmp_path)

    async def reason() -> str:
        async def serve(reader, writer):
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            await writer.drain()
            await reader.read(2**16)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            _, port = server.sockets[0].getsockname()
            with pytest.raises(OSError) as caught:
                await Peer("127.0.0.1", port, secret).visit(RUN_SERVICE)
            return actors._reason(caught.value)

    assert asyncio.run(reason()) == "what answers there is not a run's gate"


# `bmg actors` where the name server does not answer.
NO_ANSWER = """
import socket, sys, time
from bmg.launch import cli

def look_up(*_, **__):
    print("looks it up", flush=True)
    time.sleep(600)

socket.getaddrinfo = look_up
sys.argv[1:] = "actors --learner learner.example:8500 --join join.json".split()
cli.main()
"""


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_name_server(tmp_path):
    keep(tmp_path)
    with started_as([sys.executable, "-c", NO_ANSWER], tmp_path, environment()) as run:
        assert run.process.stdout.readline() == "looks it up\n"
        run.interrupt()
        code, out, err = run.finish()
        assert (code, out, err) == (130, "stopped\n", "")


def remote(workdir: pathlib.Path, actors: int, lost: int, frames: int = 0):
    """A condition: so many remote actors are there, so many were lost, beyond these frames."""

    def holds() -> bool:
        row = (learner_rows(workdir) or [{}])[-1]
        counted = row.get("nodes/remote_actors"), row.get("nodes/remote_actors_lost")
        return counted == (actors, lost) and row["learner/frames"] > frames

    return holds


@pytest.mark.slow
def test_actors_join_die_come_back_and_outlive_a_restart(tmp_path):
    workdir, port = tmp_path / "runs/catch", free_port()
    arguments = f"actors --learner 127.0.0.1:{port} --join runs/catch/join.json --actors 2".split()
    gate = ["--gate-port", str(port)]
    with started(*RUN, *ENDLESS, *gate, cwd=tmp_path) as run:
        run.wait_for((workdir / JOIN).exists)
        with started(*arguments, cwd=tmp_path) as joined:
            run.wait_for(remote(workdir, actors=2, lost=0))
            # They write what the learner reads: their reports come the same way.
            run.wait_for(lambda: learner_rows(workdir)[-1].get("actors/reporting") == 3)
            processes = psutil.Process(joined.process.pid).children()
            assert len(processes) == 2
            processes[0].kill()
            run.wait_for(remote(workdir, actors=2, lost=1))
            run.interrupt()
            code, out, err = run.finish()
            assert code == 130, out + err
            assert f"join at port {port}" in out

            frames = learner_rows(workdir)[-1]["learner/frames"]
            more = ["--frames", str(int(frames) + 500_000), "--resume"]
            with started(*RUN, *more, cwd=tmp_path) as again:
                again.wait_for(remote(workdir, actors=2, lost=0, frames=frames))
                code, out, err = again.finish()
            assert code == 0, out + err
            code, out, err = joined.finish()
            assert code == 0, out + err
            assert "is lost" in out and "again" in out and "the run is complete" in out
            assert joined.left() == []
    assert json_of(workdir / "results.json")["complete"] is True
    assert json_of(workdir / "nodes/remote_actors.starts") == 5


@pytest.mark.slow
def test_each_of_several_hosts_has_a_gate_of_its_own(tmp_path):
    workdir = tmp_path / "runs/catch"
    places, ports = [workdir, workdir / "hosts/1"], [free_port(), free_port()]
    coordinator = f"127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        hosts = []
        for index, port in enumerate(ports):
            options = f"--learner.replay-batch 4 --gate-port {port} --hosts.count 2 "
            options += f"--hosts.index {index} --hosts.coordinator {coordinator}"
            hosts.append(
                stack.enter_context(started(*RUN, *ENDLESS, *options.split(), cwd=tmp_path))
            )
        joined = []
        for host, place, port in zip(hosts, places, ports):
            host.wait_for((place / JOIN).exists)
            words = f"actors --learner 127.0.0.1:{port} --join {place / JOIN}".split()
            joined.append(stack.enter_context(started(*words, cwd=tmp_path)))
        for host, place in zip(hosts, places):
            host.wait_for(remote(place, actors=1, lost=0))
            host.wait_for(lambda: learner_rows(place)[-1].get("actors/reporting") == 2)
        hosts[0].interrupt()
        code, out, err = hosts[0].finish()
        assert code == 130, out + err
        code, out, err = hosts[1].finish()
        assert code == 1 and "host 0 was asked to stop" in err, out + err
        for actor in joined:
            actor.interrupt()
            assert actor.finish()[0] == 130
    tokens = {json_of(place / JOIN)["token"] for place in places}
    assert len(tokens) == 2


@pytest.mark.slow
def test_another_runs_secret_is_refused_and_ctrl_c_ends_all(tmp_path):
    workdir, port = tmp_path / "runs/catch", free_port()
    keep(tmp_path)
    address = f"--learner 127.0.0.1:{port}".split()
    with started(*RUN, *ENDLESS, "--gate-port", port, cwd=tmp_path) as run:
        run.wait_for((workdir / JOIN).exists)
        run.wait_for(lambda: learner_rows(workdir))
        with started("actors", *address, "--join", JOIN, cwd=tmp_path) as refused:
            code, out, err = refused.finish()
            assert code == 2 and "copy the join.json of its run directory" in err, out + err
            assert len(err.splitlines()) == 1
        with started("actors", *address, "--join", workdir / JOIN, cwd=tmp_path) as stopped:
            run.wait_for(remote(workdir, actors=1, lost=0))
            stopped.watch()
            stopped.interrupt()
            code, out, err = stopped.finish()
            assert code == 130 and err == "", out + err
            assert stopped.left() == []
        run.wait_for(remote(workdir, actors=0, lost=1))
        with started("actors", *address, "--join", workdir / JOIN, cwd=tmp_path) as killed:
            run.wait_for(remote(workdir, actors=1, lost=1))
            killed.watch()
            killed.process.kill()
            killed.wait_for_the_end_of_all()
        run.wait_for(remote(workdir, actors=0, lost=2))
        run.interrupt()
        assert run.finish()[0] == 130


@pytest.mark.slow
def test_actors_on_another_machine(tmp_path):
    """Their network has one cable, to the machine of the run; the run's own has none."""
    workdir = tmp_path / "runs/catch"
    train = shlex.join(["bmg", *RUN, "--frames", "300000", "--gate-port", "8500"])
    joining = "bmg actors --learner 10.77.0.1:8500 --join runs/catch/join.json"
    command = [sys.executable, ROOT / "scripts/two_machines.py", "--after", workdir / JOIN]
    process = subprocess.Popen(
        [*map(str, command), train, joining],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        out, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.terminate()  # and with it both machines
        process.wait()
    said = json.loads(out.splitlines()[-1])
    if "unavailable" in said:
        pytest.skip(said["unavailable"])
    assert said["codes"] == [0, 0], out
    assert "can be reached from other machines" not in out
    rows = learner_rows(workdir)
    assert max(row.get("nodes/remote_actors", 0) for row in rows) == 1
    assert max(row.get("actors/reporting", 0) for row in rows) == 2
    assert said["from_second"] > 100_000, "unrolls"
