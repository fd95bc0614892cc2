"""How the nodes of a run say how they are: on a board in memory, which the launcher watches, with a
copy of it in a file each for people and later runs, and a log."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psutil

from bmg.launch.config import TrainConfig
from bmg.launch.runtimes.board import Board
from bmg.storage.fields import Mistake
from bmg.storage.files import write_json
from bmg.storage.processes import is_running, name_of

REPLAY, LEARNER, ACTOR, EVALUATOR = "replay", "learner", "actor", "evaluator"
GATE = "gate"  # a part of the launcher, see `launch.remote`
_PULSE_INTERVAL = 2.0  # seconds between signs of life
_NOTES_KEPT = 20
_NAMED = 3  # nodes in a line
_LONGEST_LINE = 400  # characters of a note or a message

Status = dict[str, Any]


def node_names(config: TrainConfig) -> list[str]:
    """Names of all nodes, as in their logs; a runtime may lack the replay server."""
    gate = [GATE] if config.gate_port else []
    return [REPLAY, LEARNER, *acting_nodes(config), *gate]


def acting_nodes(config: TrainConfig) -> list[str]:
    """Names of actors and evaluators."""
    return [
        *(f"{ACTOR}_{i}" for i in range(config.actors.num_actors)),
        *(f"{EVALUATOR}_{i}" for i in range(config.evaluator.num_evaluators)),
    ]


def status_file(workdir: pathlib.Path, node: str) -> pathlib.Path:
    """Where a node says how it is."""
    return workdir / "nodes" / f"{node}.json"


def starts_file(workdir: pathlib.Path, node: str) -> pathlib.Path:
    """Where it is counted how often a node was started, for `count_start`."""
    return workdir / "nodes" / f"{node}.starts"


def gate_status(actors: int, lost: int) -> Status:
    """What the gate says of itself: how many remote actors are there, and how many of them it
    lost."""
    no_process = {"pid": 0, "process": "", "start": 0, "restarts": 0, "notes": [], "noted": 0}
    return {**no_process, "state": "running", "message": "", "actors": actors, "lost": lost}


def log_file(workdir: pathlib.Path, node: str) -> pathlib.Path:
    """A node's log."""
    return workdir / "logs" / f"{node}.log"


class Node:
    """What a node of a run says of itself, from within it."""

    def __init__(self, config: TrainConfig, name: str, board: Board, has_log: bool = True):
        """Says that the node runs, and counts its start.

        Args:
          config: the run.
          name: the node's.
          board: of the run.
          has_log: whether what it prints goes into a log of its own, and not to the console.
        """
        self.name = name
        self._has_log = has_log
        self.stalls = 0  # waits that were worth a word
        self._board = board
        self._workdir = config.path
        self._path = status_file(self._workdir, name)
        self._lock = threading.Lock()  # a node's threads may all say something
        self._next_pulse = 0.0
        before = board.get(name)
        counted = count_start(starts_file(config.path, name))
        self.start = max(counted, before["start"] + 1) if before else counted
        """How often the node was started before, over all stretches of the run."""
        self._status: Status = {
            "pid": os.getpid(),
            "process": name_of(os.getpid()),
            "start": self.start,
            "restarts": before["restarts"] + 1 if before else 0,
            "mistake": False,  # it has failed of what the user has to mend
            "notes": [],  # the newest, of so many:
            "noted": 0,
        }
        self.set_state("running")

    def set_state(self, state: str, message: str = "") -> None:
        """Publishes the node's state: running, finished, stopped, failed, or stalled, which is a
        failure of another node."""
        with self._lock:
            self._status |= {"state": state, "message": _short(message)}
            self._write()

    def _write(self) -> None:
        self._board.put(self.name, self._status)
        with contextlib.suppress(OSError):  # a full disk is no reason to die
            write_json(self._path, self._status)

    def note(self, message: str) -> None:
        """Says something in the log, and through the launcher on the console."""
        if self._has_log:
            print(message, flush=True)
        with self._lock:
            self._status["notes"] = [*self._status["notes"], _short(message)][-_NOTES_KEPT:]
            self._status["noted"] += 1
            self._write()

    def publish_results(self, results: Mapping[str, Any]) -> None:
        """Gives the launcher the run's results, wherever else they can be written."""
        with self._lock:
            self._status["results"] = dict(results)
            self._write()

    def stalled(self, message: str) -> None:
        """Notes a wait that has become long."""
        self.stalls += 1
        self.note(f"stalled: {message}")

    def abandon(self, message: str) -> None:
        """Ends this process at once, from any thread: nobody can free what waits in it."""
        print(message, flush=True)
        self.set_state("failed", message)
        os._exit(1)

    def alive(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """The same function; each call of it, which everyone who works or waits makes now and then,
        is a sign of life to the launcher."""

        def asked() -> bool:
            now = time.monotonic()
            if now >= self._next_pulse:
                self._next_pulse = now + _PULSE_INTERVAL
                self._board.beat(self.name)
                with contextlib.suppress(OSError):
                    os.utime(self._path)
            return should_stop()

        return asked

    @contextlib.contextmanager
    def ending(self) -> Iterator[Callable[[str], None]]:
        """Records how the block ended, an error in the log as well; yields a function that sets the
        state of a good end, else stopped."""
        final = ["stopped"]
        with self.recording_failure():
            yield lambda state: final.__setitem__(0, state)
        self.set_state(final[0])

    def start_thread(self, run: Callable[[Node], str | None]) -> threading.Thread:
        """A thread of this node, started; `run` may give the state of a good end."""

        def watched():
            # An error is in the node's log and its state by then, which the launcher watches.
            with contextlib.suppress(Exception), self.ending() as finish:
                finish(run(self) or "stopped")

        thread = threading.Thread(target=watched, name=self.name, daemon=True)
        thread.start()
        return thread

    @contextlib.contextmanager
    def recording_failure(self) -> Iterator[None]:
        """Records an error of the block as the node's state, and in the log."""
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(OSError), open(log_file(self._workdir, self.name), "a") as log:
                traceback.print_exc(file=log)
            message = " ".join(str(error).split()) or type(error).__name__
            self._status["mistake"] = isinstance(error, Mistake)
            # Who waited in vain for another node is not at fault, and would only wait again.
            self.set_state("stalled" if isinstance(error, TimeoutError) else "failed", message)
            raise


def _short(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 3] + "..."


def count_start(path: pathlib.Path) -> int:
    """How often the node of that file (`starts_file`) was started before; counts this start, where
    it can be written."""
    count = 0
    with contextlib.suppress(OSError, ValueError):
        count = max(int(path.read_text()[:20]), 0)
    with contextlib.suppress(OSError):  # a full disk: later starts in this stretch go by the board
        write_json(path, count + 1)
    return count


def _read(path: pathlib.Path) -> Status:
    """What a node of an earlier stretch said; what cannot be read says nothing."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        status = json.loads(path.read_text(errors="replace"))
        if isinstance(status, dict):
            return status
    return {}


class Notes:
    """What the nodes of a run noted, each note once."""

    def __init__(self):
        self._seen: dict[tuple[str, int], int] = {}

    def new(self, statuses: dict[str, Status]) -> list[str]:
        """Lines that were noted since the last look; of many in between, the newest."""
        lines = []
        for name, status in statuses.items():
            start = (name, status["restarts"])
            unseen = status["noted"] - self._seen.get(start, 0)
            self._seen[start] = status["noted"]
            lines += [f"{name}: {note}" for note in status["notes"][-unseen:] if unseen]
        return lines


def failed_nodes(statuses: dict[str, Status]) -> list[str]:
    """Those that say so."""
    return [name for name, status in statuses.items() if status["state"] in ("failed", "stalled")]


def what_is_awaited(nodes: Sequence[str], statuses: dict[str, Status], hosts: int) -> str:
    """What keeps a run of so many hosts from its first update, as far as its nodes have said."""
    silent = [name for name in nodes if name not in statuses and name != GATE]
    if not silent:
        others = "other hosts, " if hosts > 1 else ""
        return f"all nodes have begun; {others}the first compilation, the first unrolls"
    more = f" and {len(silent) - _NAMED} more" if len(silent) > _NAMED else ""
    return f"not begun yet: {', '.join(silent[:_NAMED])}{more}"


def is_finished(statuses: dict[str, Status]) -> bool:
    """Whether the run is complete."""
    return statuses.get(LEARNER, {}).get("state") == "finished"


def clear_statuses(workdir: pathlib.Path) -> None:
    """Forgets what the nodes of an earlier stretch said; how often they were started stays.

    Raises:
      ValueError: some of them still run, as their launcher was killed; one line.
    """
    files = list((workdir / "nodes").glob("*.json"))
    processes = map(process_of, map(_read, files))
    left = sorted({process.pid for process in processes if process is not None} - {os.getpid()})
    if left:
        raise ValueError(
            f"processes of an earlier run are still in {workdir}: "
            f"{', '.join(map(str, left))}; they leave within half a minute, try again."
        )
    for path in files:
        path.unlink()


def process_of(status: Status) -> psutil.Process | None:
    """The process that said so (not a later one of its number), if it still runs."""
    name = status.get("process")
    if isinstance(name, str) and is_running(name):
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(int(name.partition("/")[0]))
    return None


def node_metrics(board: Board) -> dict[str, float]:
    """Resident memory of each node's process in MiB (threads of one process under its first node),
    restarts in this stretch of the run, and the remote actors."""
    statuses = board.statuses()
    metrics = {"nodes/restarts": float(sum(status["restarts"] for status in statuses.values()))}
    if gate := statuses.get(GATE):
        metrics["nodes/remote_actors"] = float(gate["actors"])
        metrics["nodes/remote_actors_lost"] = float(gate["lost"])
    nodes = {process_of(status): name for name, status in reversed(statuses.items())}
    for process in nodes.keys() - {None}:
        with contextlib.suppress(psutil.Error):
            metrics[f"memory_mib/{nodes[process]}"] = process.memory_info().rss / 2**20
    return metrics
