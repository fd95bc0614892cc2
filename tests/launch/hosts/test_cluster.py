"""Which host of a run a process is, from what batch systems set in its environment."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import shutil
import subprocess
import threading

import pytest

from bmg.launch import train
from bmg.launch.hosts import cluster
from bmg.launch.hosts.cluster import find_host
from bmg.launch.presets import PRESETS
from bmg.learner.config import HostsConfig
from bmg.storage.run_directory import config_file, to_dict
from tests.launch.commands import BMG, environment, json_of
from tests.tables import named
from tests.waiting import DEADLINE

# What SLURM 22.05 sets: in a batch script or a shell of salloc, and in addition in a task of srun.
JOB = {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "gpu[01-04]", "SLURM_JOB_NUM_NODES": "4",
    "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4",
    "SLURM_TASKS_PER_NODE": "1(x4)",
}  # fmt: skip
STEP = {
    **JOB, "SLURM_NODEID": "3", "SLURM_PROCID": "3", "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[01-04]", "SLURM_STEP_NUM_NODES": "4", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
}  # fmt: skip
ONE_TASK = {**STEP, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}  # srun --pty bash
OPEN_MPI_4 = {
    "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}  # fmt: skip
OPEN_MPI_5 = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PRTE_LAUNCHED": "1"}
MPICH = {"PMI_SIZE": "3", "PMI_RANK": "2"}
JOB_OF_KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}
TPU = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "w-0.bmg,w-1.bmg"}
SLICES = {
    **TPU, "MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2",
    "MEGASCALE_COORDINATOR_ADDRESS": "first.bmg:8081",
}  # fmt: skip
GIVEN = {"count": 4, "coordinator": "bmg-0.bmg:8476"}

FOUND = [
    ("slurm", STEP, {}, (4, 3, f"gpu01:{61440 + 4711 - 4096}")),
    ("slurm", {**STEP, "SLURM_STEP_ID": "2"}, {}, (4, 3, f"gpu01:{61440 + 4711 + 134 - 4096}")),
    ("slurm", STEP, {"coordinator": "10.0.0.1:9"}, (4, 3, "10.0.0.1:9")),
    ("slurm", ONE_TASK, {}, (1, 0, f"gpu01:{61440 + 4711 - 4096}")),
    ("mpi", OPEN_MPI_4, {}, (2, 1, f"10.96.0.1:{61440 + 373920 % 4096}")),
    ("mpi", OPEN_MPI_5, {"coordinator": "a:1"}, (2, 1, "a:1")),
    ("mpi", MPICH, {"coordinator": "a:1"}, (3, 2, "a:1")),
    ("kubernetes", JOB_OF_KUBERNETES, GIVEN, (4, 2, "bmg-0.bmg:8476")),
    ("kubernetes", {"JOB_COMPLETION_INDEX": "0"}, {"count": 1}, (1, 0, "")),
    ("tpu", TPU, {}, (2, 1, "w-0.bmg:8476")),
    ("tpu", {**TPU, "TPU_WORKER_HOSTNAMES": " a, b,"}, {}, (2, 1, "a:8476")),
    ("tpu", SLICES, {}, (6, 5, "first.bmg:8476")),
    (
        "tpu",
        {**SLICES, "MEGASCALE_COORDINATOR_ADDRESS": "[fd00::5]:8081"},
        {},
        (6, 5, "[fd00::5]:8476"),
    ),
    ("auto", STEP, {}, (4, 3, f"gpu01:{61440 + 4711 - 4096}")),
    ("auto", OPEN_MPI_4, {}, (2, 1, f"10.96.0.1:{61440 + 373920 % 4096}")),
    ("auto", {**ONE_TASK, **OPEN_MPI_4}, {}, (2, 1, f"10.96.0.1:{61440 + 373920 % 4096}")),
    ("auto", TPU, {}, (2, 1, "w-0.bmg:8476")),
    ("auto", JOB_OF_KUBERNETES, GIVEN, (4, 2, "bmg-0.bmg:8476")),
    ("auto", {}, {"count": 2, "index": 1, "coordinator": "a:1"}, (2, 1, "a:1")),
]


def test_each_cluster_has_its_variables():
    for kind, variables, given, expected in FOUND:
        with named(kind, variables, given):
            found = find_host(kind, given, variables)
            assert tuple(found[name] for name in ("count", "index", "coordinator")) == expected
            assert HostsConfig(cluster=kind, **found).index == expected[1], (
                "it is a whole configuration"
            )


ALONE = [{}, JOB, ONE_TASK, JOB_OF_KUBERNETES, OPEN_MPI_5, MPICH]


def test_auto_is_one_host_where_nobody_has_started_others(monkeypatch):
    """A shell or a notebook within a job of four tasks must not wait for the other three."""
    monkeypatch.setattr(cluster, "_metadata", lambda *_: pytest.fail("a server was asked"))
    for variables in ALONE:
        with named(variables):
            found = find_host("auto", {}, variables)
            assert found == {"count": 1, "index": 0, "coordinator": ""}


def test_none_finds_nothing():
    assert find_host("none", {"count": 2}, STEP) == {}


NODES = [
    ("a", "a"), ("a,b", "a"), ("node[001-004,7],b", "node001"), ("n[3,7-9]-ib,x", "n3-ib"),
    ("r[1-2]n[05-06]", "r1n05"), ("gpu.c[12]", "gpu.c12"), ("", ""),
]  # fmt: skip


def test_the_first_of_slurms_nodes():
    for nodes, first in NODES:
        with named(nodes):
            assert cluster._first_node(nodes) == first


def test_ports_of_jobs_and_steps_differ():
    ports = set()
    for job in range(4000, 4008):
        for step in range(4):
            variables = {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}
            address = find_host("slurm", {}, {**STEP, **variables})["coordinator"]
            ports.add(int(address.rpartition(":")[2]))
    assert len(ports) == 8 * 4 and min(ports) >= 61440 and max(ports) < 65536
    six = {**OPEN_MPI_4, "OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp6://[fe80::b9b,26::2]:43370"}
    assert find_host("mpi", {}, six)["coordinator"] == f"[fe80::b9b]:{61440 + 320928 % 4096}"


REFUSED = [
    ("slurm", JOB, {}, ["is slurm", "SLURM_STEP_NUM_TASKS", "with srun", "--hosts.cluster none"]),
    ("mpi", {}, {}, ["is mpi", "OMPI_COMM_WORLD_RANK", "mpirun", "--hosts.cluster none"]),
    ("kubernetes", {}, {}, ["is kubernetes", "JOB_COMPLETION_INDEX", "completionMode: Indexed"]),
    ("tpu", {}, {}, ["is tpu", "TPU_WORKER_ID", "metadata server", "every worker"]),
    ("mpi", MPICH, {}, ["is mpi", "give --hosts.coordinator as well"]),
    (
        "kubernetes", JOB_OF_KUBERNETES, {},
        ["is kubernetes", "give --hosts.count and --hosts.coordinator as well"],
    ),
    ("slurm", {**STEP, "SLURM_PROCID": "x"}, {}, ["SLURM_PROCID is 'x'", "--hosts.index"]),
    ("auto", {**STEP, "SLURM_JOB_ID": ""}, {}, ["SLURM_JOB_ID is ''", "--hosts.cluster none"]),
]  # fmt: skip


def test_what_is_not_there_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(cluster, "_metadata", lambda *_: "")
    for kind, variables, given, words in REFUSED:
        with named(kind, variables):
            with pytest.raises(ValueError) as caught:
                find_host(kind, given, variables)
            text = str(caught.value)
            assert "\n" not in text and all(word in text for word in words), text


@contextlib.contextmanager
def metadata_server(attributes: dict[str, str]):
    """Google Cloud's, as far as it is asked: its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            known = name in attributes and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(attributes.get(name, "").encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_tpu_vm_asks_its_metadata_server():
    workers = {"worker-network-endpoints": "u:8470:10.0.0.5,u:8470:10.0.0.6"}
    with metadata_server({"agent-worker-number": "1", **workers}) as address:
        found = find_host("tpu", {}, {"GCE_METADATA_IP": address})
    assert found == {"count": 2, "index": 1, "coordinator": "10.0.0.5:8476"}
    with metadata_server(workers) as address, pytest.raises(ValueError, match="is tpu"):
        find_host("tpu", {}, {"GCE_METADATA_IP": address})
    for address in ("no address", "127.0.0.1:x"):
        with pytest.raises(ValueError, match="is tpu"):
            find_host("tpu", {}, {"GCE_METADATA_IP": address})


TRAIN = "train --game catch --learner.online-batch 4 --learner.replay-batch 4".split()


def task(monkeypatch, variables: dict[str, str]) -> None:
    """This process is started with these variables."""
    for name in {*STEP, *variables}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_the_command_takes_what_is_found(command, monkeypatch):
    task(monkeypatch, STEP)
    hosts = command.config(*TRAIN, "--hosts.cluster", "slurm", "--workdir", "a").hosts
    assert (hosts.cluster, hosts.count, hosts.index) == ("slurm", 4, 3)
    config = command.launched[-1][0]
    assert str(config.path) == "a/hosts/3" and config.evaluator.num_evaluators == 0
    # As long as nobody asks for it, a task is a run of its own.
    assert command.config(*TRAIN, "--workdir", "b").hosts == HostsConfig()
    hosts = command.config(*TRAIN, "--hosts.cluster=auto", "--hosts.coordinator=x:5").hosts
    assert (hosts.count, hosts.index, hosts.coordinator) == (4, 3, "x:5"), "what is given counts"


def test_a_run_goes_on_wherever_its_cluster_places_it(command, monkeypatch, tmp_path):
    config = PRESETS["local"]("catch")
    learner = dataclasses.replace(config.learner, online_batch=4, replay_batch=4)
    hosts = HostsConfig(4, 0, "gone:61440", cluster="slurm")
    config = dataclasses.replace(config, learner=learner, hosts=hosts)
    (tmp_path / "run").mkdir()
    config_file(tmp_path / "run").write_text(json.dumps(to_dict(config)))
    task(monkeypatch, JOB)
    resume = ("train", "--workdir", "run", "--resume")
    assert "--hosts.cluster none" in command.refused(*resume)
    alone = command.config(*resume, "--hosts.cluster", "none", "--hosts.count", "1").hosts
    assert (alone.cluster, alone.count, alone.index) == ("none", 1, 0)
    two = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_NODELIST": "b[7-8]"}
    task(monkeypatch, {**STEP, **two})
    again = command.config(*resume)
    assert (again.hosts.count, again.hosts.index) == (2, 1)
    assert again.hosts.coordinator.startswith("b7:") and again.evaluator.num_evaluators == 0


def test_a_restart_in_place_knows_what_was_given(command, monkeypatch, tmp_path):
    """Count and coordinator of a Job's hosts stand in no variable."""
    config = PRESETS["local"]("catch")
    learner = dataclasses.replace(config.learner, online_batch=4, replay_batch=4)
    for hosts, variables in (
        (HostsConfig(4, 2, "bmg-0.bmg:8476", cluster="kubernetes"), JOB_OF_KUBERNETES),
        (HostsConfig(4, 3, "10.0.0.1:9", cluster="slurm"), STEP),
        (HostsConfig(), {}),
    ):
        with named(hosts.cluster):
            path = tmp_path / hosts.cluster
            run = dataclasses.replace(
                config, learner=learner, hosts=hosts, workdir=str(path), restarts=2
            )
            run.path.mkdir(parents=True)
            config_file(run.path).write_text(json.dumps(to_dict(run)))
            task(monkeypatch, variables)
            executed = []
            with monkeypatch.context() as patched:
                patched.setattr(train.signals, "block", lambda: None)
                patched.setattr(train.time, "sleep", lambda seconds: None)
                patched.setattr(train.os, "execve", lambda *given: executed.append(given[1]))
                train.go_on(run, "")
            words = executed[0][executed[0].index("train") :]
            again = train.parse(words[1:])
            assert again.hosts == hosts and again.restarts == 1 and again.resume


BAD_OPTIONS = [
    ("--hosts.cluster slrum", ["--hosts.cluster is 'slrum'", "slurm"]),
    ("--hosts.cluster slurm --hosts.index two", ["--hosts.index is 'two'"]),
    ("--hosts.cluster slurm --hosts.count 2", ["hosts index is 3 of 2"]),
    ("--hosts.cluster", ["--hosts.cluster has no value"]),
    ("--hosts.cluster kubernetes", ["JOB_COMPLETION_INDEX"]),
]


def test_bad_options_are_one_line(command, monkeypatch):
    task(monkeypatch, STEP)
    for options, words in BAD_OPTIONS:
        with named(options):
            line = command.refused(*TRAIN, *options.split())
            assert all(word in line for word in words), line


@pytest.mark.slow
def test_ranks_of_mpirun_learn_together(tmp_path):
    mpirun = shutil.which("mpirun")
    version = (
        mpirun and subprocess.run([mpirun, "--version"], capture_output=True, text=True).stdout
    )
    if "(Open MPI) 4." not in (version or ""):
        pytest.skip("needs mpirun of Open MPI 4, Debian's package openmpi-bin")
    options = "--hosts.cluster mpi --game catch --actors.num-actors 1 --learner.replay-batch 4 "
    options += "--frames 1600 --evaluator.num-evaluators 0 --workdir run"
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    process = subprocess.Popen(
        [mpirun, "--oversubscribe", "-n", "2", *BMG, "train", *options.split()],
        cwd=tmp_path, env={**environment(), "JAX_PLATFORMS": "cpu", **as_root},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        out, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.terminate()  # and with it the ranks
        process.wait(DEADLINE)
    assert process.returncode == 0, out
    results = json_of(tmp_path / "run/results.json")
    assert results["complete"] and results["updates"] * 80 == results["frames"] == 1600
    hosts = json_of(tmp_path / "run/hosts/1/config.json")["hosts"]
    assert (hosts["count"], hosts["index"]) == (2, 1)
    assert not (tmp_path / "run/hosts/1/results.json").exists()
