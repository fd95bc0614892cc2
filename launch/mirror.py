"""`bmg wandb`: sends what runs have written to Weights & Biases, once or as they go on.

A process of its own, which reads run directories: nothing that it does, or waits for, reaches the
run. `--wandb PROJECT` of a run starts it beside the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import pathlib
import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

from bmg.launch import environment, signals
from bmg.launch.options import parse_options, with_first
from bmg.storage.fields import check_fields

_INTERVAL = 10.0  # seconds between looks
_FLUSH_SECONDS = 60.0  # after the end of a run
_STATE = "wandb-{}.json"  # in a run directory, for each seed: its id there, how much was sent
_STEP = "frames"  # what is drawn against


@dataclasses.dataclass(frozen=True)
class MirrorConfig:
    """Send the metrics of runs to Weights & Biases, each seed as a run of its own; also as
    `bmg wandb FOLDER`. What was sent before is not sent again."""

    folder: str = "runs"
    """Where runs are, however deep."""
    project: str = "bmg"
    """Of Weights & Biases. WANDB_MODE=offline writes files for `wandb sync` instead."""
    follow: bool = False
    """Go on until the command is stopped."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg wandb`.

    Raises:
      ValueError: no run, or no Weights & Biases, or it takes nothing; one line.
    """
    from bmg.launch.runs import find

    options = parse_options(MirrorConfig, "bmg wandb", with_first("--folder", arguments))
    check_installed()
    environment.clean()
    root = pathlib.Path(options.folder)
    if not options.follow and not any(find(root)):
        raise ValueError(f"no runs in {root}; give a folder of run directories.")
    sent = 0
    known: dict[tuple[pathlib.Path, int], _Mirror] = {}
    with signals.orderly() as asked, contextlib.ExitStack() as stack:

        def send(folder: pathlib.Path, key: tuple[pathlib.Path, int], rows: list[dict]) -> int:
            if key not in known:
                mirror = _Mirror(folder, *key, root=root, project=options.project)
                known[key] = stack.enter_context(mirror)
            return known[key].send(rows)

        while True:
            last = asked.is_set() or not options.follow
            for folder in find(root):
                sent += sum(send(folder, key, rows) for key, rows in _seeds(folder) if rows)
            if last:
                break
            asked.wait(_INTERVAL)
    print(f"{sent:,} rows of {len(known)} runs sent to the project {options.project}")
    return 0


def check_installed() -> None:
    """Refuses where there is no Weights & Biases.

    Raises:
      ValueError: one line.
    """
    if importlib.util.find_spec("wandb") is None:
        raise ValueError("wandb is not installed; give pip install 'bmg[wandb]'.")


def _seeds(folder: pathlib.Path) -> Iterator[tuple[tuple[pathlib.Path, int], list[dict]]]:
    """Of a run directory: each seed's folder and number, and the rows that it has so far."""
    from bmg.experiments.curves import find_runs
    from bmg.storage.rows import METRICS, read_rows

    try:
        runs = find_runs(folder)
    except (ValueError, OSError):  # it has only begun
        return
    for run in runs:
        rows: list[dict] = []
        if run.columns:
            steps = next(iter(run.columns.values()))[0]
            rows = [
                {_STEP: int(step), **{name: float(y[i]) for name, (_, y) in run.columns.items()}}
                for i, step in enumerate(steps)
            ]
        elif (run.workdir / METRICS).exists():
            rows = [
                {name: x for name, x in row.items() if name != "time"}
                for row in read_rows(run.workdir / METRICS)
                if "session" not in row
            ]
        yield (run.workdir, run.seed), rows


class _Mirror:
    """One run there."""

    def __init__(
        self, folder: pathlib.Path, workdir: pathlib.Path, seed: int, root: pathlib.Path,
        project: str,
    ):  # fmt: skip
        import wandb

        from bmg.storage.files import found_json
        from bmg.storage.run_directory import flatten, load_json

        self._path = workdir / _STATE.format(seed)
        state = found_json(self._path)
        self._id, self._sent = state.get("id") or secrets.token_hex(4), state.get("sent", 0)
        self._last = state.get("last", "")
        name = workdir.relative_to(root) if workdir != root else workdir.absolute().name
        try:
            self._run = wandb.init(
                project=project, id=self._id, resume="allow", name=f"{name} seed {seed}",
                group=str(folder), dir=workdir, config={**flatten(load_json(folder)), "seed": seed},
                reinit="create_new", settings=wandb.Settings(silent=True, console="off"),
            )  # fmt: skip
        except wandb.errors.Error as error:  # nobody is logged in, or nobody answers
            raise ValueError(
                f"Weights & Biases does not take {workdir}: {str(error).rstrip('.')}; with "
                "WANDB_MODE=offline in the environment it gets files for `wandb sync`."
            ) from None
        self._run.define_metric("*", step_metric=_STEP)

    def send(self, rows: list[dict[str, Any]]) -> int:
        """Sends what is new; all of it anew where the last one that was sent is no longer there, as
        after a run went on from an older checkpoint.

        Returns:
          How many.
        """
        if self._sent and (self._sent > len(rows) or _digest(rows[self._sent - 1]) != self._last):
            self._sent = 0
        new = rows[self._sent :]
        for row in new:
            self._run.log(row)
        if new:
            self._sent, self._last = len(rows), _digest(rows[-1])
        return len(new)

    def __enter__(self) -> _Mirror:
        return self

    def __exit__(self, *_) -> None:
        from bmg.storage.files import write_json

        self._run.finish()
        write_json(self._path, {"id": self._id, "sent": self._sent, "last": self._last})


def _digest(row: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:12]


@contextlib.contextmanager
def beside(project: str, workdir: pathlib.Path) -> Iterator[None]:
    """A block in which a run writes, with `bmg wandb` beside it; none without a project."""
    if not project:
        yield
        return
    from bmg.storage.processes import PROGRAM, child_environment

    log = workdir / "logs" / "wandb.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = ["wandb", "--folder", str(workdir), "--project", project, "--follow"]
    with log.open("ab") as file:
        process = subprocess.Popen(
            [*PROGRAM, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            env=child_environment(), start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()  # it sends what is left
        try:
            code = process.wait(_FLUSH_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = "no answer"
        if code:
            print(f"Weights & Biases ended with {code}, see {log}; send the rest with: "
                  f"bmg wandb {workdir} --project {project}")  # fmt: skip
