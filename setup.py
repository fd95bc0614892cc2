"""What pyproject.toml cannot say: the package `bmg` is made of folders at the top level."""

from setuptools import find_packages, setup

PARTS = [
    "actors", "agents", "benchmarks", "environments", "experiments", "launch", "learner", "meta",
    "replay", "storage", "sweeps",
]  # fmt: skip

setup(
    packages=["bmg", *(f"bmg.{name}" for name in find_packages() if name.split(".")[0] in PARTS)],
    package_dir={"bmg": "bmg", **{f"bmg.{name}": name for name in PARTS}},
    package_data={
        "bmg": ["py.typed"],
        "bmg.agents": ["rules/*.npz"],
        "bmg.environments": ["data/*.csv"],
        "bmg.experiments.few_shot.data": ["*.csv"],
        "bmg.sweeps": ["*.toml"],
    },
)
