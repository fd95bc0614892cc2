"""`bmg pod create|run|status|logs|stop|resume`: a run on a Cloud TPU slice, through `gcloud`.

here ── code ──► each worker: ~/bmg/code, `make setup`, `bmg train --hosts.cluster tpu`
     ◄── console of worker 0, then its run directory ──
"""

from __future__ import annotations

import pathlib
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

from bmg.launch import signals
from bmg.launch.hosts import tpu_scripts as scripts
from bmg.launch.hosts.tpu_options import (
    Create,
    Logs,
    Results,
    Resume,
    Run,
    Slice,
    Status,
    Stop,
    Workers,
)
from bmg.launch.options import parse_options

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Failed(Exception):
    """A step that could not be done; one line."""


class Step(NamedTuple):
    """A command that is executed here."""

    what: str  # is done, as it is shown, and after "could not"
    command: list[str]
    remedy: str  # where it fails
    feed: list[str] | None = None  # the command whose output it reads


def gcloud(config: Slice, verb: str, *arguments: str) -> list[str]:
    """A command on the slice."""
    command = ["gcloud", "compute", "tpus", "tpu-vm", verb, *arguments]
    command += [f"--zone={config.zone}"] if config.zone else []
    command += [f"--project={config.project}"] if config.project else []
    return [*command, "--quiet"]


def ssh(config: Slice, worker: int | str, script: str) -> list[str]:
    """A shell command on one worker, or on "all" of them at once."""
    return gcloud(config, "ssh", config.name, f"--worker={worker}", f"--command={script}")


def pack_step(root: pathlib.Path, archive: str) -> Step:
    """Makes the archive of the project's code: what git tracks, or all but what was made here."""
    what, remedy = "pack the code", "restore the project's files"
    tar = ["tar", "-C", str(root)]
    if (root / ".git").exists():
        files = ["git", "-C", str(root), "ls-files", "-z"]
        return Step(what, [*tar, "-czf", archive, "--null", "-T", "-"], remedy, files)
    made = (".git", ".venv*", ".tools", "runs", "__pycache__", scripts.ARCHIVE)
    return Step(what, [*tar, *(f"--exclude={x}" for x in made), "-czf", archive, "."], remedy)


def folder_step(config: Results) -> Step:
    """Makes the folder for results here."""
    return Step(f"make {config.folder}", ["mkdir", "-p", config.folder], "give another --results")


def fetch_step(config: Results, worker: int) -> Step:
    """Brings a run directory."""
    there, here = f"{config.name}:{config.workdir}/*", f"{config.folder}/"
    copy = gcloud(config, "scp", "--recurse", there, here, f"--worker={worker}")
    return Step(f"bring the results to {here}", copy, "try bmg pod logs --fetch")


def console_step(config: Workers, worker: int, lines: str) -> Step:
    """Shows a console."""
    command = ssh(config, worker, scripts.console(config.workdir, lines))
    return Step(f"show worker {worker}'s console", command, "see bmg pod status")


def stop_step(config: Workers, start: str = "") -> Step:
    """Ends the run on all workers."""
    command = ssh(config, "all", scripts.stop(config.workdir, start))
    return Step("stop the run on all workers", command, "see bmg pod status, then bmg pod stop")


def run_steps(config: Results, options: list[str], resume: bool, start: str) -> list[Step]:
    """All that makes a run; the last three start it, show it and bring its results."""
    archive = f"{config.folder}/{scripts.ARCHIVE}"
    where = f"{config.name}:{scripts.ARCHIVE}"
    set_up = ssh(config, "all", scripts.setup(config.workdir))
    begin = ssh(config, "all", scripts.start(config.workdir, options, resume, start))
    return [
        folder_step(config),
        pack_step(ROOT, archive),
        Step(
            "copy the code to all workers",
            gcloud(config, "scp", archive, where, "--worker=all"),
            "see that the slice is there (bmg pod status), and try again; nothing was started",
        ),
        Step(
            "set up all workers (minutes, the first time)",
            set_up,
            "mend that and try again; nothing was started",
        ),
        Step("start the run on all workers", begin, "mend that and try again; nothing goes on"),
        console_step(config, 0, "+1"),
        fetch_step(config, 0),
    ]


def error_line(text: str) -> str:
    """What matters of gcloud's stderr: the first worker's complaint, or gcloud's own last error."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if said := sorted(line for line in lines if re.match(r"worker \S+: ", line)):
        return said[0].rstrip(".")
    errors = [number for number, line in enumerate(lines) if line.startswith("ERROR: ")]
    last = " ".join(lines[errors[-1] :] if errors else lines[-1:])
    return last.removeprefix("ERROR: ").rstrip(".")[:300] or "no reason was given"


def _cause(text: str, remedy: str) -> str:
    """gcloud's complaint and what to do; where it only lacks zone or project, which to give."""
    unset = re.search(r"(?:property|attribute) \[(zone|project)\]", text)
    if unset:
        return f"gcloud has no {unset[1]}; give --{unset[1]}"
    return f"{error_line(text)}; {remedy}"


def execute(step: Step) -> str:
    """Does a step; returns what it printed.

    Raises:
      Failed: one line.
    """
    print(f"{step.what} ...", flush=True)
    source = subprocess.DEVNULL
    if step.feed:
        feed = subprocess.Popen(step.feed, stdin=source, stdout=subprocess.PIPE)
        source = feed.stdout
    done = subprocess.run(
        step.command, stdin=source, capture_output=True, text=True, errors="replace"
    )
    if step.feed:
        source.close()
    if done.returncode or (step.feed and feed.wait()):
        raise Failed(f"could not {step.what}: {_cause(done.stderr, step.remedy)}")
    return done.stdout


def follow(step: Step) -> int:
    """Shows a console until the run ends; its exit code.

    Raises:
      Failed: the connection was lost; one line.
    """
    print(f"{step.what} ...", flush=True)
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(step.command, **quiet, text=True, errors="replace")
    try:
        _, errors = process.communicate()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    ended = re.search(r"^worker \S+: ended with exit code (\d+)", errors, re.MULTILINE)
    if not ended:
        raise Failed(
            f"could not {step.what}: {_cause(errors, f'the run may go on: {step.remedy}')}"
        )
    print(f"the run has ended with exit code {ended[1]}", flush=True)
    return int(ended[1])


def show(step: Step) -> None:
    """Prints a step's command as it can be pasted."""
    print(" | ".join(shlex.join(command) for command in (step.feed, step.command) if command))


def run(config: Results, options: list[str], resume: bool) -> int:
    """Makes a run, from the code to its results; its exit code.

    Raises:
      Failed: a step could not be done; what was started on some workers was stopped. One line.
      ValueError: the results' folder holds another run; one line.
    """
    if not resume and pathlib.Path(config.folder, "config.json").exists():
        raise ValueError(f"{config.folder} holds a run already; give another --results or --name.")
    start = secrets.token_hex(4)
    steps = run_steps(config, options, resume, start)
    if config.dry_run:
        return do(config, *steps)
    *before, begin, console, fetch = steps
    do(config, *before)
    try:
        do(config, begin)
    except (Failed, KeyboardInterrupt) as error:
        try:
            execute(stop_step(config, start))
        except Failed as second:
            raise Failed(f"{error}; then {second}") from None
        raise
    code = watch(config, console)
    if code is None:
        return 130
    execute(fetch)
    return code


def watch(config: Workers, console: Step) -> int | None:
    """Shows a console; the run's exit code, or None where Ctrl-C ended the showing."""
    try:
        return follow(console)
    except KeyboardInterrupt:
        slice_options = [f"--{x}={getattr(config, x)}" for x in ("name", "zone", "project")]
        given = [x for x in slice_options if not x.endswith("=")]
        same = shlex.join([*given, f"--workdir={config.workdir}"])
        print(
            f"\nthe run goes on; follow it with: bmg pod logs {same}; stop it with: bmg pod stop "
            f"{same}"
        )
        return None


def do(config: Slice, *steps: Step) -> int:
    """Does steps one after the other and prints what they say, by worker; or shows them alone."""
    for step in steps:
        if config.dry_run:
            show(step)
        else:
            for line in sorted(execute(step).splitlines()):
                print(f"  {line}")
    return 0


def _create(config: Create) -> int:
    options = [f"--accelerator-type={config.accelerator_type}", f"--version={config.version}"]
    options += ["--spot"] if config.spot else []
    command = gcloud(config, "create", config.name, *options)
    remedy = "another --zone or --accelerator-type may have room; see your project's TPU quota"
    return do(config, Step(f"create the slice {config.name} (minutes)", command, remedy))


def _status(config: Status) -> int:
    state = "--format=value(name,acceleratorType,state,health)"
    describe = gcloud(config, "describe", config.name, state)
    workers = ssh(config, "all", scripts.status(config.workdir))
    return do(
        config,
        Step("look at the slice", describe, "make one with bmg pod create"),
        Step("look at the workers", workers, "a slice that is not READY answers later, or never"),
    )


def _logs(config: Logs) -> int:
    if config.fetch:
        return do(config, folder_step(config), fetch_step(config, config.worker))
    console = console_step(config, config.worker, "100")
    if config.dry_run:
        return do(config, console)
    code = watch(config, console)
    return 130 if code is None else code


def _stop(config: Stop) -> int:
    delete = gcloud(config, "delete", config.name)
    deletion = Step(f"delete the slice {config.name}", delete, "it may cost money until it is gone")
    if not config.delete:
        return do(config, stop_step(config))
    try:
        do(config, stop_step(config))
    except Failed as error:  # a slice that was taken away cannot be reached
        print(f"bmg: {error}; deletes it all the same", file=sys.stderr)
    return do(config, deletion)


def _check_options(command: str, options: list[str]) -> None:
    """Refuses options of `bmg train` that cannot be meant.

    Raises:
      ValueError: one line.
    """
    own = ("--workdir", "--resume", "--hosts.cluster")
    own += ("--hosts.count", "--hosts.index", "--hosts.coordinator")
    for option in options:
        if option.partition("=")[0] in own:
            raise ValueError(
                f"bmg pod gives {option.partition('=')[0]} to bmg train; leave it out after '--'."
            )
    if command == "run":  # a resumed run's configuration is not here
        from bmg.launch import train

        train.parse(options)


_COMMANDS = {
    "create": (Create, _create),
    "run": (Run, lambda config, options: run(config, options, False)),
    "status": (Status, _status),
    "logs": (Logs, _logs),
    "stop": (Stop, _stop),
    "resume": (Resume, lambda config, options: run(config, options, True)),
}


def main(command: str, arguments: list[str]) -> int:
    """Runs `bmg pod COMMAND`, of those that need a TPU slice.

    Args:
      command: one of create, run, status, logs, stop, resume.
      arguments: its options; of run and resume, those of `bmg train` after `--`.

    Returns:
      The exit code: of run and resume that of worker 0's `bmg train`, 1 where a step failed.

    Raises:
      ValueError: bad input, one line.
    """
    kind, function = _COMMANDS[command]
    own, options = arguments, []
    trains = command in ("run", "resume")
    if "--" in arguments:
        at = arguments.index("--")
        own, options = arguments[:at], arguments[at + 1 :]
        if not trains:
            raise ValueError(f"bmg pod {command} takes no options of bmg train; leave '--' out.")
    try:
        config = parse_options(kind, f"bmg pod {command}", own)
    except ValueError as error:
        hint = " Options of bmg train follow '--'." if trains and "--" not in arguments else ""
        raise ValueError(f"{error}{hint}") from None
    _check_options(command, options)
    if not config.dry_run and not shutil.which("gcloud"):
        raise ValueError(
            "gcloud is not installed: get it from https://cloud.google.com/sdk, then gcloud init; "
            "--dry-run does without."
        )
    try:
        with signals.interrupting():
            try:
                return function(config, options) if trains else function(config)
            except Failed as error:  # also the second of an interruption and a failure to tidy up
                print(f"bmg: {error}", file=sys.stderr)
                return 1
    except KeyboardInterrupt:
        print("bmg: interrupted; see bmg pod status", file=sys.stderr)
        return 130
