"""What a program compiles is there for the next one."""

import os
import pathlib
import stat
import subprocess
import sys

import filelock
import pytest

from bmg.storage import compiled
from bmg.storage.compiled import FOLDER, keeping_compiled_programs
from tests.waiting import DEADLINE

_PROGRAM = """
import jax, jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.ones((3, 3))).block_until_ready()
print(sum("cache_hit" in event for event in hits))
"""


@pytest.fixture(autouse=True)
def an_amd_processor(monkeypatch):
    monkeypatch.setattr(compiled, "_cpu", lambda: "AuthenticAMD")


def run(variables) -> int:
    """How many programs a process has found."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_second_process_finds_what_the_first_has_compiled(tmp_path, monkeypatch):
    monkeypatch.undo()
    if compiled._refuses(compiled._cpu()):
        pytest.skip("JAX does not take back what it keeps on this processor")
    monkeypatch.setattr(compiled, "_SECONDS", 0)
    variables = keeping_compiled_programs({"XDG_CACHE_HOME": str(tmp_path)})
    assert run(variables) == 0
    folder = pathlib.Path(variables[FOLDER])
    assert folder.parent == tmp_path / "bmg/compiled" and any(folder.glob("jit*-cache"))
    keeping_compiled_programs({"XDG_CACHE_HOME": str(tmp_path)})
    assert run(variables) > 0


def test_what_was_not_written_to_its_end_is_written_anew(tmp_path, monkeypatch):
    """As a writer leaves it that is killed: JAX itself would neither replace it nor keep others."""
    monkeypatch.undo()
    if compiled._refuses(compiled._cpu()):
        pytest.skip("JAX does not take back what it keeps on this processor")
    monkeypatch.setattr(compiled, "_SECONDS", 0)
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    variables = keeping_compiled_programs(environment)
    run(variables)
    folder = pathlib.Path(variables[FOLDER])
    whole = {path.name for path in folder.glob("*-cache")}
    cut = sorted(whole)[0]
    (folder / cut).write_bytes(b"x")
    (folder / cut.replace("-cache", "-atime")).unlink()
    with filelock.FileLock(folder / ".lockfile"):  # it may be written just now
        monkeypatch.setattr(compiled, "_LOCK_SECONDS", 0.0)
        keeping_compiled_programs(environment)
    assert (folder / cut).exists()
    keeping_compiled_programs(environment)
    assert {path.name for path in folder.glob("*-cache")} == whole - {cut}
    assert run(variables) == len(whole) - 1
    assert (folder / cut).stat().st_size > 100
    assert run(variables) == len(whole)


def test_other_processors_have_a_folder_of_their_own(tmp_path, monkeypatch):
    environment = {"HOME": str(tmp_path)}
    here = keeping_compiled_programs(environment)
    assert pathlib.Path(here[FOLDER]).parent == tmp_path / ".cache/bmg/compiled"
    assert keeping_compiled_programs(environment) == here
    monkeypatch.setattr(compiled, "_cpu", lambda: "another")
    assert keeping_compiled_programs(environment)[FOLDER] != here[FOLDER]
    assert not any(tmp_path.iterdir()), "JAX makes it, when there is something to keep"


def test_the_kind_of_a_processor_is_read(monkeypatch):
    monkeypatch.undo()
    assert len(compiled._cpu()) > 20 and compiled._cpu() == compiled._cpu()


@pytest.mark.parametrize(
    ("version", "cpu", "refuses"),
    [
        ("0.6.2", "GenuineIntel", False), ("0.9.0", "GenuineIntel", True),
        ("1.0", "GenuineIntel", True), ("0.12.0.1", "AuthenticAMD", False),
    ],
)  # fmt: skip
def test_where_jax_refuses_them_nothing_is_kept(tmp_path, monkeypatch, version, cpu, refuses):
    monkeypatch.setattr(compiled, "_cpu", lambda: cpu)
    monkeypatch.setattr(compiled.importlib.metadata, "version", lambda name: version)
    assert (keeping_compiled_programs({"HOME": str(tmp_path)}) == {}) is refuses


@pytest.mark.parametrize("chosen", ["/elsewhere", ""])
def test_a_choice_of_the_users_stands(tmp_path, chosen):
    assert keeping_compiled_programs({FOLDER: chosen, "HOME": str(tmp_path)}) == {}


def test_without_a_folder_nothing_is_kept(tmp_path):
    assert keeping_compiled_programs({}) == {}
    (tmp_path / "file").touch()
    assert keeping_compiled_programs({"XDG_CACHE_HOME": str(tmp_path / "file")}) == {}


def test_a_folder_that_cannot_be_looked_at_stops_nobody(tmp_path):
    """As in another user's home, which the tests' user may be allowed to enter."""
    variables = keeping_compiled_programs({"XDG_CACHE_HOME": str(tmp_path / ("x" * 300))})
    assert run(variables) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_left_alone(tmp_path):
    folder = pathlib.Path(keeping_compiled_programs({"HOME": str(tmp_path)})[FOLDER])
    folder.mkdir(parents=True)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert keeping_compiled_programs({"HOME": str(tmp_path)}) == {}
