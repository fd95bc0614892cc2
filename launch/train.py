"""`bmg train`: checks everything, launches the program, watches it, ends it, starts it again."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from bmg.launch import environment, mirror, signals
from bmg.launch.config import FIXED, TrainConfig, kept_rule, with_kept_rule
from bmg.launch.hosts.cluster import Found, find_host
from bmg.launch.options import BAD_INPUT, check_name, parse_options, peek
from bmg.launch.preflight import check
from bmg.launch.presets import PRESETS
from bmg.launch.runtimes.choice import choose_runtime
from bmg.launch.runtimes.in_graph import directories, folders, of_seeds
from bmg.launch.runtimes.status import clear_statuses
from bmg.launch.supervise import supervise
from bmg.storage.fields import number
from bmg.storage.run_directory import check_workdir, config_file, host_folder, load_config

_RESTART_DELAY = 5.0  # seconds between a failure and the next try


def main(arguments: list[str]) -> int:
    """Runs `bmg train`.

    Returns:
      The exit code: 0 complete, 1 a node failed, 2 of what the user has to mend, 130 stopped by
      Ctrl-C.

    Raises:
      ValueError: bad input, one line.
    """
    config = parse(arguments)
    environment.clean()
    open_network = isolate(config)
    code = run(config, open_network)
    if code == 1 and config.restarts:
        return go_on(config, open_network)
    if code == BAD_INPUT and config.restarts:
        print(
            "bmg: not started again, it would fail in the same way; mend that, then give --resume",
            file=sys.stderr,
        )
    return code


def run(config: TrainConfig, open_network: str = "", whole: str = "") -> int:
    """Runs it from its start or its newest checkpoint to its end.

    Args:
      config: the run.
      open_network: see `isolate`.
      whole: the command that it is a part of, see `supervise`.

    Returns:
      The exit code.

    Raises:
      ValueError: it cannot be; one line.
    """
    from bmg.storage.files import owned

    if config.wandb:
        mirror.check_installed()
    plan = check(config)
    check_root(config)  # before anything is written
    with contextlib.ExitStack() as kept:
        for folder in folders(config):
            kept.enter_context(owned(folder))
        resume = prepare_workdir(config)
        project = "" if config.hosts.index else config.wandb
        with mirror.beside(project, config.path):
            return supervise(config, plan, resume, open_network, whole)


def isolate(config: TrainConfig) -> str:
    """Goes on in a network of the run's own, where one is wanted and to be had.

    Returns:
      Why its servers can be reached from other machines, or nothing where they cannot.

    Raises:
      ValueError: what is asked for needs another network, or a port that is taken; one line.
    """
    if choose_runtime(config.runtime)[0] != "launchpad":
        return ""
    if config.gate_port:
        from bmg.launch.remote.gate import listen

        # While this is the machine's network.
        listen(config.gate_port)
    if config.network == "host":
        return "--network host"
    from bmg.launch import isolation

    if config.wandb and not isolation.inside() and os.environ.get("WANDB_MODE") != "offline":
        raise ValueError(
            "--wandb reaches nobody from the run's own network; give --network host, or leave it "
            f"out and run beside it: bmg wandb {config.path} --project {config.wandb} --follow"
        )
    if config.hosts.count > 1 and not isolation.inside():
        return "several hosts"
    return isolation.enter([sys.executable, *sys.orig_argv[1:]])


def go_on(config: TrainConfig, open_network: str) -> int:
    """Executes this program again in its own place: the run goes on from its newest checkpoint.

    Args:
      config: the run.
      open_network: see `isolate`.

    Returns:
      Nothing: it does not.
    """
    from bmg.launch import isolation

    left = config.restarts - 1
    print(
        f"bmg: goes on from the newest checkpoint in {_RESTART_DELAY:g} s ({left} restarts left)",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    time.sleep(_RESTART_DELAY)
    # Everything else stands in the run's configuration.
    options = ["--workdir", str(config.root), "--resume"]
    options += ["--restarts", str(left)]
    # Where a batch system has started this, what it says would count more than that configuration.
    options += [f"--hosts.{name}={getattr(config.hosts, name)}" for name in Found._fields]
    command = [*own_command(), "train", *options]
    signals.block()
    os.execve(sys.executable, command, isolation.hand_on(open_network))


def own_command() -> list[str]:
    """How this program was started, without its arguments."""
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]


def parse(arguments: list[str]) -> TrainConfig:
    """The command line on top of its preset, or of the run that is resumed."""
    host_options = [f"hosts.{name}" for name in ("cluster", "count", "index", "coordinator")]
    known = peek(arguments, ("preset", "game", "workdir", *host_options), ("resume",))
    preset = known.get("preset", "local")
    check_name("preset", preset, PRESETS)
    default = PRESETS[preset](known.get("game", "pong"))
    workdir = known.get("workdir", "")
    root = pathlib.Path(workdir) if workdir else default.root
    host = _detect_host(known, known.get("hosts.cluster", "none"))
    index = host.get("index", number(known.get("hosts.index", "0")))
    index = index if isinstance(index, int) else 0  # whatever is wrong with it is said below
    # All hosts but the first have a part of it, which may be all that there is on their disks.
    for folder in (host_folder(root, index), root):
        if known.get("resume") and config_file(folder).exists():
            # The directory may have been moved: the one that was named is meant.
            default = dataclasses.replace(load_config(folder, TrainConfig), workdir=workdir)
            break
    if "hosts.cluster" not in known:  # as it was when the run began
        host = _detect_host(known, default.hosts.cluster)
    index = host.get("index", index)
    if index:  # the first host evaluates
        evaluator = dataclasses.replace(default.evaluator, num_evaluators=0)
        default = dataclasses.replace(default, evaluator=evaluator)
    from bmg.agents.rule_file import rule_path
    from bmg.storage.files import same_bytes

    # In front, where an option of the user's without its value stays one.
    found = [f"--hosts.{name}={value}" for name, value in host.items()]
    config = parse_options(TrainConfig, "bmg train", [*found, *arguments], default)
    if not config.resume:
        return config
    given = peek(arguments, ("agent.lpg.rule",)).get("agent.lpg.rule")
    kept = with_kept_rule(config)
    if given and kept != config and not same_bytes(rule_path(given), kept_rule(config)):
        raise ValueError(
            f"{config.path} holds a run whose agent follows another rule than {given}; leave "
            "--agent.lpg.rule out to resume it, or give another --workdir."
        )
    return kept


def _detect_host(known: Mapping[str, Any], cluster: str) -> dict[str, Any]:
    """Fields of `HostsConfig`, see `find_host`; nothing where the parser will refuse an option."""
    given = {
        name: value if name == "coordinator" else number(value)
        for name in ("count", "index", "coordinator")
        if (value := known.get(f"hosts.{name}")) is not None
    }
    if any(not isinstance(given.get(name, 0), int) for name in ("count", "index")):
        return {}
    return find_host(cluster, given, os.environ)


def check_root(config: TrainConfig) -> None:
    """Refuses what `check_workdir` does; on the first host, whose run directory decides, and for
    each seed that has a directory of its own.

    Raises:
      ValueError: one line.
    """
    if config.hosts.index:
        return
    check_workdir(config, FIXED)
    for own in of_seeds(config) if config.seeds > 1 else ():
        there = config_file(own.path).exists()
        check_workdir(dataclasses.replace(own, resume=config.resume and there), FIXED)


def prepare_workdir(config: TrainConfig) -> bool:
    """Creates the run directory, or accepts the one to resume.

    Returns:
      Whether there is a checkpoint to go on from.

    Raises:
      ValueError: another run is there, or none to resume; one line.
    """
    from bmg.agents.rule_file import copy_rule, rule_path
    from bmg.storage.checkpoint import list_checkpoints
    from bmg.storage.files import remove_leftovers

    check_root(config)
    workdir = config.path
    if config.agent.algorithm == "lpg" and not config.resume:
        for folder in folders(config):
            folder.mkdir(parents=True, exist_ok=True)
            copy_rule(rule_path(config.agent.lpg.rule), folder / kept_rule(config).name)
    parts = [workdir / name for name in ("checkpoints", "logs", "nodes", "tensorboard")]
    for part in parts:
        part.mkdir(parents=True, exist_ok=True)
    clear_statuses(workdir)
    remove_leftovers(workdir, *parts)
    there = all(list_checkpoints(folder / "checkpoints") for folder in directories(config))
    if config.resume and not there and not config.hosts.index:
        none = "no checkpoint" if config.seeds == 1 else "not a checkpoint of every seed"
        print(f"{none} in {workdir}: the run begins at frame 0 again")
    return config.resume and there
