"""`bmg train`: checks everything, launches the program, watches it, ends it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from launch.config import TrainConfig, check_workdir, config_file, load_config, to_dict
from launch.options import check_name, parse_options
from launch.presets import PRESETS

_LOG_LINES = 20  # of a failed node's log, shown


def main(arguments: list[str]) -> int:
    """Runs `bmg train`.

    Returns:
      The exit code: 0 complete, 1 a node failed, 130 stopped by Ctrl-C.

    Raises:
      ValueError: bad input, one line.
    """
    config = parse(arguments)
    spec = check(config)
    resume = prepare_workdir(config)
    return launch(config, spec, resume)


def parse(arguments: list[str]) -> TrainConfig:
    """The command line on top of its preset, or of the run that is resumed."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="local")
    first.add_argument("--game", default="pong")
    first.add_argument("--workdir", default="")
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(arguments)
    check_name("preset", known.preset, PRESETS)
    from environments.scores import validate_game

    default = PRESETS[known.preset](validate_game(known.game))
    workdir = pathlib.Path(known.workdir or f"runs/{known.game}")
    if known.resume and config_file(workdir).exists():
        # The directory may have been moved: the one that was named is meant.
        default = dataclasses.replace(load_config(workdir), workdir=known.workdir)
    return parse_options(TrainConfig, "bmg train", arguments, default)


def prepare_workdir(config: TrainConfig) -> bool:
    """Creates the run directory, or accepts the one to resume.

    Returns:
      Whether there is a checkpoint to go on from.

    Raises:
      ValueError: another run is there, or none to resume; one line.
    """
    check_workdir(config)
    workdir = config.path
    for folder in ("checkpoints", "logs", "nodes", "tensorboard"):
        (workdir / folder).mkdir(parents=True, exist_ok=True)
    for old in (workdir / "nodes").glob("*.json"):
        old.unlink()
    return config.resume and any((workdir / "checkpoints").glob("checkpoint_*.npz"))


def check(config: TrainConfig):
    """Refuses what could only fail later, before any process starts.

    Returns:
      The environment's shapes.

    Raises:
      ValueError: one line.
    """
    from environments.factory import make_spec

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
    from learner.update import check_batch

    check_batch(config.learner, config.agent, count_devices(config))
    return spec


def count_devices(config: TrainConfig) -> int:
    """Devices that the learner will have, as far as the command line says.

    They are looked at in a process of its own: whoever opens an accelerator keeps it.

    Raises:
      ValueError: a platform or a number of devices that is not there; one line.
    """
    learner = config.learner
    if not learner.platform and learner.num_devices <= 1:
        return max(learner.num_devices, 1)
    code = (
        "import sys; from learner.config import LearnerConfig\n"
        "from learner.update import select_devices\n"
        f"config = LearnerConfig(platform={learner.platform!r}, "
        f"num_devices={learner.num_devices})\n"
        "try: print(len(select_devices(config)))\n"
        "except ValueError as error: sys.exit('error: ' + str(error))"
    )
    looked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if looked.returncode:
        lines = looked.stderr.strip().splitlines() or ["the devices could not be looked at."]
        raise ValueError(lines[-1].removeprefix("error: "))
    return int(looked.stdout.split()[-1])


def launch(config: TrainConfig, spec, resume: bool) -> int:
    """Launches the program and stays until it ended."""
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
    program = Launched(config, spec, resume)
    try:
        while (state := program.poll()) == "running":
            console.refresh()
            time.sleep(0.2)
    finally:
        program.stop()
        console.close()
    return report_end(config, state, program)


class Launched:
    """A running program, watched by its nodes' state files."""

    def __init__(self, config: TrainConfig, spec, resume: bool):
        """Starts all processes (or threads)."""
        import absl.flags
        import launchpad as lp
        import psutil

        from launch.nodes import log_file
        from launch.program import LEAVE_SECONDS, local_resources, make_program, node_names

        self._config = config
        self._leave_seconds = LEAVE_SECONDS + 5
        self._names = node_names(config)
        if not absl.flags.FLAGS.is_parsed():
            absl.flags.FLAGS(["bmg"])
        self._interrupted = threading.Event()
        before = set(psutil.Process().children())
        with _output_to(log_file(config.path, "launch"), config.launch == "local_mp"):
            self._manager = lp.launch(
                make_program(config, spec, resume),
                launch_type=config.launch,
                local_resources=local_resources(config),
                terminal="current_terminal",
            )
        self._wrappers = set(psutil.Process().children()) - before
        # Launchpad's own handlers would count down, and kill this process with the nodes.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._interrupted.set())

    def statuses(self) -> dict[str, dict]:
        """What each node last said of itself."""
        from launch.nodes import status_file

        statuses = {}
        for name in self._names:
            with contextlib.suppress(FileNotFoundError):
                statuses[name] = json.loads(status_file(self._config.path, name).read_text())
        return statuses

    def poll(self) -> str:
        """running, finished, failed or interrupted."""
        statuses = self.statuses()
        self.failed: list[str] = []
        if statuses.get("learner", {}).get("state") == "finished":
            return "finished"
        if self._interrupted.is_set():
            return "interrupted"
        self.failed = [n for n, status in statuses.items() if status["state"] == "failed"]
        if self.failed:
            return "failed"
        if self._config.launch == "local_mp":
            dead = [
                name
                for name, status in statuses.items()
                if status["state"] == "running" and not _alive(status["pid"])
            ]
            if dead or any(not _alive(wrapper.pid) for wrapper in self._wrappers):
                self.failed = dead
                return "failed"
        return "running"

    def stop(self) -> None:
        """Asks every node to leave, waits, and kills what is left."""
        if self._config.launch == "local_mp":
            _end_processes(
                [status["pid"] for status in self.statuses().values()],
                [wrapper.pid for wrapper in self._wrappers],
                self._leave_seconds,
            )
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                self._manager.stop_and_wait()


@contextlib.contextmanager
def _output_to(path: pathlib.Path, redirect: bool):
    """Sends this process's output, and that of the processes it starts, to a file meanwhile."""
    if not redirect:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in (file, *saved):
            os.close(descriptor)


def _end_processes(nodes: list[int], wrappers: list[int], leave_seconds: float) -> None:
    """Terminates the nodes; waits for them and their wrappers, and kills what is left."""
    import psutil

    processes = []
    for pid in {*nodes, *wrappers}:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            # A wrapper ignores the signal; its node may not have said yet that it is there.
            for one in [process, *process.children()]:
                one.terminate()
    _, left = psutil.wait_procs(processes, timeout=leave_seconds)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in process.children(recursive=True):
                child.kill()
            process.kill()
    psutil.wait_procs(left, timeout=5)


def _alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def report_end(config: TrainConfig, state: str, program: Launched) -> int:
    """Says how the run ended; the exit code."""
    from launch.nodes import log_file, status_file

    workdir = config.path
    if state == "finished":
        print((workdir / "results.json").read_text(), end="")
        return 0
    if state == "interrupted":
        print(f"stopped; go on with: bmg train --workdir {workdir} --resume")
        return 130
    for name in program.failed or ["launch"]:  # what nodes say before they have a log
        print(f"bmg: {name} failed; the end of its log:", file=sys.stderr)
        path = log_file(workdir, name)
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            print("\n".join(f"  {line}" for line in lines), file=sys.stderr)
        # Launchpad may have the log's last word; the cause stands at the end.
        with contextlib.suppress(OSError, ValueError):
            if message := json.loads(status_file(workdir, name).read_text())["message"]:
                print(f"bmg: {name} failed: {message}", file=sys.stderr)
    return 1
