"""Metrics of a run that goes on from before its end, on a disk that is full for a while, after a
crash, in files that somebody removes, and under a clock that jumps."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmg.learner import metrics
from bmg.learner.dashboard import tag_of
from bmg.learner.metrics import MetricsWriter, read_metrics
from bmg.storage import checkpoint
from bmg.storage.rows import parse_row
from tests.learner import fakes
from tests.learner.fakes import results_of, rows_of, run
from tests.learner.test_learner import events_of


def write(workdir: pathlib.Path, start: int, frames, notify=print, value: float = 0.0) -> None:
    """A session that goes on from `start` frames and writes rows at others."""
    writer = MetricsWriter(workdir, start, notify=notify)
    for at in frames:
        writer.write(at, {"learner/frames": at, "a/b": at + value})
    writer.close()


def abandoned_of(workdir: pathlib.Path) -> list[dict]:
    """The lines of metrics.abandoned.jsonl."""
    path = workdir / "metrics.abandoned.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def in_tensorboard(workdir: pathlib.Path, name: str = "a/b") -> list[tuple[float, float]]:
    """(frames, value) of a metric."""
    events = events_of(workdir)
    tag = tag_of(name)
    known = tag in events.Tags()["scalars"]
    return [(event.step, event.value) for event in events.Scalars(tag)] if known else []


def curve_steps(path: pathlib.Path) -> list[int]:
    """Of the rows in an event file."""
    events = [event for _, event in metrics._records(path.read_bytes())]
    return [e.step for e in events if any(x.HasField("simple_value") for x in e.summary.value)]


@pytest.mark.parametrize("start", [0, 40, 70, 80, 120, 500])
def test_what_lies_beyond_the_start_is_set_apart(tmp_path, start):
    """Rows at the start itself stay, in both files; nothing written is lost."""
    write(tmp_path, 0, [40, 80, 120])
    before = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert not any("session" in row for row in rows_of(tmp_path)), "the very first"
    write(tmp_path, start, [start + 40], value=0.5)
    kept = [(at, at) for at in (40, 80, 120) if at <= start]
    expected = [*kept, (start + 40, start + 40.5)]
    assert read_metrics(tmp_path, "a/b") == in_tensorboard(tmp_path) == expected
    rows = rows_of(tmp_path)
    assert [row["frames"] for row in rows] == [at for at, _ in kept] + [start, start + 40]
    assert rows[len(kept)].keys() == {"frames", "time", "session"}
    assert rows[len(kept)]["session"] == 2
    content = (tmp_path / "metrics.jsonl").read_bytes()
    assert content.startswith(b"".join(before[: len(kept)])), "byte by byte"
    path = tmp_path / "metrics.abandoned.jsonl"
    assert (path.read_bytes() if path.exists() else b"") == b"".join(before[len(kept) :])


def test_tensorboard_forgets_with_either_of_its_readers(tmp_path, monkeypatch):
    """One that has read the old file heeds START; one that starts anew finds no such point."""
    write(tmp_path, 0, [40, 80, 120])
    (old,) = (tmp_path / "tensorboard").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "_forget", lambda folder, frames: None)
        write(tmp_path, 80, [160])
    assert [step for step, _ in in_tensorboard(tmp_path)] == [40, 80, 160]
    assert curve_steps(old) == [40, 80, 120]
    write(tmp_path, 40, [200])
    steps = [x for path in sorted((tmp_path / "tensorboard").iterdir()) for x in curve_steps(path)]
    assert steps == [40, 200] == [step for step, _ in in_tensorboard(tmp_path)]


def test_an_event_file_that_is_broken_is_read_up_to_there(tmp_path):
    write(tmp_path, 0, [40, 80])
    (path,) = (tmp_path / "tensorboard").iterdir()
    whole = path.read_bytes()
    records = [raw for raw, _ in metrics._records(whole)]
    assert b"".join(records) == whole
    for length in range(len(whole)):
        found = [raw for raw, _ in metrics._records(whole[:length])]
        assert found == records[: len(found)]
    assert list(metrics._records(b"\xff" * 100)) == []


def test_sessions_are_counted_and_what_they_abandon_is_collected(tmp_path):
    write(tmp_path, 0, [40, 80])
    write(tmp_path, 0, [40, 80, 120], value=0.5)
    write(tmp_path, 80, [120], value=0.25)
    assert [row.get("session") for row in rows_of(tmp_path)] == [2, None, None, 3, None]
    assert read_metrics(tmp_path, "a/b") == [(40, 40.5), (80, 80.5), (120, 120.25)]
    assert in_tensorboard(tmp_path) == read_metrics(tmp_path, "a/b")
    assert [row["a/b"] for row in abandoned_of(tmp_path)] == [40, 80, 120.5]


def test_a_host_without_tensorboard_sets_apart_as_well(tmp_path):
    for start in (0, 40):
        writer = MetricsWriter(tmp_path, start, tensorboard=False)
        for frames in (start + 40, start + 80):
            writer.write(frames, {"a/b": 1.0})
        writer.close()
    assert [row["frames"] for row in rows_of(tmp_path)] == [40, 40, 80, 120]
    assert [row["frames"] for row in abandoned_of(tmp_path)] == [80]
    assert not (tmp_path / "tensorboard").exists()


def test_a_start_that_was_killed_between_the_two_files(tmp_path):
    """What it had set apart already is not set apart twice; lines that are no rows stay."""
    path, apart = tmp_path / "metrics.jsonl", tmp_path / "metrics.abandoned.jsonl"
    write(tmp_path, 0, [40, 80, 120])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([b"5\n", *lines, b"\xff\n"]))
    apart.write_bytes(lines[1] + lines[2][:9])
    write(tmp_path, 40, [])
    assert apart.read_bytes() == b"".join(lines[1:])
    assert path.read_bytes().startswith(b"5\n" + lines[0] + b"\xff\n")
    assert len(path.read_bytes().splitlines()) == 4


def test_a_learner_that_falls_back_abandons_what_came_after(agent, tmp_path):
    changes = {"checkpoint_interval": 0.0}
    run(fakes.make_learner(agent, tmp_path, 3, changes))
    _, newest = checkpoint.list_checkpoints(tmp_path / "checkpoints")
    newest.write_bytes(b"")
    run(fakes.make_learner(agent, tmp_path, 4, changes, resume=True))
    frames = [at for at, _ in read_metrics(tmp_path, "learner/frames")]
    assert frames == [at for at, _ in in_tensorboard(tmp_path, "learner/frames")]
    assert frames == [40, 80, 120, 160]
    assert [row["frames"] for row in abandoned_of(tmp_path)] == [120]


@contextlib.contextmanager
def full(disk: pathlib.Path):
    """Nothing can be written there."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while file.write(bytes(512)):
            pass
    yield
    filler.unlink()


def test_a_disk_that_is_full_at_the_start(small_disk):
    """The run goes on with the old file and says so in one line; nobody is shown what was
    abandoned, and it is set apart the next time."""
    write(small_disk, 0, [40, 80, 120])
    before, said = (small_disk / "metrics.jsonl").read_bytes(), []
    with full(small_disk):
        writer = MetricsWriter(small_disk, 40, notify=said.append)
        assert (small_disk / "metrics.jsonl").read_bytes().startswith(before)
        (line,) = said
        assert "No space left" in line and "goes on" in line and "\n" not in line
        assert abandoned_of(small_disk) == []
    writer.write(80, {"a/b": 80.5})
    writer.close()
    assert read_metrics(small_disk, "a/b") == in_tensorboard(small_disk) == [(40, 40), (80, 80.5)]
    write(small_disk, 80, [120], value=0.25)
    assert read_metrics(small_disk, "a/b") == [(40, 40), (80, 80.5), (120, 120.25)]
    assert in_tensorboard(small_disk) == read_metrics(small_disk, "a/b")
    assert [row["a/b"] for row in abandoned_of(small_disk)] == [80, 120]
    sessions = [(row["frames"], row["session"]) for row in rows_of(small_disk) if "session" in row]
    assert sessions == [(40, 2), (80, 3)]


@pytest.mark.parametrize("gone", ["metrics.jsonl", "tensorboard", "."])
def test_what_somebody_removes_is_made_again(tmp_path, gone):
    """Also in a second session, whose TensorBoard must still drop what the first one abandoned."""
    workdir, said = tmp_path / "run", []
    workdir.mkdir()
    write(workdir, 0, [40, 80, 120])
    first = sorted((workdir / "tensorboard").iterdir())
    writer = MetricsWriter(workdir, 40, notify=said.append)
    writer.write(80, {"a/b": 80.5})
    assert said == []
    if gone == "tensorboard":
        (second,) = {*(workdir / "tensorboard").iterdir()} - {*first}
        second.unlink()
    elif gone == ".":
        shutil.rmtree(workdir)
    else:
        (workdir / gone).unlink()
    for frames in (120, 160):
        writer.write(frames, {"a/b": frames + 0.5})
    writer.close()
    (line,) = said
    assert "removed" in line and "\n" not in line
    assert ("metrics.jsonl" in line) == (gone != "tensorboard")
    assert ("tfevents" in line) == (gone != "metrics.jsonl")
    new, old = [(120, 120.5), (160, 160.5)], [(40, 40), (80, 80.5)]
    assert read_metrics(workdir, "a/b") == (new if gone != "tensorboard" else old + new)
    shown = {"metrics.jsonl": old + new, "tensorboard": old[:1] + new, ".": new}
    assert in_tensorboard(workdir) == shown[gone]
    if gone != "tensorboard":
        assert rows_of(workdir)[0].items() >= {"frames": 40, "session": 2}.items()


def test_a_file_that_somebody_rewrites_is_continued(tmp_path):
    """As an editor does, which saves under another name and renames; or cut to nothing."""
    said = []
    writer = MetricsWriter(tmp_path, 0, notify=said.append)
    writer.write(40, {"a/b": 1.0})
    path = tmp_path / "metrics.jsonl"
    (tmp_path / "copy").write_bytes(path.read_bytes() + b"half")
    (tmp_path / "copy").rename(path)
    writer.write(80, {"a/b": 2.0})
    path.write_bytes(b"")
    writer.write(120, {"a/b": 3.0})
    writer.close()
    assert len(said) == 2
    assert read_metrics(tmp_path, "a/b") == [(120, 3.0)]
    assert [row["frames"] for row in rows_of(tmp_path)] == [0, 120]
    assert in_tensorboard(tmp_path) == [(40, 1.0), (80, 2.0), (120, 3.0)]


@pytest.mark.parametrize(
    "name",
    [
        "events.out.tfevents.99999999998.a-host.7", "events.out.tfevents.9999999999.a-host.7",
        "events.out.tfevents.2000003600.zzz.7", "z.tfevents", "events.out.tfevents.2000000000",
    ],
)  # fmt: skip
def test_event_files_sort_in_their_order_whatever_the_clock_says(tmp_path, monkeypatch, name):
    """TensorBoard reads them in the order of their names."""
    monkeypatch.setattr(metrics.time, "time", lambda: 2e9)
    write(tmp_path, 0, [40, 80, 120])
    (first,) = (tmp_path / "tensorboard").iterdir()
    first.rename(first.with_name(name))
    names = [name]
    for session in range(1, 4):
        write(tmp_path, 40, [80, 120, 160], value=session / 10)
        (new,) = {path.name for path in (tmp_path / "tensorboard").iterdir()} - {*names}
        assert new > names[-1] and "tfevents" in new
        names.append(new)
        points = [frames for frames, _ in in_tensorboard(tmp_path)]
        assert points == [40, 80, 120, 160]
    assert max(map(len, names)) < 100


def test_the_first_event_file_has_the_time_in_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.time, "time", lambda: 2e9)
    write(tmp_path, 0, [])
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert path.name.startswith("events.out.tfevents.2000000000.")


# Frames of a start as a share of those reached, and of the rows that follow; which of them are
# evaluations, at the frames of a row before.
SESSIONS = st.lists(
    st.tuples(
        st.floats(0.0, 1.0), st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=5)
    ),
    max_size=6,
)


@settings(max_examples=40)
@given(sessions=SESSIONS)
def test_any_sessions_leave_curves_that_never_run_backwards(sessions):
    """Both files show the same, and each row is in exactly one of kept and abandoned."""
    with tempfile.TemporaryDirectory() as folder:
        workdir, newest, number = pathlib.Path(folder), 0, 0
        alive: dict[str, list[tuple[float, float]]] = {"learner/frames": [], "evaluation/x": []}
        for share, rows in sessions:
            newest = start = int(share * newest)
            alive = {k: [x for x in points if x[0] <= start] for k, points in alive.items()}
            writer = MetricsWriter(workdir, start)
            for step, evaluates in rows:
                at, number = newest if evaluates else newest + step, number + 1
                newest = max(newest, at)
                name = "evaluation/x" if evaluates else "learner/frames"
                value = float(number if evaluates else at)
                writer.write(at, {name: value, "number": number})
                alive[name].append((at, value))
            writer.close()
            for name, points in alive.items():
                assert read_metrics(workdir, name) == points == in_tensorboard(workdir, name)
            frames = [row["frames"] for row in rows_of(workdir) if "learner/frames" in row]
            assert frames == sorted(frames)
            rows = rows_of(workdir) + abandoned_of(workdir)
            written = sorted(row["number"] for row in rows if "number" in row)
            assert written == list(range(1, number + 1))


@settings(max_examples=60)
@given(content=st.binary(max_size=200), start=st.integers(0, 100))
def test_any_file_can_be_continued(content, start):
    """A learner that finds anything there keeps what is whole, and its own rows can be read."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "metrics.jsonl"
        path.write_bytes(content)
        write(path.parent, start, [start + 40])
        whole = content[: content.rfind(b"\n") + 1]
        assert all(line in path.read_bytes() for line in whole.splitlines() if not parse_row(line))
        assert read_metrics(path.parent, "a/b") == [(start + 40, start + 40)]


def test_a_disk_that_was_full_leaves_a_gap(small_disk):
    """A real one. What is written afterwards can be read, and nothing hangs."""
    writer = MetricsWriter(small_disk, 0)
    writer.write(40, {"a/b": 1.0})
    refused = 0
    many = {f"a/{i}": 1.0 for i in range(2_000)}  # more than what is left of a page
    with full(small_disk):
        for frames in range(80, 80 + 40 * 40, 40):
            with pytest.raises(OSError, match="No space left"):
                writer.write(frames, many)
            refused += 1
    assert refused == 40
    writer.write(2_000, {"a/b": 2.0})
    writer.close()
    assert read_metrics(small_disk, "a/b") == [(40, 1.0), (2_000, 2.0)]
    assert len(rows_of(small_disk)) == 2, "no half lines"
    events = events_of(small_disk).Scalars(tag_of("a/b"))
    assert [(event.step, event.value) for event in events] == [(40, 1.0), (2_000, 2.0)]


def test_a_line_that_a_crash_broke_is_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"frames": 40, "a/b": 1.0}\n{"frames": 80, "a/b"')
    writer = MetricsWriter(tmp_path, 40)
    writer.write(120, {"a/b": 3.0})
    writer.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["frames"] for line in lines] == [40, 40, 120]
    assert [line.get("session") for line in lines] == [None, 2, None]


def test_a_clock_that_goes_backwards(agent, tmp_path, monkeypatch):
    """Seconds and rates are of a clock that does not; frames are in order."""
    now = [2e9]

    def backwards() -> float:
        now[0] -= 3_600.0
        return now[0]

    monkeypatch.setattr(metrics.time, "time", backwards)
    assert run(fakes.make_learner(agent, tmp_path, 4, {"checkpoint_interval": 0.0})) is True
    rows = rows_of(tmp_path)
    assert [row["frames"] for row in rows] == [40, 80, 120, 160]
    assert all(row["learner/frames_per_second"] > 0 for row in rows)
    assert rows[0]["time"] > rows[-1]["time"], "the clock did go backwards"
    seconds = [row["learner/wall_seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert 0 < results_of(tmp_path)["wall_seconds"] < 600


def test_the_state_of_the_nodes_is_among_the_metrics(agent, tmp_path):
    run(fakes.make_learner(agent, tmp_path, 1))
    (row,) = rows_of(tmp_path)
    assert {name: row[name] for name in fakes.NODE_METRICS} == fakes.NODE_METRICS
