"""What a run leaves: rows of metrics, checkpoints and results, whatever the disk allows.

A full disk, or files that are gone, never end a run: it says so once and goes on, and at its end
names what is missing.
"""

from __future__ import annotations

import contextlib
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bmg.agents.messages import Evaluation
from bmg.environments.scores import human_normalized_score
from bmg.learner.guard import FORMER_PATHS
from bmg.learner.health import MetaLearnerWatch
from bmg.learner.metrics import MetricsWriter
from bmg.learner.progress import Progress, check_checkpoint
from bmg.storage import checkpoint
from bmg.storage.files import reason, write_json


class NotSavedError(RuntimeError):
    """The end of a run could not be written."""


class RunInfo(NamedTuple):
    """What must be known of a run."""

    workdir: pathlib.Path
    game: str
    total_frames: int  # environment frames at which the run is complete
    frames_per_update: int
    seed: int
    resume: bool
    protocol: dict[str, Any]  # goes into results.json
    versions: dict[str, str | None]  # goes into results.json
    num_evaluators: int
    final_timeout: float  # seconds to wait for the last evaluation
    identity: dict[str, Any]  # JSON; a checkpoint belongs to the run that has the same
    command: str = ""  # that began or went on with it; goes into results.json


class RunRecord:
    """How far a run is, and what is written of it; evaluations come from other threads."""

    def __init__(
        self,
        info: RunInfo,
        checkpoints_kept: int,
        notify: Callable[[str], None],
        publish_results: Callable[[dict[str, Any]], None],
        writes: bool = True,
    ):
        """Opens nothing yet.

        Args:
          info: of the run.
          checkpoints_kept: how many checkpoints stay.
          notify: takes lines for the user: a checkpoint that is not usable, files that are full or
            gone.
          publish_results: takes what goes into results.json, wherever that can be written.
          writes: checkpoints, results and event files; otherwise another host does.
        """
        self.info, self.progress = info, Progress()
        self.lock = threading.Lock()
        """Of metrics and evaluations."""
        self._kept, self._notify, self._publish_results = checkpoints_kept, notify, publish_results
        self._writes = writes
        self._directory = info.workdir / "checkpoints"
        self._failing: dict[str, str] = {}  # what could not be written at the last try, and why
        self._saved: int | None = None  # updates of the newest checkpoint
        self._not_saved: list[str] = []  # at the end
        self._watch = MetaLearnerWatch()
        self._metrics: MetricsWriter | None = None

    @property
    def frames(self) -> int:
        """Environment frames learned from so far."""
        return self.progress.updates * self.info.frames_per_update

    @property
    def complete(self) -> bool:
        """Whether these are all."""
        return self.frames >= self.info.total_frames

    @property
    def has_score(self) -> bool:
        """Whether the evaluation at its end is there, or nobody evaluates."""
        found = self.progress.evaluation or {}
        there = found.get("final") is True and found["version"] == self.progress.updates
        return there or not self.info.num_evaluators

    def restore(self, template: Any, most_updates: int | None = None) -> Any:
        """Goes on from the newest usable checkpoint.

        Args:
          template: a state of the same shapes.
          most_updates: after which it may have been written; None for any.

        Returns:
          The state in it.

        Raises:
          CheckpointError: there is none; one line.
        """

        def usable(found: checkpoint.Checkpoint) -> None:
            check_checkpoint(found, self.info.frames_per_update)
            if most_updates is not None and found.header["updates"] > most_updates:
                raise checkpoint.CheckpointError("is ahead of the other seeds.")

        found, problems = checkpoint.load_newest(
            self._directory, template, self.info.identity, usable, FORMER_PATHS
        )
        self.progress = Progress(found.header)
        self._saved = self.progress.updates
        if problems:
            self._notify(f"going on from update {self._saved}: {'; '.join(problems)}")
        return found.state

    def open(self) -> None:
        """Begins a session of metrics, after `restore`."""
        info = self.info
        self._metrics = MetricsWriter(
            info.workdir, self.frames, self._writes, self._notify, info.identity
        )

    def ended(self, returns: list[float]) -> None:
        """Takes the returns of episodes that ended."""
        self.progress.episodes += len(returns)
        self.progress.returns.extend(returns)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Takes an evaluation and writes it at the frames that it belongs to."""
        score = human_normalized_score(self.info.game, evaluation.mean_return)
        row = {
            "evaluation/return": evaluation.mean_return,
            "evaluation/return_std": evaluation.std_return,
            "evaluation/episodes": evaluation.episodes,
            "evaluation/parameter_version": evaluation.version,
        }
        if score is not None:
            row["evaluation/human_normalized_score"] = score
        with self.lock:
            if _replaces(evaluation, self.progress.evaluation):
                found = evaluation._asdict()
                self.progress.evaluation = {**found, "human_normalized_score": score}
            self._write(evaluation.frames, row)

    def row(
        self,
        metrics: dict[str, float],
        updates: int,
        seconds: float,
        returns: list[float],
        reports: Callable[[], dict[str, float]] = dict,
    ) -> None:
        """Writes a row about the last updates.

        Args:
          metrics: what was measured in them.
          updates: how many they are.
          seconds: that they took.
          returns: of the episodes that ended in them.
          reports: called under the lock, for more metrics.
        """
        progress = self.progress
        metrics = metrics | {
            "learner/frames": self.frames,
            "learner/updates": progress.updates,
            "learner/updates_per_second": updates / seconds,
            "learner/frames_per_second": updates * self.info.frames_per_update / seconds,
            "learner/wall_seconds": progress.seconds,
        }
        # All that ended in these updates, and at least the last ones.
        counted = max(returns, progress.returns, key=len)
        if counted:
            mean_return = float(np.mean(counted))
            metrics["training/return"] = mean_return
            metrics["training/episodes"] = progress.episodes
            score = human_normalized_score(self.info.game, mean_return)
            if score is not None:
                metrics["training/human_normalized_score"] = score
        if line := self._watch.look(progress.updates, metrics):
            self._notify(line)
            with self._surviving("metrics"):
                self._metrics.write_text(self.frames, "meta/warning", line)
        with self.lock:
            self._write(self.frames, metrics | reports())

    def try_checkpoint(self, state: Callable[[], Any]) -> None:
        """Writes a checkpoint on the way."""
        with self._surviving("checkpoints"):
            self.checkpoint(state)

    def checkpoint(self, state: Callable[[], Any]) -> None:
        """Writes a checkpoint.

        Args:
          state: gives a `guard.LearnerState` of numpy arrays; or raises a RuntimeError, where an
            update failed and took it along.

        Raises:
          OSError: it could not be written.
        """
        if not self._writes:
            return
        header = {
            **self.progress.header(),
            "game": self.info.game,
            "frames": self.frames,
            "identity": self.info.identity,
        }
        updates = self.progress.updates
        checkpoint.save(self._directory, updates, state(), header, self._kept)
        self._saved = updates

    def try_playing(self, state: Callable[[], Any], devices: int) -> None:
        """Writes where environments and replay are, for the checkpoint that comes next: without it
        a run goes on with new episodes and an empty replay.

        Args:
          state: as of `checkpoint`.
          devices: that it lies on.
        """
        with self._surviving("playing"), contextlib.suppress(RuntimeError):
            header = {"identity": self._identity_of_playing(devices)}
            # Two: a process may end before the checkpoint that the newest one belongs to.
            checkpoint.save(self._playing, self.progress.updates, state(), header, keep=2)

    def load_playing(self, template: Any, devices: int) -> Any:
        """Where environments and replay were at the checkpoint that was restored; arguments as of
        `try_playing`.

        Raises:
          CheckpointError: there is nothing that fits; one line.
        """
        identity = self._identity_of_playing(devices)
        found, _ = checkpoint.load_newest(self._playing, template, identity)
        return found.state

    def _identity_of_playing(self, devices: int) -> dict[str, Any]:
        return {**self.info.identity, "updates": self.progress.updates, "devices": devices}

    @property
    def _playing(self) -> pathlib.Path:
        return self.info.workdir / "playing"

    def save(self, state: Callable[[], Any]) -> None:
        """Writes the last checkpoint and the results, and takes note of what cannot be written;
        `state` as of `checkpoint`."""
        self._not_saved = []
        try:
            self.checkpoint(state)
        except OSError as error:
            name = f"the checkpoint of update {self.progress.updates:,}"
            self._not_saved.append(f"{name} ({reason(error)})")
        except RuntimeError as error:
            print(f"no last checkpoint, the one before stays: {error}", flush=True)
        try:
            self._write_results()
        except OSError as error:
            self._not_saved.append(f"results.json ({reason(error)})")

    def close(self) -> None:
        """Ends the session of metrics; an evaluation may still come, and counts for none."""
        with self.lock:
            self._metrics.close()
        if why := self._failing.get("metrics"):
            self._not_saved.append(f"the last rows of metrics ({why})")

    def check_saved(self) -> None:
        """After `save` and `close`.

        Raises:
          NotSavedError: what could not be written; one line.
        """
        if not self._not_saved:
            return
        ended = "is complete" if self.complete else f"stopped after {self.frames:,} frames"
        if self._saved is None:
            remedy = "start again, as there is no checkpoint to go on from"
        else:
            remedy = f"--resume goes on from update {self._saved:,}"
        raise NotSavedError(
            f"the run {ended}, but not written are {' and '.join(self._not_saved)}; free some "
            f"space; {remedy}"
        )

    def _write(self, frames: int, metrics: dict[str, float]) -> None:
        with self._surviving("metrics"):
            self._metrics.write(frames, metrics)

    @contextlib.contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        """Goes on where something cannot be written, and says so, once."""
        try:
            yield
        except OSError as error:
            if what not in self._failing:
                self._failing[what] = reason(error)
                self._notify(f"{what} cannot be written ({reason(error)}); the run goes on")
        else:
            if what in self._failing:
                del self._failing[what]
                self._notify(f"{what} can be written again")

    def _write_results(self) -> None:
        if not self._writes:
            return
        progress, info = self.progress, self.info
        evaluation = progress.evaluation or {}
        results = {
            "game": info.game,
            "frames": self.frames,
            "complete": self.complete,
            "wall_seconds": progress.seconds,
            "frames_per_second": self.frames / max(progress.seconds, 1e-9),
            "updates": progress.updates,
            "episodes": progress.episodes,
            "training_return": float(np.mean(progress.returns)) if progress.returns else None,
            "evaluation_return": evaluation.get("mean_return"),
            "human_normalized_score": evaluation.get("human_normalized_score"),
            "evaluation": progress.evaluation,
            "protocol": info.protocol,
            "versions": info.versions,
            "command": info.command,
        }
        self._publish_results(results)
        write_json(info.workdir / "results.json", results)


def what_is_left(records: Sequence[RunRecord]) -> str:
    """A line about a run that goes on and has its frames already, of each of its seeds."""
    done = all(record.has_score for record in records)
    what = "give more --frames to go on" if done else "its last evaluation is missing and is made"
    return f"the run has {records[0].frames:,} frames already; {what}"


def _replaces(evaluation: Evaluation, before: dict | None) -> bool:
    """Whether it is the run's newest: several evaluators may end in another order than they began,
    and a complete run that is resumed keeps its score."""
    if before is None or evaluation.version > before["version"]:
        return True
    return evaluation.version == before["version"] and not before["final"]
