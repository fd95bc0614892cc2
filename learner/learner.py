"""The learner's process: batches in, parameters, metrics, checkpoints and results out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from bmg.agents.messages import Evaluation, VersionedParameters
from bmg.agents.trajectory import Trajectory, UpdateBatch
from bmg.learner.batches import BatchInfo, Prefetcher
from bmg.learner.config import LearnerConfig
from bmg.learner.hosts import ONE_HOST, HostLeft, Hosts, OneHost
from bmg.learner.profile import Profile
from bmg.learner.progress import Progress
from bmg.learner.record import RunInfo, RunRecord, what_is_left
from bmg.learner.reports import Report, summarise_reports
from bmg.learner.update import MetricsRow, ShardedAgent, first
from bmg.storage.fields import Mistake

_MOST_SKIPPED = 100  # updates in a row without effect, after which a run ends
_LEAVE_SECONDS = 60.0  # that hosts wait for the others' last checkpoint at most


class NotFiniteError(Mistake):
    """Nothing is learned any more, and a restart would change nothing: losses or gradients are not
    finite."""


def check_skipped(in_a_row: int, updates: int) -> None:
    """Ends a run in which every update is skipped.

    Args:
      in_a_row: updates without effect, at the end.
      updates: of the run so far.

    Raises:
      NotFiniteError: there are too many; one line.
    """
    if in_a_row >= _MOST_SKIPPED:
        raise NotFiniteError(
            f"the last {in_a_row} updates gave losses or gradients that are not finite and "
            f"were skipped; parameters are as after update {updates - in_a_row}."
            " Lower --agent.optimizer.learning-rate or look at the rewards, and --resume."
        )


class Learner:
    """Runs updates until the frames are used up; serves parameters; collects reports.

    `get_parameters`, `report` and `report_evaluation` are called by other processes, from other
    threads than `run`.
    """

    def __init__(
        self,
        agent: ShardedAgent,
        config: LearnerConfig,
        info: RunInfo,
        notify: Callable[[str], None],
        publish_results: Callable[[dict[str, Any]], None],
        hosts: Hosts | OneHost = ONE_HOST,
    ):
        """Starts from a seed, or from the newest usable checkpoint when the run is resumed.

        Args:
          agent: on its devices.
          config: how often things leave the learner.
          info: of the run.
          notify: takes lines for the user: a checkpoint that is not usable, files that are full or
            gone.
          publish_results: takes what goes into results.json, wherever that can be written.
          hosts: this host among those that learn together.

        Raises:
          CheckpointError: no usable checkpoint to resume from; one line.
        """
        self._agent, self._config, self._info, self._notify = agent, config, info, notify
        self._record = RunRecord(
            info, config.checkpoints_kept, notify, publish_results, hosts.writes
        )
        state = jax.jit(agent.init)(jax.random.PRNGKey(info.seed))  # one program, which is kept
        self._hosts = hosts
        if info.resume and hosts.writes:
            state = self._record.restore(state)
        state, header = hosts.as_on_first(state, self._record.progress.header())
        self._record.progress = Progress(header)
        self._state = agent.replicate(state)
        self._reports: dict[str, Report] = {}
        self._evaluated = threading.Event()
        self._looked_at_devices = False
        self._started = time.monotonic() - self._progress.seconds
        self._record.open()
        self._published: VersionedParameters | None = None
        self._publish(final=False)

    # Called by other processes.

    def get_parameters(self, version: int) -> VersionedParameters | None:
        """The published parameters, or None where `version` is no older."""
        published = self._published
        if published.version <= version and not published.final:
            return None
        return published

    def report(self, source: str, metrics: dict[str, float]) -> None:
        """Takes an actor's metrics; the newest of each actor count."""
        with self._record.lock:
            self._reports[source] = Report(metrics, time.monotonic(), self._reports.get(source))

    def report_evaluation(self, evaluation: Evaluation) -> None:
        """Takes an evaluation and writes it at the frames that it belongs to."""
        evaluation = Evaluation(*evaluation)
        self._record.evaluated(evaluation)
        if evaluation.final:
            self._evaluated.set()

    # The learner's own thread.

    @property
    def frames(self) -> int:
        """Environment frames learned from so far."""
        return self._record.frames

    @property
    def _progress(self) -> Progress:
        return self._record.progress

    def run(
        self,
        online: Iterator[Trajectory],
        replay: Iterator[Trajectory],
        occupancy: Callable[[], dict[str, float]],
        node_metrics: Callable[[], dict[str, float]],
        should_stop: Callable[[], bool],
    ) -> bool:
        """Learns until the frames are used up or it is asked to stop.

        A checkpoint and results.json are written either way.

        Args:
          online: batches of fresh unrolls, host arrays.
          replay: batches of replayed unrolls.
          occupancy: state of the replay tables, for the metrics.
          node_metrics: state of the run's processes, likewise.
          should_stop: polled between updates.

        Returns:
          Whether the run is complete.

        Raises:
          NotFiniteError: a hundred updates in a row were skipped; one line.
          HostLeft: another host was asked to stop; one line.
          NotSavedError: the last checkpoint or the results could not be written; one line.
          TimeoutError: no data came for too long.
        """
        prefetcher = Prefetcher(
            online, replay, self._agent.agent.num_extra_batches, self._agent.shard,
            self._config.prefetch,
        )  # fmt: skip
        if self.frames >= self._info.total_frames and self._progress.updates:
            self._notify(what_is_left([self._record]))
        window = Window(self.frames)
        last_checkpoint = time.monotonic()
        profile = Profile(self._info.workdir / "profile", self._config.profile_updates)
        left: HostLeft | None = None
        if self._hosts.count > 1 and not self._progress.updates:
            # There is something to go on from, whichever host goes missing.
            self._record.checkpoint(self._host_state)
        try:
            while self.frames < self._info.total_frames:
                start = time.monotonic()
                item = prefetcher.get(should_stop)
                arrived = time.monotonic()
                window.seconds["waiting"] += arrived - start
                item = self._agreed(item)
                window.seconds["agreeing"] += time.monotonic() - arrived
                if item is None:
                    break
                profile.before_update()
                with self._hosts.deadline(f"in update {self._progress.updates + 1}"):
                    self._learn(*item, window)
                now = time.monotonic()
                self._progress.seconds = now - self._started
                if self._row_is_due(window, now):
                    self._log(window, occupancy, node_metrics)
                    window = Window(self.frames)
                if now - last_checkpoint >= self._config.checkpoint_interval:
                    self._record.try_checkpoint(self._host_state)
                    last_checkpoint = time.monotonic()
            if window.updates:
                self._log(window, occupancy, node_metrics)
        except HostLeft as error:
            left = error
        finally:
            profile.close()
            prefetcher.close()
            self._record.save(self._host_state)
        if self._record.complete:
            self._finish(should_stop)
        self._record.close()
        self._hosts.leave(self._info.final_timeout + _LEAVE_SECONDS)
        if left is not None and not should_stop():  # all may have been asked at once
            raise left
        self._record.check_saved()
        return self._record.complete

    def _row_is_due(self, window: Window, now: float) -> bool:
        """So many rows in a run, evenly over its frames, or one after so long a time."""
        rows, total = self._config.log_rows, self._info.total_frames
        reached = self.frames * rows // total > window.frames * rows // total
        return reached or now - window.start >= self._config.log_interval

    def _agreed(self, item: tuple[UpdateBatch, BatchInfo] | None):
        """The batch and what all hosts' batches hold, or None where this host stops."""
        info = self._hosts.agree(item and item[1], self._progress.updates, self._state)
        return item and (item[0], info)

    def _learn(self, batch: UpdateBatch, info: BatchInfo, window: Window) -> None:
        """One update, and its publication."""
        start = time.monotonic()
        self._state, window.last_metrics = self._agent.update(self._state, batch)
        version = self._progress.updates
        self._progress.updates += 1
        self._hosts.updated(window.last_metrics)
        if not self._looked_at_devices:
            self._look_at_devices()
        returns = [float(x) for x in info.episode_returns]
        self._record.ended(returns)
        window.returns.extend(returns)
        window.updates += 1
        window.lags.extend(version - info.versions)
        publish = self._progress.updates % self._config.publish_interval == 0
        if publish:
            window.metrics.append(np.asarray(window.last_metrics.values))  # waits for the update
            self._check_finite()
        updated = time.monotonic()
        window.seconds["updating"] += updated - start
        if publish:
            self._publish(final=False)
            window.seconds["publishing"] += time.monotonic() - updated

    def _look_at_devices(self) -> None:
        """Says so if an update leaves another agent on each of them."""
        self._looked_at_devices = True
        if self._agent.mesh.size > 1 and not self._agent.is_alike(self._state):
            self._notify(
                "the update leaves another agent on each device, of which one is kept: average its "
                "gradients over spec.axis_name (mean_over_devices in bmg/agents/actor_critic.py)"
            )

    def _check_finite(self) -> None:
        """Ends a run in which every update is skipped."""
        check_skipped(int(first(self._state.skipped_in_a_row)), self._progress.updates)

    def _publish(self, final: bool) -> None:
        params = self._agent.agent.acting_params(self._state.agent)
        self._published = VersionedParameters(
            first(params), self._progress.updates, self.frames, final
        )

    def _log(
        self,
        window: Window,
        occupancy: Callable[[], dict[str, float]],
        node_metrics: Callable[[], dict[str, float]],
    ) -> None:
        """Writes the window's metrics; a full disk is reported and the run goes on."""
        try:
            replay = occupancy()
        except TimeoutError as error:  # busy, or gone before the learner when a run is stopped
            print(f"replay's state is left out of the metrics: {error}", flush=True)
            replay = {}
        elapsed = time.monotonic() - window.start
        values = window.metrics or [np.asarray(window.last_metrics.values)]
        metrics = dict(zip(window.last_metrics.names, np.mean(values, axis=0)))
        metrics |= {
            "policy_lag/min": np.min(window.lags),
            "policy_lag/mean": np.mean(window.lags),
            "policy_lag/max": np.max(window.lags),
            **{f"learner_time/{k}": v / elapsed for k, v in window.seconds.items()},
            **replay,
            **node_metrics(),
        }

        def reports() -> dict[str, float]:
            return summarise_reports(self._reports, time.monotonic())

        self._record.row(metrics, window.updates, elapsed, window.returns, reports)

    def _host_state(self):
        return first(self._state)

    def _finish(self, should_stop: Callable[[], bool]) -> None:
        """Publishes the final parameters and waits for their evaluation."""
        self._publish(final=True)
        deadline = time.monotonic() + self._info.final_timeout
        while self._info.num_evaluators and not should_stop():
            if self._evaluated.wait(0.2):
                break
            if time.monotonic() > deadline:
                print("the last evaluation did not come in time", flush=True)
                break
        self._record.save(self._host_state)


class Window:
    """What happened between two log lines."""

    def __init__(self, frames: int):
        """Opens a window at so many frames."""
        self.start = time.monotonic()
        self.frames = frames
        self.updates = 0
        self.metrics: list[np.ndarray] = []  # [M] each, of the published updates
        self.last_metrics: MetricsRow | None = None  # still on the device
        self.lags: list[int] = []
        self.returns: list[float] = []  # of the episodes that ended
        self.seconds = {"waiting": 0.0, "agreeing": 0.0, "updating": 0.0, "publishing": 0.0}
