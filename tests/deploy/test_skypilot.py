"""deploy/skypilot: keys, and the commands for the machines with stand-ins, by its variables."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from bmg.launch.hosts import tpu_options, tpu_scripts
from tests.deploy.fields import problems
from tests.tables import named

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "skypilot"

# The keys that ours have, of get_task_schema and what it stands on in sky/utils/schemas.py. The
# tasks were validated with that file itself, of SkyPilot 0.14.1, in November 2026.
TASK = {
    "name": str,
    "num_nodes": int,
    "envs": {str: str},
    "resources": {
        "accelerators": str, "cpus": str, "memory": str, "use_spot": bool, "image_id": str,
        "accelerator_args": {"runtime_version": str, "tpu_vm": bool},
        "job_recovery": {"strategy": str, "max_restarts_on_errors": int},
    },
    "workdir": {"."},
    "file_mounts": {
        str: {"name": str, "store": {"s3", "gcs"}, "mode!": {"MOUNT", "COPY", "MOUNT_CACHED"}}
    },
    "setup": str,
    "run": str,
}  # fmt: skip

BMG = '#!/bin/bash\nprintf \'%s\\n\' "$@" >"$HOME/arguments"\nexit ${CODE:-0}\n'
SETUP = '#!/bin/sh\necho "$PYTHON $@" >"$HOME/set-up"\n'


def load(name: str) -> dict:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


@pytest.fixture(params=["train", "tpu"])
def task(request):
    return load(request.param)


def test_keys_and_values(task):
    given = {**task, "envs": {**task["envs"], "BUCKET": "given-with---env"}}
    assert task["envs"]["BUCKET"] is None, "SkyPilot asks for it"
    assert problems(given, TASK) == []
    assert problems({**given, "num_node": 2}, TASK) == [".num_node: unknown"]


class Machine:
    """One that SkyPilot has made: the project in its working directory, and stand-ins."""

    def __init__(self, home: Path):
        self.home, self.work = home, home / "sky_workdir"
        programs = {
            self.work / ".venv/bin/bmg": BMG, self.work / "scripts/setup.sh": SETUP,
            home / "bin/apt-get": '#!/bin/sh\necho "$@" >>"$HOME/apt"\n',
            home / "bin/sudo": '#!/bin/sh\nexec "$@"\n',
        }  # fmt: skip
        for path, text in programs.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)

    def __call__(self, script: str, **variables: str) -> subprocess.CompletedProcess:
        """What SkyPilot makes of a script: a line that it adds must be reached."""
        script = script.replace("/bmg-runs/", f"{self.home}/runs/")
        env = {"PATH": f"{self.home}/bin:{os.environ['PATH']}", "HOME": str(self.home)}
        return subprocess.run(
            ["bash", "-c", f"{script}\ncode=$?; echo uploaded; exit $code"],
            cwd=self.work, env=env | variables, capture_output=True, text=True,
        )  # fmt: skip

    def arguments(self) -> list[str]:
        """Of its last `bmg`."""
        return (self.home / "arguments").read_text().splitlines()


def variables_of(task: dict, rank: int) -> dict[str, str]:
    """What SkyPilot gives a machine: addresses are in the order of its own ranks."""
    return {
        **{name: value or "bucket" for name, value in task["envs"].items()},
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": str(rank),
        "SKYPILOT_NODE_IPS": "10.1.0.7\n10.1.0.5",
    }


def test_machines_are_set_up_as_the_project_is(tmp_path, task):
    machine = Machine(tmp_path)
    done = machine(task["setup"])
    assert done.returncode == 0, done.stderr
    accelerator = "tpu" if "tpu" in task["resources"]["accelerators"] else "cuda"
    assert (tmp_path / "set-up").read_text() == f"/usr/bin/python3.10 {accelerator}\n"
    packages = (tmp_path / "apt").read_text().split()
    assert {"libpython3.10", "python3.10-venv"} <= set(packages)
    (tmp_path / "bin/apt-get").write_text("#!/bin/sh\nexit 100\n")
    (tmp_path / "set-up").unlink()
    assert machine(task["setup"]).returncode == 100 and not (tmp_path / "set-up").exists()


def test_every_host_runs_and_goes_on_where_there_is_a_run(tmp_path):
    task = load("train")
    for rank in (0, 1):
        with named(rank):
            machine = Machine(tmp_path / str(rank))
            done = machine(task["run"], **variables_of(task, rank))
            assert (done.returncode, done.stdout) == (0, "uploaded\n"), done.stderr
            workdir = f"{machine.home}/runs/ms_pacman"
            options = task["envs"]["OPTIONS"].split()
            hosts = ["--hosts.count", "2", "--hosts.index", str(rank)]
            hosts += ["--hosts.coordinator", "10.1.0.7:8476"]
            assert machine.arguments() == ["train", *options, "--workdir", workdir, *hosts]
            Path(workdir).mkdir(parents=True)
            Path(workdir, "config.json").touch()
            machine(task["run"], **variables_of(task, rank))
            assert machine.arguments()[:-8] == ["train", *options, "--resume"]


def test_a_tpu_host_asks_its_slice_for_its_number(tmp_path):
    """SkyPilot's ranks may be the other way round."""
    task = load("tpu")
    machine = Machine(tmp_path)
    done = machine(task["run"], **variables_of(task, 1))
    assert (done.returncode, done.stdout) == (0, "uploaded\n"), done.stderr
    assert machine.arguments()[-2:] == ["--hosts.cluster", "tpu"]
    assert "--hosts.index" not in machine.arguments() and "--resume" not in machine.arguments()


def test_a_run_that_fails_is_uploaded_and_fails(tmp_path, task):
    done = Machine(tmp_path / "0")(task["run"], CODE="1", **variables_of(task, 0))
    assert (done.returncode, done.stdout) == (1, "uploaded\n")


@pytest.mark.launchpad
def test_bmg_accepts_the_options(command):
    """Also that batches can be shared, by devices that are CPUs here: there they have a server."""
    for name, count, devices in [("train", 2, 4), ("tpu", 4, 4)]:
        command.devices = devices
        with named(name):
            options = [*load(name)["envs"]["OPTIONS"].split(), "--workdir", name]
            hosts = ["--hosts.count", count, "--hosts.coordinator", "10.0.0.1:8476"]
            hosts += ["--actors.inference", "server"]
            config = command.config("train", *options, *hosts)
            assert (config.preset, config.game) == ("paper", "ms_pacman")


def test_a_tpu_task_makes_what_bmg_pod_makes():
    task = load("tpu")
    kind = task["resources"]["accelerators"].removeprefix("tpu-")
    assert tpu_options.check_accelerator_type(kind) is None
    version = tpu_options.Create(accelerator_type=kind).version
    assert task["resources"]["accelerator_args"] == {"runtime_version": version}
    # The same way to find the other hosts, and the same packages but make.
    there = tpu_scripts.start("bmg/run", [], False, "x")
    assert all("--hosts.cluster tpu" in run for run in (task["run"], there))
    wanted = set(tpu_scripts._PACKAGES.split()) - {"make"}
    assert wanted <= set(task["setup"].split())
