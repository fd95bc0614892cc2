"""Runs the compiled program of several seeds, and leaves of each what any run leaves."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bmg.agents.agent import Agent
from bmg.agents.messages import Evaluation
from bmg.environments.in_graph import World
from bmg.learner.config import LearnerConfig
from bmg.learner.in_graph import Playing, Program, State, Told, make_evaluation, make_program
from bmg.learner.learner import check_skipped
from bmg.learner.record import RunRecord, what_is_left
from bmg.meta.side_by_side import SEEDS, SHARDS, make_mesh, side_by_side
from bmg.storage.checkpoint import CheckpointError

PyTree = Any
_MOST_UPDATES = 100  # of a chunk
_CHUNK_SECONDS = 1.0  # that a chunk is to take: nothing stops it on its way
_EVALUATION_STEPS = 500  # between two looks
_EVALUATION_LIMIT = 10_000  # steps, after which an episode counts with what it has


_EACH, _PIECES = PartitionSpec(SEEDS), PartitionSpec(SEEDS, SHARDS)
_STATE = State(_EACH, _PIECES)  # a learner is the same on all devices of its seed
_TOLD = Told(_EACH, _PIECES)


def spread(seeds: int, config: LearnerConfig, devices: Sequence[jax.Device]) -> Mesh:
    """Which devices are taken: as many as seeds divide evenly over; where there are more, each
    seed's batches are shared by as many as divide them."""
    count = max(n for n in range(1, len(devices) + 1) if seeds % n == 0)
    shares = range(1, len(devices) // count + 1)
    whole = (config.online_batch, config.replay_batch)
    return make_mesh(devices, count, max(n for n in shares if not any(x % n for x in whole)))


def axis_name(mesh: Mesh) -> str | None:
    """What the agent's update averages over there."""
    return SHARDS if mesh.shape[SHARDS] > 1 else None


def make_beginning(program: Program, shards: int) -> Callable[[np.ndarray], State]:
    """The states of new seeds, from their keys; compiled."""

    def begin(key):
        learner, key = program.init(key), jax.random.fold_in(key, 1)
        pieces = jax.random.split(key, shards) if shards > 1 else key[None]
        return State(learner, jax.vmap(program.play_anew, in_axes=(None, 0))(learner, pieces))

    return jax.jit(jax.vmap(begin))


class InGraphLearner:
    """Seeds side by side on devices, each on one or on several; all of them are as far."""

    def __init__(
        self,
        agent: Agent,
        world: World,
        config: LearnerConfig,
        episodes: int,
        evaluation_interval: float,
        replay_capacity: int,
        records: Sequence[RunRecord],
        mesh: Mesh,
        notify: Callable[[str], None],
    ):
        """Starts from the seeds, or from the newest checkpoints of runs that are resumed.

        Args:
          agent: whose updates; made for the mesh's `axis_name`.
          world: the environment.
          config: of the learner.
          episodes: of an evaluation.
          evaluation_interval: seconds between two of them.
          replay_capacity: unrolls in each seed's ring.
          records: of each seed.
          mesh: as of `spread`.
          notify: takes lines for the user.

        Raises:
          CheckpointError: no usable checkpoint to resume from, or none that all have; one line.
        """
        self._agent, self._config = agent, config
        self._evaluates = records[0].info.num_evaluators > 0
        self._evaluation_interval = evaluation_interval
        self._records, self._notify = records, notify
        self._mesh, self._shards = mesh, mesh.shape[SHARDS]
        self._alone = len(records) == mesh.shape[SEEDS]
        frames = records[0].info.frames_per_update
        self._total = -(-records[0].info.total_frames // frames)  # updates
        # A chunk is a row at most.
        self._most = min(_MOST_UPDATES, -(-self._total // config.log_rows))
        program = make_program(agent, world, config, replay_capacity, self._most, self._shards)
        self._chunk = self._map(
            functools.partial(_of_a_piece, program.chunk),
            (_STATE, PartitionSpec()),
            (_STATE, _TOLD),
            donate=(0,),
        )
        begin, advance = make_evaluation(agent, world, episodes, _EVALUATION_STEPS)
        self._begin_evaluation = self._map(begin, (_EACH,), _EACH)
        self._evaluate_steps = self._map(advance, (_EACH, _EACH), _EACH)
        self._state = self._first_state(program)
        for record in records:
            record.open()
        self._started = time.monotonic() - records[0].progress.seconds

    def _map(
        self, function: Callable, given: tuple, results: PyTree, donate: tuple[int, ...] = ()
    ) -> Callable:
        """A function of one seed, of those of each device; compiled."""
        return side_by_side(function, self._mesh, given, results, self._alone, donate)

    def _put(self, tree: PyTree, lies: PartitionSpec) -> PyTree:
        return jax.device_put(tree, NamedSharding(self._mesh, lies))

    def _first_state(self, program) -> State:
        """Of all seeds."""
        keys = np.stack([np.asarray(jax.random.PRNGKey(r.info.seed)) for r in self._records])
        learners, playing = make_beginning(program, self._shards)(keys)
        if self._records[0].info.resume:
            learners, playing = self._restored(learners, playing)
        return State(self._put(learners, _EACH), self._put(playing, _PIECES))

    def _restored(self, learners: PyTree, playing: PyTree) -> tuple[PyTree, PyTree]:
        """From the newest checkpoints that all seeds have: a process may have ended after it wrote
        those of some."""
        found, most = [], None
        while most is None or any(r.progress.updates > most for r in self._records):
            found = [
                record.restore(self._of_seed(learners, i), most)
                for i, record in enumerate(self._records)
            ]
            most = min(record.progress.updates for record in self._records)
        learners = jax.tree.map(lambda *x: np.stack(x), *found)
        try:
            own = []
            for i, record in enumerate(self._records):
                template = self._playing_of_seed(playing, i)
                own.append(self._as_pieces(record.load_playing(template, self._shards)))
        except CheckpointError as error:  # of another runtime, or of another size
            self._notify(f"environments begin anew, and replay is empty: {error}")
            return learners, playing
        return learners, jax.tree.map(lambda *x: np.stack(x), *own)

    @property
    def _updates(self) -> int:
        return self._records[0].progress.updates

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Learns until the frames are used up or it is asked to stop; checkpoints and results are
        written either way.

        Returns:
          Whether the run is complete.

        Raises:
          NotFiniteError: of a seed, a hundred updates in a row were skipped; one line.
          NotSavedError: the last checkpoint or the results could not be written; one line.
        """
        saved = evaluated = before = row_at = time.monotonic()
        chunks: list[tuple[int, Told]] = []  # of the next row
        most = 1
        if self._updates >= self._total:
            self._notify(what_is_left(self._records))
        try:
            while self._updates < self._total and not should_stop():
                count = min(most, self._total - self._updates)
                self._state, told = self._chunk(self._state, np.int32(count))
                chunks.append((count, jax.device_get(told)))
                now = time.monotonic()
                for record in self._records:
                    record.progress.updates += count
                    record.progress.seconds = now - self._started
                self._check_finite()
                if self._row_is_due(chunks, now - row_at):
                    self._write_rows(chunks, now - row_at)
                    chunks, row_at = [], now
                wanted = int(count * _CHUNK_SECONDS / (now - before))
                most, before = min(max(wanted, 1), 2 * most, self._most), now
                if now - saved >= self._config.checkpoint_interval:
                    self._save_on_the_way()
                    saved = time.monotonic()
                due = now - evaluated >= self._evaluation_interval
                if due and self._evaluates and self._updates < self._total:
                    self._evaluate(final=False, should_stop=should_stop)
                    evaluated = time.monotonic()
            if chunks:
                self._write_rows(chunks, time.monotonic() - row_at)
        finally:
            self._save_playing()
            self._save()
        complete = self._records[0].complete
        if complete and self._evaluates:
            self._evaluate(final=True, should_stop=should_stop)
            self._save()
        for record in self._records:
            record.close()
        for record in self._records:
            record.check_saved()
        return complete

    def _row_is_due(self, chunks: list[tuple[int, Told]], seconds: float) -> bool:
        """So many rows in a run, evenly over its updates, or one after so long a time."""
        rows, updates = self._config.log_rows, sum(count for count, _ in chunks)
        row_of = lambda update: update * rows // self._total  # noqa: E731
        reached = row_of(self._updates) > row_of(self._updates - updates)
        return reached or seconds >= self._config.log_interval

    def _write_rows(self, chunks: list[tuple[int, Told]], seconds: float) -> None:
        """A row for each seed about these chunks of updates."""
        updates = sum(count for count, _ in chunks)
        for index, record in enumerate(self._records):
            metrics = dict.fromkeys(chunks[0][1].metrics.names, 0.0)
            returns: list[float] = []
            for count, told in chunks:
                for name, value in zip(told.metrics.names, told.metrics.values[index]):
                    metrics[name] += float(value) * count / updates
                # In the order in which they ended: update, step, environment.
                ended = np.moveaxis(told.episode_return[index][:, :count], 0, 1)
                ended = np.moveaxis(ended, -1, 1).ravel()
                returns += [float(x) for x in ended[np.isfinite(ended)]]
            record.ended(returns)
            record.row(metrics, updates, seconds, returns)

    def _check_finite(self) -> None:
        for record, in_a_row in zip(
            self._records, np.asarray(self._state.learner.skipped_in_a_row)
        ):
            check_skipped(int(in_a_row), record.progress.updates)

    def _evaluate(self, final: bool, should_stop: Callable[[], bool]) -> None:
        """Of all seeds at once."""
        params = jax.vmap(self._agent.acting_params)(self._state.learner.agent)
        keys = np.stack(
            [
                np.asarray(jax.random.PRNGKey(r.info.seed + 2**20 + self._updates))
                for r in self._records
            ]
        )
        state = self._begin_evaluation(self._put(keys, _EACH))
        for _ in range(_EVALUATION_LIMIT // _EVALUATION_STEPS):
            if should_stop() or not np.any(np.asarray(state.playing)):
                break
            state = self._evaluate_steps(params, state)
        if should_stop() and np.any(np.asarray(state.playing)):
            return
        for record, returns in zip(self._records, np.asarray(state.returns)):
            found = Evaluation.of(returns, self._updates, record.frames, final)
            if found is None:
                self._notify(
                    f"seed {record.info.seed}: none of {len(returns)} episodes of an evaluation "
                    "had a finite return; it is left out"
                )
            else:
                record.evaluated(found)

    def _of_seed(self, tree: PyTree, index: int) -> PyTree:
        return jax.device_get(_of_one(tree, np.int32(index)))

    def _playing_of_seed(self, playing: Playing, index: int) -> Playing:
        """[pieces, ...], or of the only one without that axis."""
        own = self._of_seed(playing, index)
        return own if self._shards > 1 else jax.tree.map(lambda x: x[0], own)

    def _as_pieces(self, own: Playing) -> Playing:
        return own if self._shards > 1 else jax.tree.map(lambda x: x[None], own)

    def _save_on_the_way(self) -> None:
        self._save_playing()
        for index, record in enumerate(self._records):
            record.try_checkpoint(lambda i=index: self._of_seed(self._state.learner, i))

    def _save(self) -> None:
        for index, record in enumerate(self._records):
            record.save(lambda i=index: self._of_seed(self._state.learner, i))

    def _save_playing(self) -> None:
        for index, record in enumerate(self._records):
            record.try_playing(
                lambda i=index: self._playing_of_seed(self._state.playing, i), self._shards
            )


@jax.jit  # as one program: each array's own would take seconds at the first checkpoint
def _of_one(tree: PyTree, index: jax.Array) -> PyTree:
    return jax.tree.map(lambda x: x[index], tree)


def _of_a_piece(chunk: Callable, state: State, updates: jax.Array) -> tuple[State, Told]:
    """A chunk of what one device plays, given with an axis of one in front."""
    own = state._replace(playing=jax.tree.map(lambda x: x[0], state.playing))
    after, told = chunk(own, updates)
    after = after._replace(playing=jax.tree.map(lambda x: x[None], after.playing))
    return after, told._replace(episode_return=told.episode_return[None])
