"""What a run of Catch promises to survive, tried on the real program: kill, stop, fill, truncate.

Each fault has a program of its own, or two where the run has to be resumed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bmg.benchmarks.config import BenchmarkConfig
from bmg.benchmarks.program import PATIENCE, Broken, Program, Start
from bmg.storage.fields import Seconds
from bmg.storage.processes import PARENT, name_of

_SILENCE = 24.0  # seconds after which a hung actor is killed here


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Kill, stop, fill and truncate what a run on Catch needs, and see whether it keeps its
    promises."""

    only: tuple[str, ...] = ()
    """Faults to try, such as actor-killed; none for all."""
    seconds: Seconds = 120.0
    """That each of the two runs lasts whose throughput is compared; a quick one takes a third."""


class Outcome(NamedTuple):
    """What happened after a fault."""

    happened: str
    recovery_seconds: float  # until the run, or the node, worked again, or the run had ended
    frames_lost: int  # learned from, and not in the checkpoint that the run goes on from


def _killed(node: str) -> Callable[[Start], Outcome]:
    def fault(start: Start) -> Outcome:
        program = start()
        program.learning()
        before = program.kill(node)
        program.more_updates(2)
        seconds = program.wait(program.rejoined(node, before), f"{node} is back")
        starts = program.workdir / "nodes" / f"{node}.starts"
        _expect(int(starts.read_text()) == 2, "the second start has seeds of its own")
        _expect(f"{node} died (killed" in program.output, "the console says it")
        program.more_updates(2)
        _expect(program.rows()[-1]["nodes/restarts"] == 1, "it is counted")
        return Outcome("the others went on; it came back with new seeds", seconds, 0)

    return fault


def _resumes(start: Start, ended: Program, updates: int) -> int:
    """Resumes a run that had made so many updates; how many of them its checkpoint lacks."""
    newest = ended.checkpoints()[-1]
    resumed = start("--resume")
    resumed.wait(resumed.rows, "the first line after --resume")
    _expect(resumed.updates > newest, "it counts on from the checkpoint")
    return max(updates - newest, 0)


def _actor_stopped(start: Start) -> Outcome:
    program = start("--silence-timeout", str(_SILENCE))
    program.learning()
    before = program.kill("actor_0", signal.SIGSTOP)
    program.more_updates(2)
    program.wait(lambda: program.rows()[-1]["actors/reporting"] == 1, "it leaves the metrics")
    seconds = program.wait(program.rejoined("actor_0", before), "actor_0 is back")
    _expect("actor_0 gave no sign of life" in program.output, "the console says it")
    return Outcome(f"killed after {_SILENCE:g} s of silence, as asked for; came back", seconds, 0)


def _crash_loop(start: Start) -> Outcome:
    program = start("--node-restarts", "2")
    program.learning()
    began = time.monotonic()
    for _ in range(2):
        before = program.kill("actor_1")
        program.wait(program.rejoined("actor_1", before), "actor_1 is back")
    program.kill("actor_1")
    code, _ = program.end()
    _expect(code == 1, f"exit code {code}")
    _expect("--node-restarts 2 allows no more" in program.output, "the console gives the reason")
    return Outcome("two restarts, then the end with the reason", time.monotonic() - began, 0)


def _ends_and_resumes(node: str) -> Callable[[Start], Outcome]:
    def fault(start: Start) -> Outcome:
        program = start()
        program.learning()
        updates, per_update = program.updates, program.frames_per_update
        program.kill(node)
        code, seconds = program.end()
        _expect(code == 1 and f"{node} failed" in program.output, "exit code 1, and who failed")
        lost = _resumes(start, program, updates) * per_update
        return Outcome("ended with exit code 1; --resume went on", seconds, lost)

    return fault


def _restarted(start: Start) -> Outcome:
    program = start("--restarts", "1")
    program.learning()
    updates, per_update = program.updates, program.frames_per_update
    before = program.kill("learner")
    killed = time.monotonic()
    newest = program.checkpoints()[-1]
    lines = len(program.rows())
    program.wait(program.runs_anew("learner", before), "another learner")
    program.wait(lambda: len(program.rows()) > lines, "its first line")
    _expect(program.updates > newest, "it counts on from the checkpoint")
    seconds = time.monotonic() - killed
    _expect("goes on from the newest checkpoint" in program.output, "the console says it")
    lost = max(updates - newest, 0) * per_update
    return Outcome("the launcher went on from the newest checkpoint by itself", seconds, lost)


def _launcher_killed(start: Start) -> Outcome:
    program = start()
    program.learning()
    updates = program.updates
    os.kill(program.pid, signal.SIGKILL)
    seconds = program.left_alone()
    _expect(program.checkpoints()[-1] >= updates, "the learner wrote a last checkpoint")
    resumed = start("--resume")
    resumed.more_updates(2)
    return Outcome("every node left, the learner after a checkpoint; --resume went on", seconds, 0)


def _terminated(start: Start) -> Outcome:
    program = start()
    program.learning()
    updates = program.updates
    os.killpg(program.pid, signal.SIGTERM)  # a pre-empted machine tells everyone
    code, seconds = program.end()
    _expect(code == 130, f"exit code {code}")
    _expect(program.checkpoints()[-1] >= updates, "a last checkpoint")
    return Outcome("a checkpoint, and everyone had left", seconds, 0)


def _interrupted_twice(start: Start) -> Outcome:
    program = start()
    program.learning()
    # A job in the background of a script ignores Ctrl-C, and so do the programs that it starts.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    number = signal.SIGTERM if ignored else signal.SIGINT
    os.kill(program.pid, number)
    time.sleep(0.6)
    os.kill(program.pid, number)
    updates, per_update = program.updates, program.frames_per_update
    code, seconds = program.end()
    _expect(code == 130, f"exit code {code}")
    lost = _resumes(start, program, updates) * per_update
    return Outcome("ended at once; --resume went on", seconds, lost)


def _truncate(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip_a_bit(path: pathlib.Path) -> None:
    """In the length of the largest array's header, so that it would begin 4 bytes sooner."""
    with zipfile.ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda x: x.file_size)
    content = bytearray(path.read_bytes())
    length = content.index(b"\x93NUMPY", member.header_offset) + 8
    content[length] ^= 4
    path.write_bytes(content)


def _checkpoint_damaged(damage: Callable[[pathlib.Path], None]) -> Callable[[Start], Outcome]:
    def fault(start: Start) -> Outcome:
        program = start()
        program.learning(checkpoints=2)
        os.killpg(program.pid, signal.SIGTERM)
        program.end()
        *_, older, newest = program.checkpoints()
        path = program.workdir / "checkpoints" / f"checkpoint_{newest:010d}.npz"
        damage(path)
        lost = (newest - older) * program.frames_per_update
        began = time.monotonic()
        resumed = start("--resume")
        line = f"going on from update {older}"
        resumed.wait(lambda: line in resumed.output, "a line")
        _expect(path.name in resumed.output, "it names the file")
        resumed.more_updates(2)
        seconds = time.monotonic() - began
        return Outcome("the one before was taken, and a line said so", seconds, lost)

    return fault


def _hung_up(start: Start) -> Outcome:
    program = start()
    program.learning()
    updates = program.updates
    os.killpg(program.pid, signal.SIGHUP)  # the terminal was closed
    code, seconds = program.end()
    _expect(code == 130, f"exit code {code}")
    _expect(program.checkpoints()[-1] >= updates, "a last checkpoint")
    unmoved = start("--resume", prefix=["nohup"])
    unmoved.more_updates(2)
    os.killpg(unmoved.pid, signal.SIGHUP)
    unmoved.more_updates(50)
    _expect(unmoved.rows()[-1]["nodes/restarts"] == 0, "with nohup nobody minds")
    return Outcome("a checkpoint, and everyone had left; under nohup it went on", seconds, 0)


def _reader_gone(start: Start) -> Outcome:
    reader, writer = os.pipe()
    with open(writer, "wb") as output:
        program = start(output=output)
    os.close(reader)
    program.learning()
    os.killpg(program.pid, signal.SIGTERM)
    code, seconds = program.end()
    _expect(code == 130, f"exit code {code}")
    return Outcome("it learned without a console", seconds, 0)


def _starter_killed(start: Start) -> Outcome:
    with subprocess.Popen(["sleep", "600"]) as starter:
        program = start(variables={PARENT: name_of(starter.pid)})
        program.learning()
        updates = program.updates
        starter.kill()
    code, seconds = program.end()
    _expect(code == 130, f"exit code {code}")
    _expect(program.checkpoints()[-1] >= updates, "a last checkpoint")
    return Outcome("it ended like its starter, after a checkpoint", seconds, 0)


def _proxy(start: Start) -> Outcome:
    nobody = "http://192.0.2.1:9"
    program = start(variables=dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), nobody))
    program.learning()
    _expect("left out http_proxy" in program.output, "the console says so")
    return Outcome("it was left out, and a line said so", 0.0, 0)


def _disk_stays_full(runtime: str) -> Callable[[Start], Outcome]:
    def fault(start: Start) -> Outcome:
        with small_disk(start.folder, kilobytes=120) as folder:
            program = start("--frames", "60000", "--runtime", runtime, workdir=folder / "run")
            code, seconds = program.end(PATIENCE)
            output = program.output
        _expect(code == 1, f"exit code {code}")
        last = output.splitlines()[-1]
        _expect("not written are the checkpoint of update" in last, "what could not be written")
        _expect("No space left on device" in last, "why not")
        _expect('"evaluation_return"' in output, "the results are on the console")
        _expect("died" not in output, "no node died of it")
        return Outcome("the run came to its end, and said what is missing", seconds, 0)

    return fault


def _disk_full(start: Start) -> Outcome:
    with small_disk(start.folder, kilobytes=4096) as folder:
        program = start(workdir=folder / "run")
        program.learning()
        filler = folder / "filler"
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        full = program.updates
        time.sleep(12.0)  # several intervals of checkpoints, and more lines than a queue holds
        filler.unlink()
        began = time.monotonic()
        newest = program.checkpoints()[-1]
        program.wait(lambda: program.checkpoints()[-1] > newest, "another checkpoint")
        seconds = time.monotonic() - began
        program.more_updates(2)
        _expect(program.rows()[-1]["nodes/restarts"] == 0, "no node died of it")
        during = program.checkpoints()[-1] - full
        os.killpg(program.pid, signal.SIGTERM)
        program.end()
    return Outcome(
        f"{during:,} updates meanwhile; metrics and checkpoints again once there was room",
        seconds, 0,
    )  # fmt: skip


FAULTS: dict[str, tuple[str, Callable[[Start], Outcome]]] = {
    "actor-killed": ("goes on; it starts again", _killed("actor_0")),
    "evaluator-killed": ("goes on; it starts again", _killed("evaluator_0")),
    "actor-stopped": ("goes on; it is killed and starts again", _actor_stopped),
    "crash-loop": ("ends with the reason", _crash_loop),
    "learner-killed": ("ends within 30 s; resumable", _ends_and_resumes("learner")),
    "replay-killed": ("ends within 30 s; resumable", _ends_and_resumes("replay")),
    "learner-killed-restarts": ("goes on by itself", _restarted),
    "launcher-killed": ("all leave within 30 s; resumable", _launcher_killed),
    "terminated": ("a checkpoint within 30 s", _terminated),
    "interrupted-twice": ("ends at once; resumable", _interrupted_twice),
    "hung-up": ("a checkpoint within 30 s; goes on under nohup", _hung_up),
    "reader-gone": ("goes on", _reader_gone),
    "starter-killed": ("ends within 30 s, after a checkpoint", _starter_killed),
    "proxy": ("is left out", _proxy),
    "checkpoint-truncated": ("the one before is used", _checkpoint_damaged(_truncate)),
    "checkpoint-bit-flipped": ("the one before is used", _checkpoint_damaged(_flip_a_bit)),
    "disk-full": ("goes on without checkpoints", _disk_full),
    "disk-stays-full": ("ends, and names what is missing", _disk_stays_full("launchpad")),
    "disk-stays-full-threads": (
        "ends, and names what is missing",
        _disk_stays_full("local-threads"),
    ),
}
THROUGHPUT = "actor-killed-every-20-s"


def try_fault(name: str) -> dict:
    """One row: what was promised of a fault, whether it was kept, and what happened."""
    promised, fault = FAULTS[name]
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Start(pathlib.Path(folder))) as start,
    ):
        try:
            outcome, kept = fault(start), True
        except Broken as broken:
            outcome, kept = Outcome(str(broken), float("nan"), 0), False
        except PermissionError as error:
            outcome, kept = Outcome(f"not tried: {error}", float("nan"), 0), False
    return {"fault": name, "promised": promised, "kept": kept, **outcome._asdict()}


def try_throughput(seconds: float) -> dict:
    """The row of a run one of whose two actors is killed every 20 seconds."""
    rates = {}
    for disturbed in (False, True):
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.closing(Start(pathlib.Path(folder))) as start,
        ):
            program = start("--node-restarts", "1000")
            program.learning()
            began, updates = time.monotonic(), program.updates
            for index in range(int(seconds // 20)):
                if disturbed:
                    program.kill(f"actor_{index % 2}")
                time.sleep(20.0)
            elapsed = time.monotonic() - began
            rates[disturbed] = (program.updates - updates) * program.frames_per_update / elapsed
    ratio = rates[True] / rates[False]
    return {
        "fault": THROUGHPUT,
        "promised": "at least 0.7 times the frames/s",
        "kept": ratio >= 0.7,
        "happened": f"{rates[True]:,.0f} of {rates[False]:,.0f} frames/s, {ratio:.2f} times",
        "recovery_seconds": float("nan"),
        "frames_lost": 0,
    }


def measure(config: Config) -> Iterator[dict]:
    """A row for each fault."""
    names = config.only or (*FAULTS, THROUGHPUT)
    for name in names:
        if name not in (*FAULTS, THROUGHPUT):
            raise ValueError(f"no fault {name!r}; there are {', '.join((*FAULTS, THROUGHPUT))}.")
    for name in names:
        if name == THROUGHPUT:
            yield try_throughput(config.seconds / 3 if config.quick else config.seconds)
        else:
            yield try_fault(name)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(f"expected: {what}")


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, kilobytes: int) -> Iterator[pathlib.Path]:
    """A file system of its own within a folder.

    Raises:
      PermissionError: it cannot be mounted.
    """
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        raise PermissionError("mounting a small disk is not allowed here") from None
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True, timeout=20)
