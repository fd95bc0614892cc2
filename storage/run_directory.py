"""A run's directory: its configuration file, and whether a run may begin or go on there."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from bmg.storage.fields import from_dict, number

Config = TypeVar("Config")

_LARGEST_FILE = 2**20  # bytes; a configuration has a few thousand


def to_dict(config) -> dict[str, Any]:
    """A configuration as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def select(config, names: Sequence[str]) -> dict[str, Any]:
    """Some fields, or groups of them, as `group.name` -> JSON value."""
    return {
        name: value
        for name, value in flatten(to_dict(config)).items()
        if any(name == chosen or name.startswith(chosen + ".") for chosen in names)
    }


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Groups within groups as `group.name` -> value."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def check_same(
    config,
    saved,
    fixed: Sequence[str],
    remedy: str = "leave that option out to resume it, or give another --workdir",
) -> None:
    """Refuses to go on with a run under another configuration.

    Args:
      config: what is asked for; its `path` is the run directory.
      saved: what the run was started with.
      fixed: fields, or groups of them, that may not differ.
      remedy: what the user can do.

    Raises:
      ValueError: in one line, naming the first field that differs.
    """
    then = select(saved, fixed)
    for name, value in select(config, fixed).items():
        if value != then[name]:
            raise ValueError(
                f"{config.path} holds a run with {name} = {then[name]!r}, not {value!r}; {remedy}."
            )


def check_workdir(config, fixed: Sequence[str]) -> None:
    """Refuses a run directory that holds another run, or none where one is to be resumed.

    Args:
      config: what is asked for, with `path` and `resume`.
      fixed: fields that a resumed run may not change.

    Raises:
      ValueError: one line.
    """
    workdir = config.path
    if config_file(workdir).exists():
        saved = load_config(workdir, type(config))
        if config.resume:
            check_same(config, saved, fixed)
        else:
            raise ValueError(
                f"{workdir} holds a run already; give --resume to go on with it, or another "
                "--workdir."
            )
    elif _holds_a_run(workdir):
        raise ValueError(
            f"{workdir} holds checkpoints or metrics of a run, and no {config_file(workdir).name}; "
            "bring that back, or give another --workdir."
        )
    elif config.resume:
        raise ValueError(f"no run to resume in {workdir}; leave --resume out to start one there.")


def check_declared(configs: Iterable, fixed: Sequence[str], remedy: str) -> None:
    """Refuses run directories, of runs that begin or go on, that hold others.

    Args:
      configs: what is asked for.
      fixed: fields that may not differ from those of a run that is there.
      remedy: what the user can do.

    Raises:
      ValueError: one line.
    """
    for config in configs:
        if config_file(config.path).exists():
            check_same(config, load_config(config.path, type(config)), fixed, remedy)
        else:
            check_workdir(config, fixed)


def _holds_a_run(workdir: pathlib.Path) -> bool:
    """Whether something is there that a new run would mix with its own."""
    results = ("metrics.jsonl", "results.csv", "results.json")
    checkpoints = workdir / "checkpoints"
    return any((workdir / name).exists() for name in results) or (
        checkpoints.is_dir() and any(checkpoints.iterdir())
    )


def host_folder(root: pathlib.Path, index: int) -> pathlib.Path:
    """Where host `index` of a run writes."""
    return root / "hosts" / str(index) if index else root


def config_file(workdir: pathlib.Path) -> pathlib.Path:
    """The resolved configuration's file."""
    return workdir / "config.json"


def load_json(workdir: pathlib.Path) -> dict[str, Any]:
    """What stands in the configuration's file of the run in `workdir`.

    Raises:
      ValueError: no run there, or not readable; one line.
    """
    path = config_file(workdir)
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large")
        # Python may refuse to read integers of many digits, which no field takes.
        values = json.loads(path.read_text("utf-8"), parse_int=number)
        if not isinstance(values, dict):
            raise ValueError(f"it is a {type(values).__name__}; allowed are groups of fields")
        return values
    except FileNotFoundError:
        raise ValueError(f"no run in {workdir} ({path} is missing).") from None
    except RecursionError:
        raise ValueError(f"{path} cannot be read: it is nested too deeply.") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def load_config(workdir: pathlib.Path, cls: type[Config]) -> Config:
    """The configuration of the run in `workdir`, of the given kind.

    Raises:
      ValueError: no run there, or not readable; one line.
    """
    values = load_json(workdir)
    try:
        return from_dict(cls, values)
    except ValueError as error:
        raise ValueError(f"{config_file(workdir)}: {error}") from None
