"""Imports go down only: which folder may import which, read from the source and tried for real."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What commands and benchmarks are made of.
_PARTS = {
    "sweeps",
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
    "sweeps": set(),
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
    "minatar": "tests",  # under the GPL
}
# meta/ knows mathematics only.
META_THIRD_PARTY = {"jax", "optax", "numpy"}
HEAVY = ("tensorflow", "reverb", "launchpad")
# What must also run on machines that have no wheels of these.
LIGHT = (
    "meta", "agents", "environments", "storage", "experiments", "actors", "learner",
    "launch.runtimes.threads", "launch.evaluate",
)  # fmt: skip


def imported_modules(source: str) -> set[str]:
    """What `source` imports, also inside functions: top-level names, and `bmg.PART`."""
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append("." * node.level + (node.module or ""))
    return {".".join(name.split(".")[: 2 if name.startswith("bmg.") else 1]) for name in modules}


def violations(folder: str, source: str) -> list[str]:
    """What a file of `folder` imports against the rules."""
    wrong = []
    for name in sorted(imported_modules(source)):
        if name.startswith("bmg."):
            allowed = name[4:] in MAY_IMPORT[folder] | {folder}
        elif name in MAY_IMPORT.keys() | {"", "examples", "tests"}:  # relative, or not as installed
            allowed = False
        elif folder == "meta":
            allowed = name in META_THIRD_PARTY or name in sys.stdlib_module_names
        else:
            allowed = ONLY_IMPORTER.get(name, folder) == folder
        if not allowed:
            wrong.append(name)
    return wrong


def test_the_rules_themselves():
    for folder, source, wrong in [
        ("meta", "import jax.numpy as jnp\nfrom typing import Any\nimport bmg.meta.core", []),
        ("meta", "import haiku as hk", ["haiku"]),
        ("meta", "def f():\n  from bmg.agents import stacx", ["bmg.agents"]),
        ("agents", "import haiku, rlax\nfrom bmg.meta import core\nimport bmg", []),
        ("agents", "from bmg.environments import base", ["bmg.environments"]),
        ("agents", "from meta import core", ["meta"]),
        ("agents", "from . import losses", [""]),
        ("learner", "import reverb", ["reverb"]),
        ("actors", "import launchpad as lp", ["launchpad"]),
        ("actors", "import bmg.learner.update", ["bmg.learner"]),
        ("benchmarks", "import bmg.launch", ["bmg.launch"]),
        ("replay", "import reverb, tensorflow as tf", []),
        ("launch", "import launchpad, courier, bmg.learner, bmg.actors.rollout", []),
        ("launch", "import tests.conftest", ["tests"]),
    ]:
        assert violations(folder, source) == wrong, (folder, source)


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
    assert packages == MAY_IMPORT.keys() | {"bmg"}


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


@pytest.mark.long
@pytest.mark.parametrize("name", LIGHT)
def test_a_fresh_interpreter_loads_no_heavy_dependency(tmp_path, name):
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, f"bmg.{name}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    if "." not in name:
        assert len(report["imported"]) > 1, f"{name}/ holds no module"
    heavy = [module for module in report["loaded"] if module.split(".")[0] in HEAVY]
    assert not heavy, f"{name} loads {heavy[:5]}"
