"""A run from its start to its end: it is started, watched, stopped, and its end is reported."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable

from bmg.launch import environment, signals
from bmg.launch.config import TrainConfig
from bmg.launch.options import BAD_INPUT
from bmg.launch.preflight import Plan
from bmg.launch.runtimes.choice import choose_runtime
from bmg.launch.runtimes.in_graph import directories
from bmg.launch.runtimes.status import LEARNER, Notes, Status, log_file, what_is_awaited
from bmg.learner.config import HostsConfig
from bmg.storage.run_directory import config_file, to_dict

_LOG_LINES = 20  # of a failed node's log, shown


def supervise(
    config: TrainConfig, plan: Plan, resume: bool, open_network: str, whole: str = ""
) -> int:
    """Starts the program and stays until it ended.

    Args:
      config: the run.
      plan: what `check` found.
      resume: whether there is a checkpoint to go on from.
      open_network: why others can reach its servers, see `isolate`.
      whole: the command that the run is a part of, and that goes on with it; empty for `bmg train`.

    Returns:
      The exit code.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from bmg.launch.console import RunConsole
    from bmg.storage.files import write_json

    workdir = config.path
    write_json(config_file(workdir), to_dict(dataclasses.replace(config, resume=False)))
    console = RunConsole(directories(config)[0], config.frames, config.seeds)
    console.print(
        f"{config.agent.algorithm} on {config.game}, preset {config.preset}, in {workdir} "
        f"(tensorboard --logdir {workdir.parent})"
    )
    if config.hosts.cluster != "none":
        console.print(_place(config.hosts))
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
        how = whole or "--resume"
        os.write(2, f"bmg: ends at once; go on from the newest checkpoint with {how}\n".encode())
        if program is not None:
            program.kill()

    program = None
    with signals.orderly(at_once=at_once) as asked:
        program = _start(runtime, config, plan, resume, console.print)
        notes = Notes()

        def print_notes() -> dict[str, Status]:
            statuses = program.board.statuses()
            for line in notes.new(statuses):
                console.print(line)
            return statuses

        state = "failed"
        try:
            while (state := program.poll()) == "running" and not asked.is_set():
                statuses = print_notes()
                console.refresh(what_is_awaited(program.board.nodes, statuses, config.hosts.count))
                # JAX takes the signals for itself when hosts join.
                signals.take()
                time.sleep(0.2)
            if asked.is_set() and state != "finished":  # nodes may die of the same Ctrl-C
                state = "interrupted"
        finally:
            print_notes()
            all_left = program.stop()
            console.close(last_line=state != "finished")
        code = report_end(config, state, program.failed, program.board.statuses(), whole)
        if not all_left:  # a thread in a compilation: the interpreter would wait for it, or crash
            signals.leave(code)
    return code


def _place(hosts: HostsConfig) -> str:
    """What was found out about this host."""
    if hosts.count == 1:
        return f"one host (--hosts.cluster {hosts.cluster})"
    return (
        f"host {hosts.index} of {hosts.count}, host 0 at {hosts.coordinator} "
        f"(--hosts.cluster {hosts.cluster})"
    )


def _start(
    runtime: str, config: TrainConfig, plan: Plan, resume: bool, notify: Callable[[str], None]
):
    """A running program: `poll` says how it is, `board` what its nodes say, `failed` which of them
    failed; `stop` and `kill` end it."""
    if runtime == "launchpad":
        from bmg.launch.runtimes.processes.watch import Processes

        return Processes(config, plan.spec, resume, plan.central_inference, notify)
    if runtime == "in-graph":
        from bmg.launch.runtimes.in_graph import InGraph

        return InGraph(config, plan.spec, resume)
    from bmg.launch.runtimes.threads import Threads

    return Threads(config, plan.spec, resume, notify)


def report_end(
    config: TrainConfig,
    state: str,
    failed: list[str],
    statuses: dict[str, Status],
    whole: str = "",
) -> int:
    """Says how the run ended, and how to go on, see `supervise`; the exit code."""
    workdir = config.path
    results = statuses.get(LEARNER, {}).get("results")
    if state == "finished":
        if results and not whole:
            from bmg.launch.console import closing_lines

            print(closing_lines(results, directories(config)))
        return 0
    if state == "interrupted":
        from bmg.storage.checkpoint import list_checkpoints

        if whole:
            print(f"stopped in {workdir}; go on with: {whole}")
        elif config.hosts.count > 1:
            print(f"stopped; go on with --resume, on all hosts: {workdir}")
        elif not list_checkpoints(directories(config)[0] / "checkpoints"):
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
    return BAD_INPUT if any(statuses.get(name, {}).get("mistake") for name in failed) else 1


def _print_causes(failed: list[str], statuses: dict[str, Status]) -> None:
    """Launchpad may have the log's last word; the cause stands at the end."""
    for name in dict.fromkeys([*failed, LEARNER]):
        status = statuses.get(name, {})
        if status.get("state") in ("failed", "stalled") and status["message"]:
            print(f"bmg: {name} failed: {status['message']}", file=sys.stderr)
