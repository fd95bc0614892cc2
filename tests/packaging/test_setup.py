"""scripts/setup.sh and the Makefile with stand-ins for uname, Python and uv: nothing is fetched."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tables import named
from tests.waiting import DEADLINE, eventually

ROOT = Path(__file__).resolve().parents[2]
TOOLS = "sh bash cat cksum dirname mkdir mv rm sed sleep tail touch chmod make printf".split()

# Stand-ins. The Pythons know only how to answer setup.sh's questions about them, and how to lock.
LINUX = "case $1 in -s) echo Linux;; -m) echo x86_64;; esac"
MAC = "case $1 in -s) echo Darwin;; -m) echo arm64;; esac"
INTEL_MAC = "case $1 in -s) echo Darwin;; -m) echo x86_64;; esac"


def python(version: str) -> str:
    return f"""case $2 in
*base_prefix*) echo "$PREFIX/bin/python{version}";;
*version_info*) echo {version};;
*fcntl*) echo >>"$PREFIX/lockers"; exec {shlex.quote(sys.executable)} "$@";;
--check | .) exit ${{LINT_STATUS:-0}};;
pytest)
  case "$*" in *"-m slow"*) exit ${{SLOW_STATUS:-0}};; *) exit ${{QUICK_STATUS:-0}};; esac;;
esac"""


OLD = {"uname": LINUX, "python3_10": python("3.10")}
WITHOUT_LIBRARY = f"""case $2 in *CDLL*) exit 1;; esac
{python("3.10")}"""
# What it installs is the Python that it was given, its last argument; HELD, once it may.
UV = """case $1 in sync)
  for python; do :; done
  echo "$UV_PROJECT_ENVIRONMENT $@" >>"$PREFIX/syncs"
  mkdir -p $UV_PROJECT_ENVIRONMENT/bin
  until [ -z "$HELD" ] || [ -e "$PREFIX/go" ]; do sleep 0.02; done
  for name in python bmg ruff; do
    name=$UV_PROJECT_ENVIRONMENT/bin/$name
    echo '#!/bin/sh' >$name
    echo '[ -z "$IMPORT_ERROR" ] || { echo "$IMPORT_ERROR"; exit 1; }' >>$name
    echo "exec $python" '"$@"' >>$name
    chmod +x $name
  done;;
esac"""
UV_OFFLINE = "[ $1 != sync ] || { echo 'error: failed to fetch' >&2; exit 2; }"


class Machine:
    """A copy of the project's set-up on a machine that has only the given programs."""

    def __init__(self, folder: Path, **programs: str):
        self.project = folder / "project"
        self.prefix = folder / "prefix"
        for name in ("scripts/setup.sh", "pyproject.toml", "setup.py", "uv.lock", "Makefile"):
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
            env={"PATH": str(self.prefix / "bin"), "PREFIX": str(self.prefix), "HOME": "/nowhere"}
            | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **env: str) -> tuple[int, list[str]]:
        """Exit status and printed lines."""
        process = self.start(*command, **env)
        output, _ = process.communicate(timeout=DEADLINE)
        return process.returncode, output.splitlines()

    def syncs(self) -> list[str]:
        """The command line of each installation so far."""
        path = self.prefix / "syncs"
        return path.read_text().splitlines() if path.exists() else []


IMPOSSIBLE = [
    ({"uname": INTEL_MAC}, [], {}, ["found Darwin x86_64", "Linux aarch64", "Darwin arm64"]),
    ({"uname": MAC}, [], {}, ["no Python 3.11 to 3.13", "pyenv install 3.13"]),
    ({**OLD, "uname": MAC}, [], {}, ["no Python 3.11 to 3.13"]),
    (OLD, [], {"PYTHON": "newest"}, ["no Python 3.11 to 3.13:"]),
    (
        {"uname": LINUX},
        [],
        {},
        ["no Python 3.10 to 3.13:", "apt-get install python3.10", "pyenv install"],
    ),
    ({"uname": LINUX, "python3_10": python("3.9")}, [], {}, ["no Python 3.10 to 3.13"]),
    (OLD, [], {"PYTHON": "/none"}, ["no Python 3.10 to 3.13 at PYTHON=/none"]),
    (
        {"uname": LINUX, "python3_10": WITHOUT_LIBRARY, "python3_12": python("3.12")},
        [],
        {},
        ["prefix/bin/python3.10 cannot load libpython3.10.so.1.0", "--enable-shared"],
    ),
    ({"uname": LINUX}, ["gpu"], {}, ["unknown accelerator 'gpu'", "cpu, cuda or tpu"]),
    ({"uname": MAC}, ["cuda"], {}, ["no cuda build for Darwin arm64", "choose cpu"]),
    (OLD, [], {"VENV": "/somewhere"}, ["VENV=/somewhere", "choose .venv or .venv-NAME"]),
]


def test_what_cannot_be_set_up_is_said_in_one_line(tmp_path):
    for number, (programs, command, env, expected) in enumerate(IMPOSSIBLE):
        with named(*expected):
            machine = Machine(tmp_path / str(number), **programs)
            status, lines = machine.run("scripts/setup.sh", *command, **env)
            assert len(lines) == 1, lines
            assert status == (3 if "no Python" in lines[0] else 1)
            assert all(part in lines[0] for part in expected), lines
            assert not (machine.project / ".venv").exists()


CHOICES = [
    (LINUX, ["3.10", "3.11", "3.13"], None, "3.10"),
    (LINUX, ["3.10", "3.12"], "3.12", "3.12"),
    (LINUX, ["3.10", "3.11", "3.13"], "newest", "3.13"),
    (LINUX, ["3.11", "3.12"], None, "3.12"),
    (MAC, ["3.10", "3.11"], None, "3.11"),
    (MAC, ["3.12", "3.13"], None, "3.13"),
    (MAC, ["3.12", "3.13"], "3.12", "3.12"),
]


def test_python_decides_what_is_installed(tmp_path):
    """Python 3.10 on Linux x86-64: with Launchpad and Reverb. Else the newest, without them."""
    for number, (system, versions, asked, chosen) in enumerate(CHOICES):
        with named(versions, asked):
            pythons = {f"python{x.replace('.', '_')}": python(x) for x in versions}
            machine = Machine(tmp_path / str(number), uname=system, uv=UV, **pythons)
            path = f"{machine.prefix}/bin/python{asked}"
            env = {"PYTHON": "newest" if asked == "newest" else path} if asked else {}
            status, lines = machine.run(IMPORT_ERROR="ImportError: gone", **env)
            assert status == 1
            checked = "launchpad, reverb" if chosen == "3.10" else "jax, haiku, ale_py"
            assert lines[-1] == f"setup: one of {checked} does not load: ImportError: gone"
            status, lines = machine.run(**env)
            assert status == 0
            assert machine.syncs()[-1].endswith(f"--python {machine.prefix}/bin/python{chosen}")
            said = [line for line in lines if "no wheels" in line]
            assert len(said) == (chosen != "3.10")
            words = (f"Python {chosen} on", "--runtime local-threads")
            assert all(word in line for line in said for word in words), said


def test_two_environments_stand_side_by_side(tmp_path):
    machine = Machine(tmp_path, **OLD, python3_12=python("3.12"), uv=UV)
    newest = {"VENV": ".venv-newest", "PYTHON": "newest"}
    for env in ({}, newest, {}, newest):
        assert machine.run(**env)[0] == 0
    assert [sync.split()[0] for sync in machine.syncs()] == [".venv", ".venv-newest"]


def test_naming_another_python_makes_the_environment_anew(tmp_path):
    machine = Machine(tmp_path, **OLD, python3_12=python("3.12"), uv=UV)
    newer = {"PYTHON": f"{machine.prefix}/bin/python3.12"}
    for env in ({}, newer, newer, {}):
        assert machine.run(**env)[0] == 0
    assert [sync[-4:] for sync in machine.syncs()] == ["3.10", "3.12"]


def test_a_failed_download_ends_with_what_to_do(tmp_path):
    machine = Machine(tmp_path, **OLD, uv=UV_OFFLINE)
    status, lines = machine.run()
    assert status == 1
    assert lines[-2] == "error: failed to fetch"
    assert "check the network connection" in lines[-1]


def test_an_import_error_fails_each_time_until_it_is_gone(tmp_path):
    machine = Machine(tmp_path, **OLD, uv=UV)
    for _ in range(2):
        status, lines = machine.run(IMPORT_ERROR="ImportError: undefined symbol")
        assert status == 1
        assert lines[-1].endswith("does not load: ImportError: undefined symbol")
    assert machine.run()[0] == 0


def test_packages_are_installed_once_until_something_changes(tmp_path):
    machine = Machine(tmp_path, **OLD, uv=UV)
    assert machine.run()[0] == 0
    assert machine.run() == (0, [])
    assert len(machine.syncs()) == 1
    assert "--frozen" in machine.syncs()[0] and "--extra all" in machine.syncs()[0]

    with (machine.project / "uv.lock").open("a") as lock:
        lock.write("\n")
    assert machine.run()[0] == 0
    assert len(machine.syncs()) == 2

    shutil.rmtree(machine.project / ".venv")
    assert machine.run()[0] == 0
    assert len(machine.syncs()) == 3


def test_an_accelerator_is_kept_until_another_is_chosen(tmp_path):
    machine = Machine(tmp_path, **OLD, uv=UV)
    for command in (["cuda"], [], ["cpu"], []):
        assert machine.run("scripts/setup.sh", *command)[0] == 0
    assert ["--extra cuda" in sync for sync in machine.syncs()] == [True, False]


def test_a_moved_or_half_made_environment_is_made_anew(tmp_path):
    machine = Machine(tmp_path, **OLD, uv=UV)
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
    machine = Machine(tmp_path, **OLD, uv=UV)
    processes = [machine.start(HELD="yes") for _ in range(3)]
    lockers = machine.prefix / "lockers"
    try:  # all of them come before the first one is done
        eventually(lambda: lockers.exists() and lockers.read_text() == 3 * "\n")
    finally:
        (machine.prefix / "go").touch()
    for process in processes:
        process.communicate(timeout=DEADLINE)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(machine.syncs()) == 1


def test_make_alone_lists_every_target(tmp_path):
    status, lines = Machine(tmp_path, uname=LINUX).run("make")
    assert status == 0
    targets = ["help", "setup", "demo", "train", "lint", "check", "docs", "test", "test-newest"]
    targets.append("clean")
    assert [line.split()[1] for line in lines] == targets


STATUSES = [
    (0, 0, True), (0, 5, True), (5, 0, True), (5, 5, False), (1, 0, False),
    (0, 1, False), (5, 1, False), (1, 5, False),
]  # fmt: skip


def test_make_test_fails_with_any_of_its_parts(tmp_path):
    """0: passed. 1: failed. 5: of what TESTS names, nothing was of that part."""
    for number, (quick, slow, passes) in enumerate(STATUSES):
        with named(quick, slow):
            machine = Machine(tmp_path / str(number), **OLD, uv=UV)
            status, _ = machine.run("make", "test", QUICK_STATUS=str(quick), SLOW_STATUS=str(slow))
            assert (status == 0) == passes


CHECKS = [(0, 0, True), (1, 0, False), (0, 1, False)]


def test_make_check_is_lint_and_the_fast_tests(tmp_path):
    for number, (lint, fast, passes) in enumerate(CHECKS):
        with named(lint, fast):
            machine = Machine(tmp_path / str(number), **OLD, uv=UV)
            statuses = {"LINT_STATUS": str(lint), "QUICK_STATUS": str(fast), "SLOW_STATUS": "1"}
            status, lines = machine.run("make", "check", **statuses)
            assert (status == 0) == passes, lines
            chosen = [line for line in lines if "-m pytest" in line]
            assert len(chosen) == (not lint), "what is not in order is not tested"
            words = '-m "not slow and not heavy and not long" tests'
            assert all(line.endswith(words) for line in chosen), chosen


@pytest.mark.parametrize("failing", [0, 1])
def test_make_test_newest_has_its_own_environment(tmp_path, failing):
    machine = Machine(tmp_path, **OLD, python3_12=python("3.12"), uv=UV)
    status, lines = machine.run("make", "test-newest", QUICK_STATUS=str(failing))
    assert bool(status) == bool(failing)
    assert any(".venv-newest/bin/python -m pytest" in line for line in lines), lines
    (sync,) = machine.syncs()
    assert sync.startswith(".venv-newest ") and sync.endswith("python3.12")


def test_make_test_newest_without_a_newer_python_says_so_and_succeeds(tmp_path):
    status, lines = Machine(tmp_path, **OLD, uv=UV).run("make", "test-newest")
    assert status == 0
    assert len(lines) == 1 and "no Python 3.11 to 3.13" in lines[0]


def test_make_test_newest_fails_if_it_cannot_be_set_up(tmp_path):
    machine = Machine(tmp_path, **OLD, python3_12=python("3.12"), uv=UV_OFFLINE)
    assert machine.run("make", "test-newest")[0] != 0


def test_make_train_sets_up_and_passes_every_option(tmp_path):
    machine = Machine(tmp_path, **OLD, uv=UV)
    status, lines = machine.run("make", "train", "GAME=breakout", "FRAMES=8", "ARGS=--seed 3")
    assert status == 0, lines
    assert len(machine.syncs()) == 1
    assert (
        lines[-1].split()
        == (
            ".venv/bin/bmg train --preset local --game breakout --frames 8 "
            "--workdir runs/breakout --seed 3"
        ).split()
    )


def test_the_ci_script_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert os.access(ROOT / "scripts" / "setup.sh", os.X_OK)
