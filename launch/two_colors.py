"""`bmg two-colors`: one method for a range of seeds; the whole experiment; its figures."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fnmatch
import pathlib
import signal
import time

from experiments.two_colors.config import TwoColorsConfig
from launch.config import check_workdir, config_file, load_config, to_dict
from launch.options import parse_options

RESULTS = "results.csv"
_MAY_CHANGE = {"steps", "checkpoint_interval", "workdir", "resume"}  # of a resumed run
_USAGE = """
bmg two-colors all       run every method of the paper's figures
bmg two-colors figures   redraw the paper's figures from such runs
"""


@dataclasses.dataclass(frozen=True)
class AllConfig:
    """Run every method of the paper's figures, one after the other; go on where it was stopped."""

    seeds: int = 8
    """Lifetimes of each method."""
    steps: int = 1_000_000
    """Environment steps of each lifetime of the actor-critic; the paper has 10 million."""
    q_lambda_steps: int = 500_000
    """The same for Q(lambda), which learns at every step and is slower."""
    meta_learning_rates: tuple[float, ...] = (1e-4,)
    """Every meta-learned method runs once with each; the figures show the best. The paper's
    candidates are 3e-6, 1e-5, 3e-5, 1e-4 and 3e-4."""
    root: str = "runs/two_colors"
    """Folder of the run directories."""
    only: tuple[str, ...] = ("*",)
    """Only the methods of these names, or of patterns such as 'mg-*'."""


@dataclasses.dataclass(frozen=True)
class FiguresConfig:
    """Redraw BMG's figures 2, 3 and 7 to 11 from the runs in a folder, and print their scores."""

    root: str = "runs/two_colors"
    """Folder of the run directories, as `bmg two-colors all` leaves it."""
    output: str = "docs/two_colors"
    """Folder for the pictures."""


def main(arguments: list[str]) -> int:
    """Runs `bmg two-colors`.

    Returns:
      The exit code: 0 complete, 130 stopped by Ctrl-C.

    Raises:
      ValueError: bad input, one line.
    """
    if arguments[:1] == ["all"]:
        return run_all(parse_options(AllConfig, "bmg two-colors all", arguments[1:]))
    if arguments[:1] == ["figures"]:
        return draw(parse_options(FiguresConfig, "bmg two-colors figures", arguments[1:]))
    if arguments[:1] in (["-h"], ["--help"]):
        print(_USAGE)
    return run(parse(arguments))


def parse(arguments: list[str]) -> TwoColorsConfig:
    """The command line, on top of the run that is resumed."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--workdir", default=TwoColorsConfig.workdir)
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(arguments)
    default = None
    if known.resume and config_file(pathlib.Path(known.workdir)).exists():
        # The directory may have been moved: the one that was named is meant.
        saved = load_config(pathlib.Path(known.workdir), TwoColorsConfig)
        default = dataclasses.replace(saved, workdir=known.workdir)
    return parse_options(TwoColorsConfig, "bmg two-colors", arguments, default)


def run(config: TwoColorsConfig) -> int:
    """Runs one method from its start or its checkpoint to its end."""
    fixed = [f.name for f in dataclasses.fields(config) if f.name not in _MAY_CHANGE]
    check_workdir(config, fixed)

    from experiments.runner import Runner, use_all_cores
    from experiments.two_colors.methods import make_lifetime
    from launch.console import StepsConsole
    from storage.files import write_json

    use_all_cores(config.seeds)
    workdir = config.path
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(config_file(workdir), to_dict(dataclasses.replace(config, resume=False)))
    runner = Runner(
        make_lifetime(config), config.seeds, config.first_seed, config.record_every,
        workdir / "checkpoints",
    )  # fmt: skip
    if config.resume and any((workdir / "checkpoints").glob("checkpoint_*.npz")):
        for problem in runner.restore():
            print(problem)
    started, begin = time.monotonic(), runner.records.steps
    stopped = False
    with StepsConsole(config.steps, config.seeds, str(workdir)) as console, _terminable():
        try:
            runner.run(config.steps, console.update, config.checkpoint_interval)
        except KeyboardInterrupt:
            stopped = True
    if runner.records.steps:
        rate = (runner.records.steps - begin) / (time.monotonic() - started)
        write_results(config, runner, config.seeds * rate)
    if stopped:
        print(f"stopped; go on with: bmg two-colors --workdir {workdir} --resume")
        return 130
    print((workdir / "results.json").read_text(), end="")
    return 0


def write_results(config: TwoColorsConfig, runner, steps_per_second: float) -> None:
    """Writes the table of a run, and its sum.

    Args:
      config: of the run.
      runner: its lifetimes.
      steps_per_second: of all lifetimes in this stretch of the run, compilation included.
    """
    from experiments.records import write_csv
    from storage.files import write_json

    steps, columns = runner.records.means(config.steps)
    write_csv(config.path / RESULTS, config.first_seed, steps, columns)
    result = {
        "agent": config.agent,
        "method": config.method,
        "seeds": config.seeds,
        "steps": min(runner.records.steps, config.steps),
        "complete": runner.records.steps >= config.steps,
        "devices": [device.device_kind for device in runner.devices],
        "steps_per_second": steps_per_second,
        **score(steps, columns["reward"]),
    }
    write_json(config.path / "results.json", result)


def score(steps, reward) -> dict[str, float]:
    """Total reward of a lifetime, mean and standard deviation over seeds, and per step.

    Args:
      steps: [n], the end of each stretch.
      reward: [S, n], mean reward per step of each stretch.
    """
    import numpy as np

    total = np.sum(reward * np.diff(steps, prepend=0), axis=1)
    return {
        "total_reward_mean": float(np.mean(total)),
        "total_reward_std": float(np.std(total)),
        "reward_per_step": float(np.mean(total) / steps[-1]),
    }


@contextlib.contextmanager
def _terminable():
    """SIGTERM ends a run as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_all(options: AllConfig) -> int:
    """Runs what is missing of the paper's methods."""
    from experiments.two_colors.methods import suite

    root = pathlib.Path(options.root)
    methods, every = {}, suite()
    for pattern in options.only:
        matching = {name: every[name] for name in every if fnmatch.fnmatchcase(name, pattern)}
        if not matching:
            raise ValueError(f"no method is called {pattern!r}; there are {', '.join(every)}.")
        methods |= matching
    for name, config in methods.items():
        steps = options.steps if config.agent == "actor-critic" else options.q_lambda_steps
        rates = {f"-rate{rate:g}": rate for rate in options.meta_learning_rates}
        if config.method == "fixed":
            rates = {"": config.meta_learning_rate}
        for suffix, rate in rates.items():
            workdir = root / (name + suffix)
            code = run(
                dataclasses.replace(
                    config, seeds=options.seeds, steps=steps, meta_learning_rate=rate,
                    workdir=str(workdir), resume=config_file(workdir).exists(),
                )
            )  # fmt: skip
            if code:
                return code
    return 0


def draw(options: FiguresConfig) -> int:
    """Draws the figures that the runs in a folder suffice for."""
    from experiments.records import read_csv
    from experiments.two_colors.figures import Run, draw_all

    runs = []
    for path in sorted(pathlib.Path(options.root).glob(f"*/{RESULTS}")):
        config = load_config(path.parent, TwoColorsConfig)
        runs.append(Run(path.parent.name, config, *read_csv(path)))
    if not runs:
        raise ValueError(f"no runs in {options.root} (a folder of run directories is meant).")
    output = pathlib.Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    for run_ in runs:
        result = score(run_.steps, run_.columns["reward"])
        print(
            f"{run_.name:<28} {run_.config.seeds:>3} seeds x {run_.steps[-1]:>10,} steps  "
            f"reward per step {result['reward_per_step']:.4f}  total "
            f"{result['total_reward_mean']:>10,.0f} +- {result['total_reward_std']:,.0f}"
        )
    for picture in draw_all(runs, output):
        print(picture)
    return 0
