"""Dockerfile: what it says, and its steps with stand-ins for Python and uv; no image is built."""

from __future__ import annotations

import json
import re
from pathlib import Path

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
    (lines,) = re.findall(rf"^# {argument} +((?:.*\n#   +)*.*)", TEXT, re.MULTILINE)
    return re.findall(r"\b(?:cpu|cuda|tpu)\b(?=,| or|:)|\b\w+:\d+[.][\w-]+", lines)


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


def packages_on(tmp_path: Path, *programs: str) -> list[str]:
    """What the first stage has apt-get install where these programs are."""
    machine = Machine(tmp_path, **{"apt-get": 'echo "$@" >>"$PREFIX/apt"'})
    for name in programs:
        (machine.prefix / "bin" / name).symlink_to("/bin/true")
    env = {**dockerfile.usable(machine.prefix / "bin"), "PREFIX": str(machine.prefix)}
    (done,) = dockerfile.execute(STAGES[0], ROOT, tmp_path / "base", {}, env)
    assert done.returncode == 0, done.stderr
    first, second = (machine.prefix / "apt").read_text().splitlines()
    assert first == "update"
    return [word for word in second.split() if not word.startswith("--")]


def test_both_systems_get_what_they_need(tmp_path):
    bases = documented("BASE")
    assert bases == ["ubuntu:22.04", "python:3.13-slim-bookworm"]
    assert dockerfile.steps_of(TEXT)[0] == ("ARG", f"BASE={bases[0]}")
    assert [stage.base for stage in STAGES] == ["${BASE}", "base", "base"]
    # What setup.sh asks for where it finds no Python.
    status, (line,) = Machine(tmp_path / "none", uname=LINUX).run()
    wanted = re.search(r"'apt-get install (.*?)'", line)[1].split()
    assert status == 3 and len(wanted) == 3
    everywhere = ["install", "ca-certificates", "tini"]
    assert sorted(packages_on(tmp_path / "old")) == sorted([*everywhere, *wanted])
    # The other one has its Python, which setup.sh finds.
    assert packages_on(tmp_path / "newest", "python3") == everywhere
    name, version = re.match(r"(python):(3\.\d+)-", bases[1]).groups()
    machine = Machine(tmp_path / "set-up", uname=LINUX, uv=UV, python3_13=python(version))
    assert machine.run()[0] == 0
    assert machine.syncs()[0].endswith(f"/bin/{name}{version}")


def test_it_runs_bmg_as_a_user_who_is_not_root():
    names = [step.name for step in FINAL.steps]
    assert re.fullmatch("[1-9][0-9]*:[1-9][0-9]*", FINAL.last("USER"))
    assert "RUN" not in names[names.index("USER") :]
    assert json.loads(FINAL.last("ENTRYPOINT")) == ["tini", "--", "bmg"]
    variables = " ".join(step.text for step in FINAL.steps if step.name == "ENV")
    (path,) = re.findall(r"\bPATH=(\S+)", variables)
    assert path == f"{BUILD.last('WORKDIR')}/.venv/bin:$PATH"
    user = FINAL.last("USER").split(":")[0]
    (made,) = [step.text for step in FINAL.steps if step.text.startswith("useradd ")]
    assert f"--uid {user} " in made
    assert f"--home-dir {FINAL.last('WORKDIR')} " in made, "it can write where it works"
    # The last of its layers, so that a new commit changes nothing before it.
    assert ("ARG", "COMMIT") in FINAL.steps and FINAL.last("ENV") == "BMG_COMMIT=$COMMIT"
