"""What is shipped: the lock file, the wheel, the licence and the tracked files."""

from __future__ import annotations

import collections
import functools
import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from tests.tables import named

ROOT = Path(__file__).resolve().parents[2]


class World(NamedTuple):
    """Where the package is installed."""

    python: str
    system: str
    machine: str


OLD = World("3.10", "linux", "x86_64")  # with Launchpad and Reverb
NEWER = [
    World(python, *platform)
    for python in ("3.11", "3.12", "3.13")
    for platform in [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]
]

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib


@functools.cache
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


def holds(marker: str | None, world: World, extra: str = "") -> bool:
    environment = {
        "python_version": world.python,
        "python_full_version": f"{world.python}.1",
        "sys_platform": world.system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[world.system],
        "platform_machine": world.machine,
        "extra": extra,
    }
    return not marker or Marker(marker).evaluate(environment)


def stated_requirements(world: World) -> dict[tuple[str, str], SpecifierSet]:
    """(group or extra, package) -> version specifier, as pyproject.toml says."""
    project = load("pyproject.toml")
    groups = {"": project["project"]["dependencies"]}
    groups |= project["project"]["optional-dependencies"]
    groups |= project["dependency-groups"]
    found = collections.defaultdict(SpecifierSet)
    for group, texts in groups.items():
        for item in map(Requirement, texts):
            if holds(str(item.marker or ""), world):
                found[group, item.name] &= item.specifier
    return found


def locked_requirements(world: World) -> dict[tuple[str, str], SpecifierSet]:
    """The same, as it was when uv.lock was made."""
    (project,) = locked_packages("bmg")
    items = [("", item) for item in project["metadata"]["requires-dist"]]
    for group, more in project["metadata"]["requires-dev"].items():
        items += [(group, item) for item in more]
    found = collections.defaultdict(SpecifierSet)
    for group, item in items:
        marker = item.get("marker", "")
        if extra := re.search(r"extra == '(\w+)'", marker):
            group = extra.group(1)
        if holds(marker, world, extra=group):
            found[group, item["name"]] &= SpecifierSet(item.get("specifier", ""))
    return found


def locked_packages(name: str, version: str | None = None) -> list[dict]:
    """All locked versions of a package, or that one."""
    packages = [package for package in load("uv.lock")["package"] if package["name"] == name]
    return [package for package in packages if version in (None, package.get("version"))]


def installed(world: World) -> dict[str, dict]:
    """name -> what uv.lock holds of each package that is installed there, for tests too."""
    found = {}
    (project,) = locked_packages("bmg")
    wanted = project["dependencies"] + project["optional-dependencies"]["all"]
    wanted = [*wanted, *sum(project["dev-dependencies"].values(), [])]
    while wanted:
        item = wanted.pop()
        if holds(item.get("marker"), world):
            (package,) = locked_packages(item["name"], item.get("version"))
            for extra in item.get("extra", []):
                wanted += package["optional-dependencies"][extra]
            if package["name"] not in found:
                wanted += package.get("dependencies", [])
            assert found.setdefault(package["name"], package) is package, "two versions of one"
    return found


def test_the_lock_is_in_step_with_pyproject():
    for world in [OLD, *NEWER]:
        with named(world):
            stated = stated_requirements(world)
            assert locked_requirements(world) == stated, "run 'uv lock'"
            packages = installed(world)
            for (group, name), specifier in stated.items():
                if group not in ("cuda", "tpu") and name != "bmg":
                    assert Version(packages[name]["version"]) in specifier


BUILT = {"rliable"}  # it has no wheel; pure Python, which is built without a compiler


def test_every_locked_package_has_a_wheel():
    for world in [OLD, *NEWER]:
        with named(world):
            python = tuple(map(int, world.python.split(".")))
            if world.system == "darwin":
                platforms = list(mac_platforms((14, 0), world.machine))
            else:
                years = ["2010", "2014", *(f"_2_{minor}" for minor in range(17, 36))]
                platforms = [f"manylinux{year}_{world.machine}" for year in years]
            tags = set(cpython_tags(python, platforms=platforms))
            tags.update(compatible_tags(python, platforms=platforms))
            for name, package in installed(world).items():
                if name in BUILT:
                    continue
                names = [
                    urlparse(wheel["url"]).path.split("/")[-1]
                    for wheel in package.get("wheels", [])
                ]
                assert any(parse_wheel_filename(wheel)[3] & tags for wheel in names), name


def test_launchpad_and_its_pins_are_in_their_own_world_alone():
    old = {name: package["version"] for name, package in installed(OLD).items()}
    pins = {
        "dm-launchpad": "0.5.2", "dm-reverb": "0.7.3", "tensorflow-cpu": "2.8.4",
        "tensorboard": "2.8.0", "protobuf": "3.19.6", "numpy": "1.26.4", "jax": "0.6.2",
        "jaxlib": "0.6.2", "dm-haiku": "0.0.17", "optax": "0.2.8", "chex": "0.1.90",
        "rlax": "0.1.7", "ale-py": "0.12.1", "gymnasium": "1.4.0", "dm-tree": "0.1.10",
    }  # fmt: skip
    assert {name: old[name] for name in pins} == pins
    for world in NEWER:
        packages = installed(world)
        assert not packages.keys() & {"dm-launchpad", "dm-reverb", "tensorflow-cpu"}
        assert Version(packages["jax"]["version"]) > Version(pins["jax"])


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
