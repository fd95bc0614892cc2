"""What is shipped: the lock file, the wheel, the licence and the tracked files."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import urlparse

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib


def load(name: str) -> dict:
    return tomllib.loads((ROOT / name).read_text())


def project_files() -> list[str]:
    """Files that git tracks or would track."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in output.split("\0") if name and (ROOT / name).is_file()]


def test_the_lock_names_public_hosts_only():
    urls = re.findall(r'"([a-z+]+://[^"]*)"', (ROOT / "uv.lock").read_text())
    assert urls
    assert {urlparse(url).hostname for url in urls} == {"pypi.org", "files.pythonhosted.org"}


def stated_requirements() -> dict[tuple[str, str], SpecifierSet]:
    """(group or extra, package) -> version specifier, as pyproject.toml says."""
    project = load("pyproject.toml")
    groups = {"": project["project"]["dependencies"]}
    groups |= project["project"]["optional-dependencies"]
    groups |= project["dependency-groups"]
    parsed = [(group, Requirement(text)) for group, texts in groups.items() for text in texts]
    return {(group, item.name): item.specifier for group, item in parsed}


def test_the_lock_is_in_step_with_pyproject():
    packages = {package["name"]: package for package in load("uv.lock")["package"]}
    metadata = packages["bmg"]["metadata"]
    locked = {}
    for item in metadata["requires-dist"]:
        group = re.search(r"extra == '(\w+)'", item.get("marker", ""))
        key = (group.group(1) if group else "", item["name"])
        locked[key] = SpecifierSet(item.get("specifier", ""))
    for group, items in metadata["requires-dev"].items():
        for item in items:
            locked[group, item["name"]] = SpecifierSet(item.get("specifier", ""))
    stated = stated_requirements()
    assert locked == stated, "run 'uv lock'"
    for (_, name), specifier in stated.items():
        assert Version(packages[name]["version"]) in specifier


def test_a_wheel_holds_every_module_and_the_data(tmp_path):
    """Builds in a copy, offline, with the setuptools of this environment."""
    copy = tmp_path / "copy"
    sources = [name for name in project_files() if not name.startswith("tests/")]
    for name in sources:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('out')"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (copy / "out").glob("bmg-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (scripts,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "bmg = launch.cli:main" in archive.read(scripts).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    packages = {Path(name).parts[0] for name in sources if re.fullmatch(r"\w+/__init__\.py", name)}
    expected = {
        name
        for name in sources
        if Path(name).parts[0] in packages
        and (name.endswith(".py") or re.fullmatch(r"environments/data/[^/]*\.csv", name))
    }
    assert expected
    assert held == expected


def test_the_licence_is_apache_2_unchanged():
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_no_file_names_a_path_of_one_machine():
    machine_path = re.compile(r"(?<![\w.$}/-])/(?:root|home|work|Users|mnt)/\w")
    assert machine_path.search("see " + "/ho" + "me/me/x") and not machine_path.search("a/home/b")
    wrong = []
    for name in project_files():
        data = (ROOT / name).read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
            if machine_path.search(line):
                wrong.append(f"{name}:{number}: {line.strip()[:80]}")
    assert not wrong
