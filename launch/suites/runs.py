"""Runs of a suite, one after the other: `bmg train`'s, each in its own folder.

root/suite.json                        what the suite is; another one is refused
root/results.csv                       the table of finished runs, where no other is named
root/breakout/bmg-l1-kl/seed-0, ...    one run with its seeds
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence

from bmg.experiments.comparison.table import (
    META_CURVES,
    META_POINTS,
    POINTS,
    Finished,
    add_to_table,
    late_mean,
    read_table,
    stretches,
)
from bmg.launch import environment, signals
from bmg.launch.config import FIXED, TrainConfig
from bmg.launch.runs import is_complete
from bmg.launch.runtimes.in_graph import directories
from bmg.launch.suites.minatar import digest
from bmg.launch.suites.options import RunsOptions
from bmg.storage.files import owned, reason, remove_leftovers, write_json
from bmg.storage.run_directory import check_declared, config_file

_SUITE = "suite.json"
Part = tuple[str, str]  # game, method


def run_all(
    suite: str, options: RunsOptions, configs: Mapping[Part, TrainConfig], again: str
) -> int:
    """Runs what is missing.

    Args:
      suite: its name, which the folder keeps.
      options: where, and which seeds.
      configs: of each part; their directories are set here.
      again: the command that goes on with all of it.

    Returns:
      The exit code: 0 complete, 1 some runs failed, 130 stopped by Ctrl-C.

    Raises:
      ValueError: the folder or the table is another suite's, or cannot be written; one line, and
        nothing was written.
    """
    root = pathlib.Path(options.root)
    placed = {
        part: dataclasses.replace(config, workdir=str(root.joinpath(*part)))
        for part, config in configs.items()
    }
    missing = _missing(options, placed)
    identity = {"suite": suite, "steps": options.steps, "seeds": options.seeds,
                "first_seed": options.first_seed}  # fmt: skip
    _check_folder(root, identity, placed)
    if missing:
        _check_table(options.table)
    environment.clean()

    def at_once() -> None:
        os.write(2, f"bmg: ends at once; go on with: {again}\n".encode())

    # Between two runs; a run answers for itself.
    with signals.orderly(at_once=at_once) as asked, owned(root, "--root"):
        _keep_identity(root, identity)
        failed = []
        for number, (part, config) in enumerate(placed.items(), start=1):
            name = " ".join(part)
            if part not in missing:
                print(f"{number} of {len(placed)}: {name} is in {options.table} already")
                continue
            print(f"{number} of {len(placed)}: {name}", flush=True)
            code = 0 if is_complete(config) else _train(config, again)
            if code == signals.EXIT_CODE:
                return code
            if is_complete(config):
                try:
                    found = harvest(part, config)
                    add_to_table(options.table, found)
                except (OSError, ValueError, LookupError) as error:
                    is_file = isinstance(error, OSError)
                    why = f"{error.filename}: {reason(error)}" if is_file else error
                    print(f"bmg: {name} is not in the table: {why}", file=sys.stderr)
                    failed.append(name)
                else:
                    print(f"{name}: {_returns(found)}")
                    for directory in directories(config):  # as large as the ring
                        shutil.rmtree(directory / "playing", ignore_errors=True)
            elif not code:  # stopped in its last evaluation
                print(f"stopped; go on with: {again}")
                return signals.EXIT_CODE
            else:
                failed.append(name)
            if asked.is_set() and number < len(placed):
                print(f"stopped; go on with: {again}")
                return signals.EXIT_CODE
    if failed:
        print(f"bmg: failed: {', '.join(failed)}; try again with: {again}", file=sys.stderr)
    return 1 if failed else 0


def _check_table(path: pathlib.Path) -> None:
    """Writes the table as it is: whoever cannot do so learns it before hours of training.

    Raises:
      ValueError: it cannot be written; one line.
    """
    try:
        add_to_table(path, [])
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {reason(error)}; give another --results."
        ) from None


def _returns(found: Sequence[Finished]) -> str:
    """What a part has come to, in the mean over its seeds."""
    late = [run.late_return for run in found if not math.isnan(run.late_return)]
    last = sum(run.evaluation_return for run in found) / len(found)
    words = f"return {sum(late) / len(late):.4g} in the last tenth" if late else "no episode ended"
    return f"{words}, {last:.4g} in evaluation"


def _missing(options: RunsOptions, configs: Mapping[Part, TrainConfig]) -> set[Part]:
    """The parts that the table does not have all seeds of, under the same settings."""
    there = {run.key for run in read_table(options.table)}
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return {
        part for part, config in configs.items()
        if not all((*part, seed, digest(config)) in there for seed in seeds)
    }  # fmt: skip


def _check_folder(
    root: pathlib.Path, identity: Mapping[str, object], configs: Mapping[Part, TrainConfig]
) -> None:
    """Refuses a folder that holds something else.

    Raises:
      ValueError: one line.
    """
    remedy = "give another --root"
    path = root / _SUITE
    if config_file(root).exists():
        raise ValueError(f"{root} is the directory of a run, and no suite's; {remedy}.")
    if path.exists():
        try:
            saved = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            raise ValueError(f"{path} cannot be read: {error}; {remedy}.") from None
        saved = saved if isinstance(saved, dict) else {}
        for name, value in identity.items():
            if saved.get(name) != value:
                raise ValueError(
                    f"{root} holds a suite with {name} = {saved.get(name)!r}, not {value!r}; "
                    f"{remedy}."
                )
    check_declared(configs.values(), (*FIXED, "frames", "replay.replay_capacity"), remedy)


def _keep_identity(root: pathlib.Path, identity: Mapping[str, object]) -> None:
    remove_leftovers(root)
    write_json(root / _SUITE, identity)


def _train(config: TrainConfig, again: str) -> int:
    """Runs one, or goes on with it."""
    import jax

    from bmg.launch import train

    resume = config_file(config.path).exists()
    try:
        return train.run(dataclasses.replace(config, resume=resume), whole=again)
    finally:
        jax.clear_caches()  # its programs are of no use to the next one


def harvest(part: Part, config: TrainConfig) -> list[Finished]:
    """A line of the table for each seed of a finished run."""
    from bmg.learner.metrics import METRICS
    from bmg.storage.rows import read_rows

    found = []
    for index, directory in enumerate(directories(config)):
        results = json.loads((directory / "results.json").read_text())
        rows = read_rows(directory / METRICS)

        def points(name: str, rows=rows) -> list[tuple[float, float]]:
            return sorted((row["frames"], row[name]) for row in rows if name in row)

        returns = points("training/return")
        meta = {
            name: stretches(points(metric), config.frames, META_POINTS)
            for name, metric in META_CURVES.items()
            if points(metric)
        }
        evaluation = results["evaluation"]
        found.append(
            Finished(
                *part,
                config.seed + index,
                config.frames,
                digest(config),
                evaluation["mean_return"],
                evaluation["episodes"],
                late_mean(returns, config.frames) if returns else math.nan,
                results["wall_seconds"],
                stretches(returns, config.frames, POINTS),
                meta,
            )  # fmt: skip
        )
    return found
