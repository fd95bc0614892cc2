"""What is installed from a wheel, and that it gets along with a user's own folders."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.launch.commands import environment, json_of
from tests.packaging.test_files import ROOT, project_files
from tests.waiting import DEADLINE


@pytest.fixture(scope="module")
def sources():
    """The files that a wheel is built from."""
    return [name for name in project_files() if not name.startswith("tests/")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, sources):
    """Built in a copy, offline, with the setuptools of this environment."""
    copy = tmp_path_factory.mktemp("copy")
    for name in sources:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('out')"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    (path,) = (copy / "out").glob("bmg-*.whl")
    return path


def test_a_wheel_holds_every_module_and_the_data(wheel, sources):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (scripts,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "bmg = bmg.launch.cli:main" in archive.read(scripts).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
        assert any(name.endswith("licenses/NOTICE") for name in archive.namelist())
    expected = {"bmg/py.typed"}
    for name in sources:
        part = Path(name).parts[0]
        if part == "bmg":
            expected.add(name)
        elif f"{part}/__init__.py" in sources and name.endswith((".py", ".csv", ".npz", ".toml")):
            expected.add(f"bmg/{name}")
    assert len(expected) > 100
    assert held == expected


# A project whose folders have the names of the package's parts.
OWN_PROJECT = {
    "agents/__init__.py": "",
    "agents/own.py": "from meta import RATE\n"
    "from bmg.agents import impala\n"
    "from bmg.agents.agent import Agent\n"
    "def make(config, spec) -> Agent:\n"
    "    agent = impala.make(config, spec)\n"
    "    def update(state, batch, frames, key):\n"
    "        state, metrics = agent.update(state, batch, frames, key)\n"
    "        return state, {**metrics, 'own/rate': metrics['loss_main/total'] * 0 + RATE}\n"
    "    return agent._replace(update=update)\n",
    "meta.py": "RATE = 0.25\n",
    "learner.py": "raise ImportError('the project's own')\n",
    "launch/__init__.py": "raise ImportError('the project's own')\n",
    "storage.py": "raise ImportError('the project's own')\n",
    "replay.py": "raise ImportError('the project's own')\n",
}


@pytest.fixture
def project(tmp_path, wheel):
    """Such a project, and the variables with which the wheel is what is imported."""
    site, folder = tmp_path / "site", tmp_path / "project"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name, text in OWN_PROJECT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder, {**environment(), "PYTHONPATH": str(site)}


def test_a_project_with_folders_of_the_same_names_imports_both(project):
    folder, variables = project
    code = (
        "import agents.own, meta, bmg, bmg.meta.core, bmg.agents.factory, json; "
        "print(json.dumps([meta.RATE, bmg.__file__, bmg.meta.core.__file__, agents.__file__]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rate, package, core, own = json.loads(done.stdout)
    assert rate == 0.25 and own == str(folder / "agents" / "__init__.py")
    assert package == str(folder.parent / "site/bmg/__init__.py")
    assert core == str(folder.parent / "site/bmg/meta/core.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    "runtime", ["local-threads", pytest.param("launchpad", marks=pytest.mark.launchpad)]
)
def test_the_wheels_program_trains_the_projects_agent(project, runtime):
    """In each process: the launcher's, and those that Launchpad starts."""
    folder, variables = project
    command = [sys.executable, "-c", "from bmg.launch.cli import main; main()", "train"]
    command += "--game catch --frames 4000 --learner.replay-batch 0 --workdir run".split()
    command += ["--agent.algorithm", "agents.own:make", "--runtime", runtime]
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    assert json_of(folder / "run/results.json")["complete"] is True
    rows = (folder / "run/metrics.jsonl").read_text()
    assert re.search(r'"own/rate": 0\.25', rows)
