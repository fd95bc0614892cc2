"""A Dockerfile as far as it goes without a builder: what it says, and its steps in a folder."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Step(NamedTuple):
    """An instruction, such as RUN, and what follows it on one line."""

    name: str
    text: str


class Stage(NamedTuple):
    """What begins with FROM."""

    base: str
    name: str
    steps: list[Step]

    def last(self, name: str) -> str:
        """The text of its last instruction of a name."""
        return [step.text for step in self.steps if step.name == name][-1]


def steps_of(text: str) -> list[Step]:
    """Its instructions, without comments and continued lines."""
    lines = [line for line in text.splitlines() if not re.match(r"\s*(#|$)", line)]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Step(*line.split(None, 1)) for line in joined.splitlines()]


def stages_of(text: str) -> list[Stage]:
    """Its stages; a base is named as in the file, `python-${PYTHON}`."""
    stages = []
    for step in steps_of(text):
        if step.name == "FROM":
            base, _, name = step.text.partition(" AS ")
            stages.append(Stage(base, name, []))
        elif stages:
            stages[-1].steps.append(step)
    return stages


def in_context(root: Path) -> Iterator[Path]:
    """The files that a builder is sent, relative to `root`. Of .dockerignore's language only what
    ours has: a first line `*`, then `!NAME` of what is sent all the same, then `**/NAME`."""
    everything, *rules = steps_or_rules((root / ".dockerignore").read_text())
    assert everything == "*"
    sent = [rule[1:] for rule in rules if rule.startswith("!")]
    left_out = [rule[3:] for rule in rules if rule.startswith("**/")]
    assert len(sent) + len(left_out) == len(rules)
    for name in sent:
        path = root / name
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            parts = file.relative_to(root).parts
            if file.is_file() and not any(fnmatch.filter(parts, x) for x in left_out):
                yield file.relative_to(root)


def steps_or_rules(text: str) -> list[str]:
    """Lines that are neither empty nor comments."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def sources_of(step: Step) -> list[str]:
    """What a COPY takes out of the context; nothing where it takes from a stage."""
    *sources, _ = step.text.split()
    return [] if sources[0].startswith("--from=") else sources


def execute(
    stage: Stage, root: Path, folder: Path, arguments: Mapping[str, str], variables: dict[str, str]
) -> Iterator[subprocess.CompletedProcess]:
    """Does the steps of a stage here, its working directory being `folder`.

    Args:
      stage: of ARG, ENV, WORKDIR, COPY from the context, and RUN alone.
      root: the context.
      folder: made anew.
      arguments: of the build.
      variables: the environment of a RUN before the stage's own.

    Yields:
      What came of each RUN, which may have failed.
    """
    folder.mkdir(parents=True)
    variables = dict(variables)
    for step in stage.steps:
        if step.name == "ARG":
            name, _, default = step.text.partition("=")
            variables[name] = arguments.get(name, default)
        elif step.name == "ENV":
            variables |= dict(item.split("=", 1) for item in step.text.split())
        elif step.name == "COPY":
            target = step.text.split()[-1]
            for source in sources_of(step):
                _copy(root, source, folder / target)
        elif step.name == "RUN":
            yield subprocess.run(
                ["sh", "-c", step.text],
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
        else:
            assert step.name == "WORKDIR", step


def _copy(root: Path, source: str, target: Path) -> None:
    """A file into a folder, or a folder's content."""
    for file in in_context(root):
        if source == "." or str(file) == source:
            to = target / (file if source == "." else file.name)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / file, to)


def usable(folder: Path) -> dict[str, str]:
    """The environment of a RUN with the programs of `folder` alone."""
    return {"PATH": os.fspath(folder), "HOME": "/nowhere"}
