"""Dockerfile: what it says, and its steps with stand-ins for Python and uv; no image is built."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy import dockerfile
from tests.packaging.test_files import project_files
from tests.packaging.test_setup import LINUX, OLD, Machine, python
from tests.tables import named

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
STAGES = dockerfile.stages_of(TEXT)
BUILD = next(stage for stage in STAGES if stage.name == "build")
FINAL = STAGES[-1]
# What the package is made of and set up with, besides its folders.
FILES = {
    "LICENSE", "NOTICE", "README.md", "pyproject.toml", "setup.py", "uv.lock", "scripts/setup.sh",
}  # fmt: skip

# Installs nothing, but a program unless it shall leave the project out.
UV = """case $1 in sync)
  echo "$UV_NO_DEFAULT_GROUPS $UV_NO_EDITABLE $UV_NO_INSTALL_PROJECT: $@" >>"$PREFIX/syncs"
  mkdir -p .venv/bin
  for name in python ${UV_NO_INSTALL_PROJECT:-bmg}; do
    echo '#!/bin/sh' >.venv/bin/$name
    chmod +x .venv/bin/$name
  done;;
esac"""


def test_the_parser_itself():
    text = (
        "# no\nARG A=1\nFROM x-${A} AS y\nRUN a \\\n    && b\n# no\n\nCOPY --from=y /b .\nUSER 5\n"
    )
    assert dockerfile.stages_of(text) == [
        dockerfile.Stage(
            "x-${A}", "y", [("RUN", "a && b"), ("COPY", "--from=y /b ."), ("USER", "5")]
        )
    ]
    copies = [dockerfile.Step("COPY", x) for x in ("a b c/", "--from=y /b .")]
    assert [dockerfile.sources_of(step) for step in copies] == [["a", "b"], []]


def test_the_context_is_the_package_and_its_set_up_alone():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    needed = {name for name in project_files() if name.split("/")[0] in packages} | FILES
    assert {str(path) for path in dockerfile.in_context(ROOT)} == needed


def test_every_copied_file_is_there():
    sent = {str(path) for path in dockerfile.in_context(ROOT)}
    copied = [x for stage in STAGES for step in stage.steps if step.name == "COPY"
              for x in dockerfile.sources_of(step)]  # fmt: skip
    assert "uv.lock" in copied and set(copied) - {"."} <= sent
    taken = [step.text.split() for step in FINAL.steps if step.name == "COPY"]
    venv = f"{BUILD.last('WORKDIR')}/.venv"
    assert taken == [["--from=build", venv, venv]], "scripts in it hold its path"


def documented(argument: str) -> list[str]:
    """The values of a build argument that the file's first lines name."""
    lines = re.search(rf"^# {argument} +((?:.*\n#   +)*.*)", TEXT, re.MULTILINE)[1]
    return re.findall(r"\b(cpu|cuda|tpu|3\.10|newest)\b(?=,| or|:)", lines)


def build(tmp_path: Path, accelerator: str = "") -> tuple[Machine, list]:
    """The build stage with stand-ins: the machine, and what came of each RUN."""
    machine = Machine(tmp_path, **OLD, uv=UV)
    env = {**dockerfile.usable(machine.prefix / "bin"), "PREFIX": str(machine.prefix)}
    arguments = {"ACCELERATOR": accelerator} if accelerator else {}
    return machine, list(dockerfile.execute(BUILD, ROOT, tmp_path / "opt", arguments, env))


def test_its_commands_make_an_environment_for_every_accelerator(tmp_path):
    values = documented("ACCELERATOR")
    assert sorted(values) == ["cpu", "cuda", "tpu"]
    for accelerator in ["", *values]:
        with named(accelerator):
            machine, done = build(tmp_path / f"of-{accelerator}", accelerator)
            assert [one.returncode for one in done] == [0, 0], done
            extra = "" if accelerator in ("", "cpu") else f" --extra {accelerator}"
            first, second = machine.syncs()
            assert first.startswith("1 1 1: sync --frozen "), "no tests' packages, no project yet"
            assert second.startswith("1 1 : sync --frozen ")
            assert f"--extra all{extra} --python" in first and f"all{extra} --python" in second
            assert (tmp_path / f"of-{accelerator}/opt/.venv/bin/bmg").exists()
    _, done = build(tmp_path / "wrong", "gpu")
    assert done[0].returncode == 1 and "unknown accelerator 'gpu'" in done[0].stderr


def test_both_pythons_have_what_they_need(tmp_path):
    values = documented("PYTHON")
    assert sorted(values) == ["3.10", "newest"]
    by_name = {stage.name: stage for stage in STAGES}
    assert {BUILD.base, FINAL.base} == {"python-${PYTHON}"}, "the same for both"
    assert dockerfile.steps_of(TEXT)[0] == ("ARG", "PYTHON=3.10")
    for value in values:
        packages = by_name[f"python-{value}"].last("RUN").split()
        assert {"tini", "ca-certificates"} <= set(packages)
    # What setup.sh asks for where it finds no Python.
    status, (line,) = Machine(tmp_path, uname=LINUX).run()
    wanted = re.search(r"'apt-get install (.*?)'", line)[1].split()
    assert status == 3 and len(wanted) == 3
    assert set(wanted) <= set(by_name["python-3.10"].last("RUN").split())
    # A newest Python in its place is found as well.
    image, version = re.match(r"(python):(3\.\d+)-", by_name["python-newest"].base).groups()
    name = f"{image}{version}".replace(".", "_")
    machine = Machine(tmp_path / "newest", uname=LINUX, uv=UV, **{name: python(version)})
    assert machine.run()[0] == 0
    assert machine.syncs()[0].endswith(f"/bin/{image}{version}")


def test_it_runs_bmg_as_a_user_who_is_not_root():
    names = [step.name for step in FINAL.steps]
    assert re.fullmatch("[1-9][0-9]*:[1-9][0-9]*", FINAL.last("USER"))
    assert "RUN" not in names[names.index("USER") :]
    assert json.loads(FINAL.last("ENTRYPOINT")) == ["tini", "--", "bmg"]
    (path,) = re.findall(r"\bPATH=(\S+)", FINAL.last("ENV"))
    assert path == f"{BUILD.last('WORKDIR')}/.venv/bin:$PATH"
    user = FINAL.last("USER").split(":")[0]
    (made,) = [step.text for step in FINAL.steps if step.text.startswith("useradd ")]
    assert f"--uid {user} " in made
    assert f"--home-dir {FINAL.last('WORKDIR')} " in made, "it can write where it works"


@pytest.mark.parametrize("place", [stage.name for stage in STAGES])
def test_shell_commands_are_whole(place):
    (stage,) = [stage for stage in STAGES if stage.name == place]
    commands = [step.text for step in stage.steps if step.name == "RUN"]
    assert commands
    for command in commands:
        subprocess.run(["sh", "-n", "-c", command], check=True)
