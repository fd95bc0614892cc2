"""`bmg train`: checks everything, launches the program, watches it, ends it, starts it again."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from launch import environment, signals
from launch.config import (
    TrainConfig,
    check_workdir,
    config_file,
    host_folder,
    load_config,
    to_dict,
)
from launch.options import check_name, parse_options, peek
from launch.presets import PRESETS
from launch.runtime import check_runtime, choose_runtime
from launch.status import LEARNER, Notes, Status, clear_statuses, log_file
from storage.fields import number

_LOG_LINES = 20  # of a failed node's log, shown
_RESTART_DELAY = 5.0  # seconds between a failure and the next try


def main(arguments: list[str]) -> int:
    """Runs `bmg train`.

    Returns:
      The exit code: 0 complete, 1 a node failed, 130 stopped by Ctrl-C.

    Raises:
      ValueError: bad input, one line.
    """
    from storage.files import owned

    config = parse(arguments)
    environment.clean()
    open_network = isolate(config)
    plan = check(config)
    check_root(config)  # before anything is written
    with owned(config.path):
        resume = prepare_workdir(config)
        code = launch(config, plan, resume, open_network)
    if code == 1 and config.restarts:
        return go_on(config, open_network)
    return code


def isolate(config: TrainConfig) -> str:
    """Goes on in a network of the run's own, where one is wanted and to be had.

    Returns:
      Why its servers can be reached from other machines, or nothing where they cannot.
    """
    if choose_runtime(config.runtime)[0] != "launchpad":
        return ""
    if config.network == "host":
        return "--network host"
    from launch import isolation

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
    from launch import isolation

    left = config.restarts - 1
    print(
        f"bmg: goes on from the newest checkpoint in {_RESTART_DELAY:g} s ({left} restarts left)",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    time.sleep(_RESTART_DELAY)
    # Everything else stands in the run's configuration.
    options = ["--workdir", str(config.root), "--resume"]
    options += ["--restarts", str(left), "--hosts.index", str(config.hosts.index)]
    command = [*own_command(), "train", *options]
    signals.block()
    os.execve(sys.executable, command, isolation.hand_on(open_network))


def own_command() -> list[str]:
    """How this program was started, without its arguments."""
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]


def parse(arguments: list[str]) -> TrainConfig:
    """The command line on top of its preset, or of the run that is resumed."""
    known = peek(arguments, ("preset", "game", "workdir", "hosts.index"), ("resume",))
    preset = known.get("preset", "local")
    check_name("preset", preset, PRESETS)
    default = PRESETS[preset](known.get("game", "pong"))
    workdir = known.get("workdir", "")
    root = pathlib.Path(workdir) if workdir else default.root
    index = number(known.get("hosts.index", "0"))
    index = index if isinstance(index, int) else 0  # whatever is wrong with it is said below
    # All hosts but the first have a part of it, which may be all that there is on their disks.
    for folder in (host_folder(root, index), root):
        if known.get("resume") and config_file(folder).exists():
            # The directory may have been moved: the one that was named is meant.
            default = dataclasses.replace(load_config(folder), workdir=workdir)
            break
    if index:  # the first host evaluates
        evaluator = dataclasses.replace(default.evaluator, num_evaluators=0)
        default = dataclasses.replace(default, evaluator=evaluator)
    return parse_options(TrainConfig, "bmg train", arguments, default)


def check_root(config: TrainConfig) -> None:
    """Refuses what `check_workdir` does; on the first host, whose run directory decides.

    Raises:
      ValueError: one line.
    """
    if not config.hosts.index:
        check_workdir(config)


def prepare_workdir(config: TrainConfig) -> bool:
    """Creates the run directory, or accepts the one to resume.

    Returns:
      Whether there is a checkpoint to go on from.

    Raises:
      ValueError: another run is there, or none to resume; one line.
    """
    from storage.checkpoint import list_checkpoints
    from storage.files import remove_leftovers

    check_root(config)
    workdir = config.path
    folders = [workdir / name for name in ("checkpoints", "logs", "nodes", "tensorboard")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    clear_statuses(workdir)
    remove_leftovers(workdir, *folders)
    there = bool(list_checkpoints(workdir / "checkpoints"))
    if config.resume and not there and not config.hosts.index:
        print(f"no checkpoint in {workdir}: the run begins at frame 0 again")
    return config.resume and there


class Plan(NamedTuple):
    """What was found out about a run before it starts."""

    spec: Any  # the environment's shapes
    serves: bool  # whether the learner's process chooses the actors' actions


def check(config: TrainConfig) -> Plan:
    """Refuses what could only fail later, before any process starts.

    Raises:
      ValueError: one line.
    """
    from environments.factory import make_spec

    check_runtime(config.runtime)
    spec = make_spec(config.game, config.atari)
    height, width, _ = spec.frame_shape
    torso = config.agent.network.torso
    if torso in ("dqn", "shallow") and min(height, width) < 36:
        raise ValueError(
            f"torso {torso!r} needs frames of at least 36x36 pixels, {config.game} gives "
            f"{height}x{width}; give --agent.network.torso mlp."
        )
    if config.learner.replay_batch and not config.replay.replay_capacity:
        raise ValueError("replay_batch needs replay; give --replay.replay-capacity.")
    from learner.hosts import check_port
    from learner.placement import split
    from learner.update import check_batch

    threads = choose_runtime(config.runtime)[0] == "local-threads"
    check_port(config.hosts)
    choice = config.actors.inference
    if _slice_of_several_hosts(config):  # whose devices come up together, in the learners alone
        serves = threads or choice != "actor"
    else:
        platform, there = look_at_devices(config.learner.platform)
        serves = threads or choice == "server" or (choice == "auto" and platform != "cpu")
        learning = split(config.devices, there, platform, serves).learner
        check_batch(config.learner, config.agent, learning * config.hosts.count)
    if threads:
        from actors.rollout import trajectory_signature
        from replay.memory import check_memory

        check_memory(trajectory_signature(spec, config.learner.unroll_length), config.replay)
    return Plan(spec, serves)


def _slice_of_several_hosts(config: TrainConfig) -> bool:
    """Whether this is one host of a TPU slice."""
    here = importlib.util.find_spec("libtpu") is not None
    return here and config.hosts.count > 1 and config.learner.platform in ("", "tpu")


def look_at_devices(platform: str) -> tuple[str, int]:
    """What devices the learner's process will find: their platform, and how many.

    They are looked at in a process of its own, as whoever opens an accelerator keeps it; and not at
    all where there can be nothing but the one CPU.

    Raises:
      ValueError: a platform that is not there; one line.
    """
    several = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    accelerators = importlib.metadata.entry_points(group="jax_plugins") or (
        importlib.util.find_spec("libtpu")
    )
    if not several and (platform == "cpu" or not platform and not accelerators):
        return "cpu", 1
    code = (
        "import sys; from learner.placement import local_devices\n"
        f"try: devices = local_devices({platform!r})\n"
        "except ValueError as error: sys.exit('error: ' + str(error))\n"
        "print(devices[0].platform, len(devices))"
    )
    looked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if looked.returncode:
        lines = looked.stderr.strip().splitlines() or ["the devices could not be looked at."]
        raise ValueError(lines[-1].removeprefix("error: "))
    found, number = looked.stdout.split()[-2:]
    return found, int(number)


def launch(config: TrainConfig, plan: Plan, resume: bool, open_network: str) -> int:
    """Starts the program and stays until it ended.

    Args:
      config: the run.
      plan: what `check` found.
      resume: whether there is a checkpoint to go on from.
      open_network: why others can reach its servers, see `isolate`.

    Returns:
      The exit code.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from launch.console import RunConsole
    from storage.files import write_json

    workdir = config.path
    write_json(config_file(workdir), to_dict(dataclasses.replace(config, resume=False)))
    console = RunConsole(workdir, config.frames)
    console.print(
        f"{config.agent.algorithm} on {config.game}, preset {config.preset}, in {workdir} "
        f"(tensorboard --logdir {workdir.parent})"
    )
    runtime, why = choose_runtime(config.runtime)
    if why:
        console.print(why)
    if open_network:
        console.print(
            f"this run's ports can be reached from other machines ({open_network}): whoever does "
            "can run code here; close them, see README, Limits"
        )
    if found := environment.report():
        console.print(found)

    def at_once() -> None:  # files are whole, and nobody is waited for
        console.restore()
        os.write(2, b"bmg: ends at once; go on from the newest checkpoint with --resume\n")
        if program is not None:
            program.kill()

    program = None
    with signals.orderly(at_once=at_once) as asked:
        program = _start(runtime, config, plan, resume, console.print)
        notes = Notes()

        def print_notes() -> None:
            for line in notes.new(program.board.statuses()):
                console.print(line)

        try:
            while (state := program.poll()) == "running" and not asked.is_set():
                print_notes()
                console.refresh()
                # Launchpad takes the signals for itself when it starts, JAX when hosts join.
                signals.take()
                time.sleep(0.2)
            if asked.is_set() and state != "finished":  # nodes may die of the same Ctrl-C
                state = "interrupted"
        finally:
            print_notes()
            all_left = program.stop()
            console.close()
        code = report_end(config, state, program.failed, program.board.statuses())
        if not all_left:  # a thread in a compilation: the interpreter would wait for it, or crash
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _start(runtime: str, config: TrainConfig, plan: Plan, resume: bool, say: Callable[[str], None]):
    """A running program: `poll` says how it is, `board` what its nodes say, `failed` which of them
    failed; `stop` and `kill` end it."""
    if runtime == "launchpad":
        from launch.processes import Processes

        return Processes(config, plan.spec, resume, plan.serves, say)
    from launch.threads import Threads

    return Threads(config, plan.spec, resume, say)


def report_end(
    config: TrainConfig, state: str, failed: list[str], statuses: dict[str, Status]
) -> int:
    """Says how the run ended; the exit code."""
    workdir = config.path
    results = statuses.get(LEARNER, {}).get("results")
    if state == "finished":
        if results:
            print(json.dumps(results, indent=2))
        return 0
    if state == "interrupted":
        from storage.checkpoint import list_checkpoints

        if config.hosts.count > 1:
            print(f"stopped; go on with --resume, on all hosts: {workdir}")
        elif not list_checkpoints(workdir / "checkpoints"):
            print(f"stopped before its first checkpoint: {workdir}")
        else:
            print(f"stopped; go on with: bmg train --workdir {workdir} --resume")
        _print_causes(failed, statuses)
        return 130
    if results and results["complete"]:
        print(json.dumps(results, indent=2))  # what may stand nowhere else
    for name in failed or ["launch"]:  # what nodes say before they have a log
        print(f"bmg: {name} failed; the end of its log:", file=sys.stderr)
        try:
            lines = log_file(workdir, name).read_text(errors="replace").splitlines()
            for line in lines[-_LOG_LINES:]:
                print(f"  {line}", file=sys.stderr)
        except OSError as error:
            print(f"  (it cannot be read: {error.strerror})", file=sys.stderr)
    _print_causes(failed, statuses)
    return 1


def _print_causes(failed: list[str], statuses: dict[str, Status]) -> None:
    """Launchpad may have the log's last word; the cause stands at the end."""
    for name in dict.fromkeys([*failed, LEARNER]):
        status = statuses.get(name, {})
        if status.get("state") in ("failed", "stalled") and status["message"]:
            print(f"bmg: {name} failed: {status['message']}", file=sys.stderr)
