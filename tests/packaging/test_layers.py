"""Imports go down only: which folder may import which, read from the source and tried for real."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What commands and benchmarks are made of.
_PARTS = {
    "agents",
    "meta",
    "replay",
    "environments",
    "storage",
    "actors",
    "learner",
    "experiments",
}
# Folder -> our other folders that it may import.
MAY_IMPORT = {
    "meta": set(),
    "agents": {"meta", "storage"},
    "environments": {"storage"},
    "storage": set(),
    "replay": {"storage"},
    "actors": {"agents", "meta", "replay", "environments", "storage"},
    "learner": {"agents", "meta", "replay", "environments", "storage"},
    "experiments": {"agents", "meta", "environments", "storage"},
    "benchmarks": _PARTS,
    "launch": _PARTS,
}
# Third-party module -> the only folder that may import it.
ONLY_IMPORTER = {
    "reverb": "replay",
    "tensorflow": "replay",
    "launchpad": "launch",
    "courier": "launch",  # comes with Launchpad
}
# meta/ knows mathematics only.
META_THIRD_PARTY = {"jax", "optax", "chex", "numpy"}
HEAVY = ("tensorflow", "reverb", "launchpad")
# What must also run on machines that have no wheels of these.
LIGHT = (
    "meta", "agents", "environments", "storage", "experiments", "actors", "learner",
    "launch.threads", "launch.evaluate",
)  # fmt: skip


def imported_modules(source: str) -> set[str]:
    """Top-level names of all absolute imports in `source`, also those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def violations(folder: str, source: str) -> list[str]:
    """What a file of `folder` imports against the rules."""
    wrong = []
    for name in sorted(imported_modules(source) - {folder}):
        if name == "tests":
            allowed = False
        elif name in MAY_IMPORT:
            allowed = name in MAY_IMPORT[folder]
        elif folder == "meta":
            allowed = name in META_THIRD_PARTY or name in sys.stdlib_module_names
        else:
            allowed = ONLY_IMPORTER.get(name, folder) == folder
        if not allowed:
            wrong.append(f"{folder} imports {name}")
    return wrong


@pytest.mark.parametrize(
    "folder, source, expected",
    [
        ("meta", "import jax.numpy as jnp\nfrom typing import Any\nimport meta.core", []),
        ("meta", "import haiku as hk", ["meta imports haiku"]),
        ("meta", "def f():\n  from agents import stacx", ["meta imports agents"]),
        ("agents", "import haiku, rlax\nfrom meta import core", []),
        ("agents", "from environments import base", ["agents imports environments"]),
        ("learner", "import reverb", ["learner imports reverb"]),
        ("actors", "import launchpad as lp", ["actors imports launchpad"]),
        ("actors", "import learner.update", ["actors imports learner"]),
        ("benchmarks", "import launch", ["benchmarks imports launch"]),
        ("replay", "import reverb, tensorflow as tf", []),
        ("launch", "import launchpad, courier, learner, actors", []),
        ("launch", "import tests.conftest", ["launch imports tests"]),
    ],
)
def test_the_rules_themselves(folder, source, expected):
    assert violations(folder, source) == expected


def test_every_source_file_imports_downwards_only():
    files = [path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py")]
    assert files
    wrong = {}
    for path in files:
        relative = path.relative_to(ROOT)
        if found := violations(relative.parts[0], path.read_text()):
            wrong[str(relative)] = found
    assert not wrong


def test_every_top_level_package_has_a_layer():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages
    assert packages <= MAY_IMPORT.keys()


IMPORT_ALL = """
import importlib, json, pkgutil, sys
name = sys.argv[1]
module = importlib.import_module(name)
names = [name]
for info in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
    if not info.name.endswith("__main__"):
        importlib.import_module(info.name)
        names.append(info.name)
print(json.dumps({"imported": names, "loaded": sorted(sys.modules)}))
"""


@pytest.mark.parametrize("name", LIGHT)
def test_a_fresh_interpreter_loads_no_heavy_dependency(name):
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, name],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    if "." not in name:
        assert len(report["imported"]) > 1, f"{name}/ holds no module"
    heavy = [module for module in report["loaded"] if module.split(".")[0] in HEAVY]
    assert not heavy, f"{name} loads {heavy[:5]}"
