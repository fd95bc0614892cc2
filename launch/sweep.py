"""`bmg sweep`: games times seeds times settings, as runs of `bmg train` in one folder."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shlex
from typing import Literal

from bmg.launch import environment, signals
from bmg.launch.config import FIXED
from bmg.launch.options import parse_options, with_first
from bmg.storage.fields import Count, Few, Natural, check_fields


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Train with every combination of a file's games, seeds and settings, several runs at the same
    time; go on where it was stopped; as `bmg sweep FILE`."""

    file: str
    """Of the sweep (.toml), or the name of one that comes along: small, ablations, atari57."""
    root: str = ""
    """Folder of the runs, such as root/pong/bmg/seed-0; empty for what the file says."""
    executor: Literal["local", "slurm"] = "local"
    """local: on this machine, until all is done. slurm: submit what is missing as an array of jobs,
    and return."""
    parallel: Count | None = None
    """Runs at the same time; None for what the file says."""
    cores: Natural | None = None
    """Of each run; 0 for the machine's divided by the number of runs at the same time; None for
    what the file says."""
    retries: Few | None = None
    """How often a run that failed goes on from its newest checkpoint; None for what the file says.
    """
    dry_run: bool = False
    """Print the command of each run that is missing, and run nothing."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg sweep`.

    Returns:
      The exit code: 0 complete or submitted, 1 some runs failed, 130 stopped by Ctrl-C.

    Raises:
      ValueError: bad input, one line.
    """
    options = parse_options(SweepConfig, "bmg sweep", with_first("--file", arguments))
    from bmg.launch.runs import is_complete
    from bmg.launch.sweeps import declaration
    from bmg.storage.files import is_owned

    path = declaration.path_of(options.file)
    sweep = declaration.load(path)
    changes = {
        name: value
        for name in ("parallel", "cores", "retries")
        if (value := getattr(options, name)) is not None
    }
    own = dataclasses.replace(sweep.declaration, **changes)
    root = pathlib.Path(options.root or own.root or f"runs/{sweep.name}")
    try:
        runs = declaration.runs_of(sweep, root)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    _check_folder(root, runs)
    missing = [run for run in runs if not is_complete(run.config)]
    if len(runs) > len(missing):
        print(f"{len(runs) - len(missing)} of {len(runs)} runs are complete")
    if options.dry_run:
        for run in missing:
            print(shlex.join(["bmg", *run.arguments]))
        return 0
    elsewhere = [run.name for run in missing if is_owned(run.config.path)]
    for name in elsewhere:
        print(f"{name}: runs already")
    missing = [run for run in missing if run.name not in elsewhere]
    environment.clean()
    again = shlex.join(["bmg", "sweep", *arguments])
    if options.executor == "slurm":
        return _submit(root, missing, own, sweep.slurm)
    return _run(root, missing, own, again)


def _check_folder(root: pathlib.Path, runs) -> None:
    """Refuses a folder whose runs have other settings.

    Raises:
      ValueError: one line.
    """
    from bmg.storage.run_directory import check_declared, config_file

    if config_file(root).exists():
        raise ValueError(f"{root} is the directory of a run; give another --root.")
    check_declared([run.config for run in runs], FIXED, "give another --root")


def _run(root: pathlib.Path, missing, own, again: str) -> int:
    from bmg.launch.sweeps.local import run_all, slots_of
    from bmg.storage.files import owned

    def at_once() -> None:
        os.write(2, f"bmg: ends at once; go on with: {again}\n".encode())

    with owned(root, "--root"):
        slots = slots_of(own.parallel, own.cores)
        failed, stopped = run_all(root, missing, slots, own.retries, at_once)
    if stopped:
        print(f"stopped; go on with: {again}")
        return signals.EXIT_CODE
    if failed:
        print(f"{len(failed)} failed; try again with: {again}")
        return 1
    print(f"complete; bmg runs {root} lists the runs, bmg plot --workdirs ... draws them")
    return 0


def _submit(root: pathlib.Path, missing, own, parameters) -> int:
    from bmg.launch.sweeps.slurm import queued, submit

    there = queued(root)
    for run in missing:
        if run.name in there:
            print(f"{run.name}: job {there[run.name]} already")
    missing = [run for run in missing if run.name not in there]
    if missing:
        given = {"name": "bmg-sweep", "slurm_array_parallelism": own.parallel, **parameters}
        if own.cores:
            given = {"cpus_per_task": own.cores, **given}
        for name, job in submit(root, missing, own.retries, given).items():
            print(f"{name}: job {job}")
    print(f"watch them with: bmg runs {root}")
    return 0
