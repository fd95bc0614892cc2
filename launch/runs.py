"""`bmg runs`: a table of the runs in a folder, also while they run."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from bmg.experiments.config import LifetimesConfig
from bmg.launch.config import TrainConfig
from bmg.launch.console import duration
from bmg.launch.options import parse_options, with_first
from bmg.launch.runtimes.in_graph import directories
from bmg.launch.tables import print_table
from bmg.storage.fields import check_fields
from bmg.storage.files import found_json, is_owned
from bmg.storage.rows import METRICS, Row, parse_row
from bmg.storage.run_directory import config_file, flatten, load_json

_TAIL = 2**18  # bytes of metrics.jsonl that are read
# No run is in these folders of a run directory.
_INSIDE = {"checkpoints", "playing", "logs", "nodes", "tensorboard", "profile", "hosts"}


@dataclasses.dataclass(frozen=True)
class RunsConfig:
    """List the runs in a folder: what each is, how far it is, its last returns, whether it runs;
    also as `bmg runs FOLDER`."""

    folder: str = "runs"
    """Where they are, however deep."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg runs`.

    Raises:
      ValueError: there is no run; one line.
    """
    config = parse_options(RunsConfig, "bmg runs", with_first("--folder", arguments))
    root = pathlib.Path(config.folder)
    rows = [row_of(path, root) for path in find(root)]
    if not rows:
        raise ValueError(f"no runs in {root}; give a folder of run directories.")
    print_table(rows)
    return 0


def find(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Run directories, in order of their names; the folders of a run's seeds are part of it."""
    for folder, folders, files in os.walk(root):
        path = pathlib.Path(folder)
        folders[:] = sorted(set(folders) - _INSIDE)
        if config_file(path).name in files:
            folders[:] = [name for name in folders if not name.startswith("seed-")]
            yield path


def row_of(path: pathlib.Path, root: pathlib.Path) -> dict[str, Any]:
    """A line of the table."""
    try:
        settings = flatten(load_json(path))
    except ValueError:
        settings = {}
    results = found_json(path / "results.json")
    folders = sorted(path.glob(f"seed-*/{METRICS}")) or [path / METRICS]
    latest = [_latest(file) for file in folders]
    frames = _mean(latest, "learner/frames")
    if frames is None:
        frames = results.get("steps", results.get("frames"))
    total = settings.get("frames", settings.get("steps"))
    return {
        "run": str(path.relative_to(root)) if path != root else path.name or str(path),
        "what": _what(settings),
        "seeds": _seeds(settings),
        "frames": _share(frames, total, _unit(results)),
        "training": _mean(latest, "training/return"),
        "evaluation": _mean(latest, "evaluation/return"),
        "state": _state(path, results, frames, total),
        "age": duration(max(time.time() - _newest(path), 0.0)),
    }


def _what(settings: dict[str, Any]) -> str:
    words = [
        settings[name]
        for name in ("game", "agent.algorithm", "agent", "method", "objective")
        if isinstance(settings.get(name), str)
    ]
    # An objective alone, with which a rule is meta-trained, would be taken for an agent.
    is_lpg = "objective" in settings and "rule.prediction" in settings
    return ", ".join(["lpg", *words]) if is_lpg else " ".join(words)


def _unit(results: dict[str, Any]) -> str:
    """What an experiment's steps are, where they are no steps of an environment."""
    counted = results.get("counted")
    return counted if isinstance(counted, str) and counted != LifetimesConfig.counted else ""


def is_complete(config: TrainConfig) -> bool:
    """Whether all seeds of a run of `bmg train` have all of their frames, and the last evaluation
    where one is wanted."""
    return all(
        results.get("complete") is True
        and results.get("frames", 0) >= config.frames
        and (not config.evaluator.num_evaluators or _is_final(results.get("evaluation")))
        for results in (found_json(folder / "results.json") for folder in directories(config))
    )


def _is_final(evaluation: Any) -> bool:
    return isinstance(evaluation, dict) and evaluation.get("final") is True


def _latest(path: pathlib.Path) -> Row:
    """The newest value of each metric, as far as the file's end has it."""
    latest: Row = {}
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL, 0))
            for row in filter(None, map(parse_row, file)):
                latest |= row
    except OSError:
        pass
    return latest


def _mean(latest: list[Row], name: str) -> float | None:
    """Over seeds."""
    found = [row[name] for row in latest if name in row]
    return sum(found) / len(found) if found else None


def _seeds(settings: dict[str, Any]) -> str:
    first, count = settings.get("first_seed", settings.get("seed")), settings.get("seeds", 1)
    if not isinstance(first, int) or not isinstance(count, int):
        return ""
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def _share(frames, total, unit: str) -> str:
    if not isinstance(frames, (int, float)):
        return ""
    if not isinstance(total, (int, float)) or not total:
        return f"{_short(frames)} {unit}".rstrip()
    return f"{_short(min(frames, total))} of {_short(total)} {unit}".rstrip()


def _short(number: float) -> str:
    """Three digits: 1.18M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.3g}"


def _state(path: pathlib.Path, results: dict[str, Any], frames, total) -> str:
    """running, complete, failed or stopped."""
    if is_owned(path):
        return "running"
    if found_json(path / "nodes" / "learner.json").get("state") in ("failed", "stalled"):
        return "failed"
    # The file may be of the stretch before the run was given more frames.
    enough = not isinstance(total, (int, float)) or (isinstance(frames, (int, float))
                                                      and frames >= total)  # fmt: skip
    return "complete" if results.get("complete") is True and enough else "stopped"


def _newest(path: pathlib.Path) -> float:
    """When the run wrote there last, seconds since the epoch; what others leave, such as
    evaluations and videos, does not count."""
    written = (METRICS, "results.csv", "results.json", f"seed-*/{METRICS}", "checkpoints/*.npz")
    there = [x for pattern in written for x in path.glob(pattern)] or [config_file(path)]
    return max(x.lstat().st_mtime for x in there)
