"""scripts/setup.sh and the Makefile, run with stand-ins for uname, Python and uv: nothing is fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = "sh bash cat cksum dirname flock mkdir mv rm sed sleep tail touch chmod make printf".split()

# Stand-ins. The Python knows only how to answer setup.sh's questions about it.
LINUX = 'case $1 in -s) echo Linux;; -m) echo x86_64;; esac'
MAC = 'case $1 in -s) echo Darwin;; -m) echo arm64;; esac'
PYTHON = """case $2 in *base_prefix*) echo "$PREFIX/bin/python3.10";; esac"""
PYTHON_WITHOUT_LIBRARY = f"""case $2 in *CDLL*) exit 1;; esac
{PYTHON}"""
PYTHON_311 = "case $2 in *version_info*) exit 1;; esac"
UV = """case $1 in sync)
  echo "$@" >>"$PREFIX/syncs"
  mkdir -p .venv/bin
  sleep 0.5
  for name in python bmg; do
    echo '#!/bin/sh' >.venv/bin/$name
    echo '[ -z "$IMPORT_ERROR" ] || { echo "$IMPORT_ERROR"; exit 1; }' >>.venv/bin/$name
    chmod +x .venv/bin/$name
  done;;
esac"""
UV_OFFLINE = "[ $1 != sync ] || { echo 'error: failed to fetch' >&2; exit 2; }"


class Machine:
    """A copy of the project's set-up on a machine that has only the given programs."""

    def __init__(self, folder: Path, **programs: str):
        self.project = folder / "project"
        self.prefix = folder / "prefix"
        for name in ("scripts/setup.sh", "pyproject.toml", "uv.lock", "Makefile"):
            (self.project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.project / name)
        (self.prefix / "bin").mkdir(parents=True)
        for name in TOOLS:
            (self.prefix / "bin" / name).symlink_to(shutil.which(name))
        for name, body in programs.items():
            path = self.prefix / "bin" / name.replace("_", ".")
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(0o755)

    def start(self, *command: str, **env: str) -> subprocess.Popen:
        return subprocess.Popen(
            command or ("scripts/setup.sh",),
            cwd=self.project,
            env={"PATH": str(self.prefix / "bin"), "PREFIX": str(self.prefix), "HOME": "/nowhere"} | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **env: str) -> tuple[int, list[str]]:
        """Exit status and printed lines."""
        process = self.start(*command, **env)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output.splitlines()

    def syncs(self) -> list[str]:
        """The command line of each installation so far."""
        path = self.prefix / "syncs"
        return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    "programs, command, expected",
    [
        ({"uname": MAC}, [], ["found Darwin arm64", "Linux x86_64"]),
        ({"uname": LINUX}, [], ["no Python 3.10", "apt-get install python3.10", "pyenv install"]),
        ({"uname": LINUX, "python3_10": PYTHON_311}, [], ["no Python 3.10"]),
        (
            {"uname": LINUX, "python3_10": PYTHON_WITHOUT_LIBRARY},
            [],
            ["prefix/bin/python3.10 cannot load libpython3.10.so.1.0", "--enable-shared"],
        ),
        ({"uname": LINUX}, ["gpu"], ["unknown accelerator 'gpu'", "cpu, cuda or tpu"]),
    ],
)
def test_what_cannot_be_set_up_is_said_in_one_line(tmp_path, programs, command, expected):
    machine = Machine(tmp_path, **programs)
    status, lines = machine.run("scripts/setup.sh", *command)
    assert status == 1
    assert len(lines) == 1, lines
    assert all(part in lines[0] for part in expected), lines
    assert not (machine.project / ".venv").exists()


def test_a_failed_download_ends_with_what_to_do(tmp_path):
    machine = Machine(tmp_path, uname=LINUX, python3_10=PYTHON, uv=UV_OFFLINE)
    status, lines = machine.run()
    assert status == 1
    assert lines[-2] == "error: failed to fetch"
    assert "check the network connection" in lines[-1]


def test_an_import_error_fails_each_time_until_it_is_gone(tmp_path):
    machine = Machine(tmp_path, uname=LINUX, python3_10=PYTHON, uv=UV)
    for _ in range(2):
        status, lines = machine.run(IMPORT_ERROR="ImportError: undefined symbol")
        assert status == 1
        assert lines[-1].endswith("does not load: ImportError: undefined symbol")
    assert machine.run()[0] == 0


def test_packages_are_installed_once_until_something_changes(tmp_path):
    machine = Machine(tmp_path, uname=LINUX, python3_10=PYTHON, uv=UV)
    assert machine.run()[0] == 0
    assert machine.run() == (0, [])
    assert len(machine.syncs()) == 1
    assert "--frozen" in machine.syncs()[0] and "--extra" not in machine.syncs()[0]

    with (machine.project / "uv.lock").open("a") as lock:
        lock.write("\n")
    assert machine.run()[0] == 0
    assert len(machine.syncs()) == 2

    shutil.rmtree(machine.project / ".venv")
    assert machine.run()[0] == 0
    assert len(machine.syncs()) == 3


def test_an_accelerator_is_kept_until_another_is_chosen(tmp_path):
    machine = Machine(tmp_path, uname=LINUX, python3_10=PYTHON, uv=UV)
    for command in (["cuda"], [], ["cpu"], []):
        assert machine.run("scripts/setup.sh", *command)[0] == 0
    assert ["--extra cuda" in sync for sync in machine.syncs()] == [True, False]


def test_a_moved_or_half_made_environment_is_made_anew(tmp_path):
    machine = Machine(tmp_path, uname=LINUX, python3_10=PYTHON, uv=UV)
    assert machine.run()[0] == 0
    leftover = machine.project / ".venv" / "leftover"
    leftover.touch()
    moved = tmp_path / "moved"
    machine.project.rename(moved)
    machine.project = moved
    assert machine.run()[0] == 0
    assert not (moved / ".venv" / "leftover").exists()
    assert len(machine.syncs()) == 2


def test_parallel_set_ups_install_once(tmp_path):
    machine = Machine(tmp_path, uname=LINUX, python3_10=PYTHON, uv=UV)
    processes = [machine.start() for _ in range(3)]
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(machine.syncs()) == 1


def test_make_alone_lists_every_target(tmp_path):
    status, lines = Machine(tmp_path, uname=LINUX).run("make")
    assert status == 0
    assert [line.split()[1] for line in lines] == ["help", "setup", "train", "test", "clean"]


def test_make_train_sets_up_and_passes_every_option(tmp_path):
    machine = Machine(tmp_path, uname=LINUX, python3_10=PYTHON, uv=UV)
    status, lines = machine.run("make", "train", "GAME=breakout", "FRAMES=8", "ARGS=--seed 3")
    assert status == 0, lines
    assert len(machine.syncs()) == 1
    assert lines[-1].split() == (
        ".venv/bin/bmg train --preset local --game breakout --frames 8 "
        "--workdir runs/breakout --seed 3"
    ).split()


def test_the_ci_script_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert os.access(ROOT / "scripts" / "setup.sh", os.X_OK)
