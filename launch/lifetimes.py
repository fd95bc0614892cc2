"""A run of an experiment in one process: lifetimes side by side, from the start or a checkpoint to
their results."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import sys
import time
from typing import Any

from bmg.experiments.declaration import Experiment
from bmg.launch import environment, mirror, provenance, signals
from bmg.launch.options import parse_options, peek
from bmg.storage.run_directory import (
    check_workdir,
    config_file,
    flatten,
    load_config,
    to_dict,
)

_LEAVE_SECONDS = 12.0  # after Ctrl-C, within which a run ends by itself or is ended
_LOOK_SECONDS = 30.0  # between two looks for what is not finite
_MAY_CHANGE = {"steps", "checkpoint_interval", "workdir", "resume", "wandb"}  # of a resumed run


def measuring(experiment: Experiment) -> Experiment:
    """The same, whose runs measure meta-gradients on their way."""
    return experiment._replace(
        command=f"{experiment.command} variance", config=experiment.variance, steps_fixed=True
    )


def parse(experiment: Experiment, arguments: list[str]):
    """The command line, on top of the run that is resumed.

    Raises:
      ValueError: bad input, one line.
    """
    known = peek(arguments, ("workdir",), ("resume",))
    workdir = known.get("workdir", experiment.config.workdir)
    default = None
    if known.get("resume") and config_file(pathlib.Path(workdir)).exists():
        # The directory may have been moved: the one that was named is meant.
        saved = load_config(pathlib.Path(workdir), experiment.config)
        default = dataclasses.replace(saved, workdir=workdir)
    return parse_options(experiment.config, f"bmg {experiment.command}", arguments, default)


def run(experiment: Experiment, config) -> int:
    """Runs one method from its start or its checkpoint to its end.

    Returns:
      The exit code: 0 complete, 130 stopped by Ctrl-C.

    Raises:
      ValueError: the run directory holds another run; one line.
    """
    environment.clean()
    return _run_alone(experiment, config)


def _run_alone(experiment: Experiment, config) -> int:
    """Likewise, where the environment is clean; nobody else may use its directory."""
    may_change = _MAY_CHANGE - {"steps"} if experiment.steps_fixed else _MAY_CHANGE
    fixed = [f.name for f in dataclasses.fields(config) if f.name not in may_change]
    check_workdir(config, fixed)

    from bmg.storage.files import owned

    if config.wandb:
        mirror.check_installed()
    # Before anything is written: what a lifetime is made of may not be there, or not fit.
    runner = None
    if not _is_left_alone(config):
        runner = make_runner(config, make_lifetime(experiment, config))
    with owned(config.path):
        check_workdir(config, fixed)  # again: another run may have been there until now
        with mirror.beside(config.wandb, config.path):
            return _run(experiment, config, runner)


def make_lifetime(experiment: Experiment, config, most_devices: int | None = None):
    """The lifetime of a run; the devices that it needs are settled first.

    Args:
      experiment: whose it is.
      config: of the run.
      most_devices: that are of any use; None for those of the run.

    Raises:
      ValueError: its data cannot be had, or do not fit; one line.
    """
    from bmg.experiments.runner import use_all_cores

    use_all_cores(most_devices or config.most_devices)
    with signals.interrupting(_LEAVE_SECONDS):  # its data may be in the midst of being written
        return experiment.functions.make_lifetime(config)


def _is_left_alone(config) -> bool:
    """Whether there is nothing left to do: a table that is gone or damaged is written again."""
    return config.resume and _is_complete(config.path, config.steps) and _has_table(config.path)


def _has_table(workdir: pathlib.Path) -> bool:
    from bmg.experiments.records import RESULTS, read_csv

    try:
        read_csv(workdir / RESULTS)
    except (OSError, ValueError):
        return False
    return True


def _run(experiment: Experiment, config, runner) -> int:
    """Likewise, in a directory of its own; `runner` is None where nothing is left to do."""
    from bmg.launch.console import StepsConsole
    from bmg.launch.events import Events, columns_as_they_are
    from bmg.storage.checkpoint import list_checkpoints
    from bmg.storage.files import remove_leftovers, write_json

    workdir = config.path
    remove_leftovers(workdir, workdir / "checkpoints")
    if runner is None:
        print((workdir / "results.json").read_text(), end="")
        return 0
    if found := environment.report():
        print(found)
    if config.resume:
        if list_checkpoints(workdir / "checkpoints"):
            for problem in runner.restore():
                print(problem)
            if runner.records.steps - runner.chunk_steps >= config.steps:
                raise ValueError(
                    f"{workdir} has {runner.records.steps:,} {config.counted} already; give at "
                    f"least as many for --steps, not {config.steps:,}."
                )
        else:
            print(f"no checkpoint in {workdir}: the run begins at 0 {config.counted} again")
    write_json(config_file(workdir), to_dict(dataclasses.replace(config, resume=False)))
    if keep := getattr(experiment.functions, "keep", None):
        keep(config)
    started, begin = time.monotonic(), runner.records.steps
    console = StepsConsole(config.steps, config.seeds, str(workdir), config.counted)
    events = Events(
        workdir / "tensorboard", range(config.first_seed, config.first_seed + config.seeds),
        config.steps, begin, getattr(experiment.functions, "curves", columns_as_they_are),
        _what_it_is(config), getattr(experiment.functions, "DESCRIPTIONS", {}),
    )  # fmt: skip

    watch = _Watch(config, runner)

    def report(steps: int) -> None:
        console.update(steps)
        events.update(runner.records)
        watch.update()

    def write() -> tuple[dict[str, Any] | None, list[str]]:
        rate = (runner.records.steps - begin) / (time.monotonic() - started)
        rate = runner.steps_per_second or config.seeds * rate
        return _write_results(experiment, config, runner, rate)

    with signals.orderly(_LEAVE_SECONDS, _say_end) as asked:
        with console:
            _advance(experiment, config, runner, report, asked.is_set, write)
        events.update(runner.records, last=runner.records.steps >= config.steps)
        events.close()
        stopped = asked.is_set() and runner.records.steps < config.steps
        result, not_written = write()
        if result is not None and not stopped:
            print(json.dumps(result, indent=2))
        not_saved = [*runner.not_saved, *not_written]
        if not_saved:
            print(f"bmg: not written are {' and '.join(not_saved)}; free some space, and --resume",
                  file=sys.stderr)  # fmt: skip
            return 1
    if stopped:
        print(f"stopped; go on with: bmg {experiment.command} --workdir {workdir} --resume")
        return signals.EXIT_CODE
    return 0


def _what_it_is(config) -> dict[str, Any]:
    """Its settings, without where and for which seeds it runs."""
    besides = ("workdir", "resume", "seeds", "first_seed", "wandb")
    return {k: v for k, v in flatten(to_dict(config)).items() if k not in besides}


class _Watch:
    """Says which lifetimes are not finite any more, once of each, while they run."""

    def __init__(self, config, runner):
        self._config, self._runner = config, runner
        self._said: set[int] = set()
        self._looked_at = time.monotonic()

    def update(self) -> None:
        """Looks, where it has not for a while."""
        if time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        config, found = self._config, not_finite_seeds(self._config, self._runner)
        if new := [seed for seed in found if seed not in self._said]:
            self._said.update(new)
            seeds = "seeds" if len(new) > 1 else "seed"
            steps = f"{self._runner.records.steps:,} {config.counted}"
            print(
                f"{config.path}: {seeds} {', '.join(map(str, new))} not finite after {steps}: "
                "nothing more is learned there",
                flush=True,
            )


def not_finite_seeds(config, runner) -> list[int]:
    """Of the lifetimes that have a NaN."""
    return [config.first_seed + index for index in runner.not_finite()]


def make_runner(config, lifetime):
    """The lifetimes of a run, at their beginning; their checkpoints are in its directory.

    Raises:
      ValueError: their state does not fit into the memory; one line.
    """
    from bmg.experiments.runner import Runner

    return Runner(
        lifetime, config.seeds, config.first_seed, config.record_every,
        config.path / "checkpoints", config.counted,
    )  # fmt: skip


def _advance(experiment: Experiment, config, runner, report, should_stop, write) -> None:
    """Runs to the end or until asked to stop, and measures on the way where it is for that; results
    are written with each checkpoint, for whoever looks and if the process is killed."""
    advance = functools.partial(
        runner.run, report=report, checkpoint_interval=config.checkpoint_interval,
        should_stop=should_stop, saved=write,
    )  # fmt: skip
    if experiment.config is experiment.variance:
        from bmg.experiments.multistep import estimators
        from bmg.experiments.multistep.config import milestones

        make_estimate = experiment.functions.make_estimate
        kinds = estimators.make_estimators(config, make_estimate, runner.convolves)
        for steps in milestones(config, config.steps):
            if runner.records.steps < steps:
                advance(steps)
            if should_stop():
                return
            # A resumed run may be far beyond: then it was measured before.
            if runner.records.steps < steps + runner.chunk_steps:
                estimators.measure(kinds, config, runner, config.path / estimators.ESTIMATES)
    advance(config.steps)


def _say_end() -> None:
    """In the midst of a compilation, or of a measurement: state and results are those before."""
    os.write(2, b"bmg: ends at once; --resume goes on from the newest checkpoint, if any\n")


def _is_complete(workdir: pathlib.Path, steps: int) -> bool:
    """Whether a run of so many steps has left its results: they are left alone."""
    from bmg.storage.files import found_json

    result = found_json(workdir / "results.json")
    return result.get("complete") is True and result.get("steps") == steps


def _write_results(
    experiment: Experiment, config, runner, steps_per_second: float
) -> tuple[dict[str, Any] | None, list[str]]:
    """Writes the table of a run, its sum, and what it has learned.

    Args:
      experiment: whose run it is.
      config: of the run.
      runner: where it is.
      steps_per_second: of all lifetimes.

    Returns:
      The sum, None before the first step; what cannot be written, and why.
    """
    from bmg.experiments.records import RESULTS, write_csv
    from bmg.storage.files import reason, write_json

    if not runner.records.steps:
        return None, []
    steps, columns = runner.records.means(config.steps)
    result = {
        "seeds": config.seeds,
        "steps": min(runner.records.steps, config.steps),
        "counted": config.counted,
        "complete": runner.records.steps >= config.steps,
        "not_finite_seeds": not_finite_seeds(config, runner),
        "devices": [device.device_kind for device in runner.devices],
        "steps_per_second": steps_per_second,
        **experiment.functions.summarise(config, steps, columns),
        "versions": provenance.versions(),
        "command": provenance.command(),
    }
    try:
        write_csv(config.path / RESULTS, config.first_seed, steps, columns)
        write_json(config.path / "results.json", result)
        if leave := getattr(experiment.functions, "leave", None):
            leave(config, [runner.lifetime(index) for index in range(config.seeds)])
    except OSError as error:
        return result, [f"{error.filename or 'the results'} ({reason(error)})"]
    return result, []


def run_each(experiment: Experiment, configs: dict[str, Any], root: pathlib.Path) -> int:
    """Runs what is missing of several methods, one after the other, each in its own directory.

    Args:
      experiment: whose they are.
      configs: directory's name -> configuration; `workdir` and `resume` are set here.
      root: folder of the run directories.

    Returns:
      The exit code.
    """
    environment.clean()  # once: a run sets variables of its own
    for name, config in configs.items():
        workdir = root / name
        resume = config_file(workdir).exists()
        own = dataclasses.replace(config, workdir=str(workdir), resume=resume)
        code = _run_alone(experiment, own)
        if code == signals.EXIT_CODE:
            print(f"the command that was stopped goes on with all of {root}")
        if code:
            return code
    return 0
