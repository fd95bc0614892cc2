"""`bmg plot`: where the picture goes, what is drawn, and files that are no metrics."""

from __future__ import annotations

import json
import pathlib
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from bmg.experiments import plots
from bmg.launch.console import RunConsole
from bmg.learner.metrics import MetricsWriter, read_metrics
from tests.launch.test_cli import ROW, save_run
from tests.tables import named

METRIC = "training/return"
PLOT = f"plot --workdirs run --metrics {METRIC} --output".split()


@pytest.fixture
def run(command, tmp_path) -> pathlib.Path:
    """A run's directory, with two points."""
    save_run(tmp_path / "run")
    rows = [{"frames": 100 * i, METRIC: float(i)} for i in (1, 2)]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("output", "written", "start"),
    [
        ("x", "x.png", b"\x89PNG"),
        ("x.png", "x.png", b"\x89PNG"),
        ("x.PNG", "x.PNG", b"\x89PNG"),
        ("x.pdf", "x.pdf", b"%PDF"),
        ("x.svg", "x.svg", b"<?xml"),
        ("x.jpg", "x.jpg", b"\xff\xd8"),
        ("folder", "folder/curves.png", b"\x89PNG"),
        ("folder.png", "folder.png/curves.png", b"\x89PNG"),
        ("new/", "new/curves.png", b"\x89PNG"),
        ("new/er/x", "new/er/x.png", b"\x89PNG"),
        (".", "curves.png", b"\x89PNG"),
    ],
)
def test_what_is_printed_is_what_was_written(command, run, tmp_path, output, written, start):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.png").mkdir()
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    code, out, err = command(*PLOT, output)
    assert code == 0, err
    assert out.splitlines()[-1] == written
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before == {tmp_path / written}
    assert (tmp_path / written).read_bytes().startswith(start)


def test_a_folder_of_runs_is_searched(command, tmp_path):
    """However deep; what cannot be drawn there is named, and a folder inside a run is its own."""
    row = json.dumps({"frames": 40, "training/return": 1.0})
    for name in ("mine/a/seed-0", "mine/b", "mine/b/checkpoints"):
        save_run(tmp_path / name, frames=len(name))
        (tmp_path / name / "metrics.jsonl").write_text(row)
    save_run(tmp_path / "mine/young")
    (tmp_path / "mine/broken").mkdir()
    (tmp_path / "mine/broken/config.json").write_text("{")
    code, out, err = command("plot", "--workdirs", "mine", "--output", "x.png")
    assert code == 0 and err == "", err
    lines = out.splitlines()
    assert lines[0].startswith("mine/broken is left out: mine/broken/config.json cannot be read")
    assert lines[1] == "mine/young is left out: it has no metrics yet"
    assert sum("training/return" in line for line in lines) == 2
    assert "no run in mine/young can be drawn" not in command.refused(
        "plot", "--workdirs", "mine/young"
    ), "one that is named is refused as such"
    (tmp_path / "others/young").mkdir(parents=True)
    (tmp_path / "mine/broken").rename(tmp_path / "others/broken")
    line = command.refused("plot", "--workdirs", "others")
    assert "no run in others can be drawn: others/broken is left out" in line
    assert "no run in nowhere" in command.refused("plot", "--workdirs", "nowhere")


def test_metrics_that_nobody_named_may_be_missing(command, run, pictures):
    """An evaluation comes late; what --metrics names must be there."""
    code, _, err = command("plot", "--workdirs", "run", "--output", "x.png")
    assert code == 0 and [panel.title for panel in pictures["x.png"]] == [METRIC], err
    line = command.refused("plot", "--workdirs", "run", "--metrics", METRIC, "evaluation/return")
    assert "no run has the metric 'evaluation/return'" in line
    (run / "metrics.jsonl").write_text('{"frames": 1, "loss": 2.0}')
    line = command.refused("plot", "--workdirs", "run")
    assert "no run has training/return or evaluation/return yet" in line and "--metrics" in line


def test_runs_may_be_named_without_their_option(command, run, tmp_path):
    """As the console shows it when a run is complete."""
    (run / "metrics.jsonl").write_text(json.dumps({"frames": 40, METRIC: 1.0}))
    code, _, err = command("plot", "run", "--metrics", METRIC, "--output", "x.png")
    assert code == 0 and err == "", err
    assert (tmp_path / "x.png").exists()
    assert "no run in nowhere" in command.refused("plot", "nowhere")


def test_panels_share_the_axis_of_frames_from_0_on(command, run, monkeypatch):
    """Also one with a single point, whose own axis would be narrow."""
    ends = []

    def record(path, panels, **how):
        for _, draw in panels:
            axis = Figure().add_subplot()
            draw(axis)
            ends.append(axis.get_xlim())

    monkeypatch.setattr(plots, "save_panels", record)
    rows = [{"frames": 100 * i, METRIC: 1.0} for i in range(1, 11)]
    rows.append({"frames": 900, "evaluation/return": 2.0})
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert command("plot", "--workdirs", "run")[0] == 0
    assert ends == [(0, 1020)] * 2
    (run / "metrics.jsonl").write_text(json.dumps({"frames": 0, METRIC: 1.0}))
    assert command("plot", "--workdirs", "run")[0] == 0
    low, high = ends[2]
    assert low < 0 < high, "nothing but a point at 0"


IMPOSSIBLE = [
    ("x.pngg", ["'.pngg'", ".png, ", "Did you mean .png?"]),
    ("x.7", ["'.7'", ".pdf"]),
    ("run/config.json/x.png", ["run/config.json/x.png", "--output"]),
    ("/dev/null/x.png", ["no picture at /dev/null/x.png: /dev/null is no folder", "--output"]),
    ("/proc/nowhere/x.png", ["/proc/nowhere/x.png", "--output"]),
]


def test_a_picture_that_cannot_be_is_one_line(command, run):
    for output, words in IMPOSSIBLE:
        with named(output):
            line = command.refused(*PLOT, output)
            assert all(word in line for word in words), line


def test_an_unknown_kind_is_refused_before_anything_is_read(command):
    assert "'.doc'" in command.refused(*PLOT, "x.doc"), "there is no run at all"


def test_a_run_without_metrics_is_one_line(command, run):
    (run / "metrics.jsonl").unlink()
    line = command.refused(*PLOT, "x.png")
    assert "run/metrics.jsonl" in line and "--workdirs" in line


def test_what_was_abandoned_is_not_drawn(command, run, monkeypatch):
    """Also where the learner could not move it away, or does not know of sessions."""
    drawn = []

    def record(path, panels, **how):
        axis = Figure().add_subplot()
        panels[0][1](axis)
        drawn.append([tuple(point) for point in axis.lines[0].get_xydata()])

    monkeypatch.setattr(plots, "save_panels", record)
    (run / "metrics.jsonl").unlink()
    for start, values in ((0, [1.0, 2.0, 3.0]), (100, [4.0]), (200, [5.0])):
        writer = MetricsWriter(run, start, tensorboard=False)
        for index, value in enumerate(values):
            writer.write(start + 100 * (index + 1), {METRIC: value})
        writer.close()
    rows = [
        {"frames": at, "learner/frames": at, METRIC: value}
        for at, value in [(100, 1.0), (200, 2.0), (300, 3.0), (200, 4.0), (300, 5.0)]
    ]
    for lines in (None, rows, [*rows[:3], {"frames": 100, "session": 2}, *rows[3:]]):
        if lines:
            (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        code, out, err = command(*PLOT, "x.png")
        assert code == 0, err
        assert drawn.pop() == [(100, 1.0), (200, 4.0), (300, 5.0)]
        assert [cell.strip() for cell in out.splitlines()[3].split("│")[4:7]] == ["300", "5", "4.5"]


VALID = [{**ROW, "frames": 50_000 * i, "learner/frames": 50_000 * i, METRIC: 1.5 * i,
          "evaluation/return": -1.0} for i in (1, 2, 3)]  # fmt: skip
NUMBERS = st.one_of(
    st.floats(), st.integers(-(10**400), 10**400), st.sampled_from([1e308, -1e308, 5e-324, 2**53])
)
VALUES = st.recursive(
    st.one_of(NUMBERS, st.none(), st.booleans(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)
CHANGED_ROWS = st.lists(
    st.tuples(
        st.sampled_from([*VALID, {"frames": 50_000, "session": 2}]),
        st.dictionaries(st.sampled_from([*VALID[0], "session"]), VALUES, max_size=3),
    ).map(lambda both: json.dumps({**both[0], **both[1]}).encode()),
    max_size=5,
).map(b"\n".join)


@st.composite
def damaged(draw) -> bytes:
    """A good file, of which bytes were changed, lost, or written twice."""
    content = bytearray("".join(json.dumps(row) + "\n" for row in VALID).encode())
    dice = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(1, 6))):
        at, size = dice.randrange(len(content)), dice.choice([1, 1, 1, 20, 200])
        content[at : at + size] = draw(
            st.sampled_from([b"", b"\n", b"\0", b"\xff", b"[" * 20_000, b"1e999", b'"'])
        ) or bytes(content[at - 40 : at])
    return bytes(content)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(content=st.one_of(st.binary(max_size=300), damaged(), CHANGED_ROWS))
def test_any_file_is_shown_and_drawn_as_far_as_it_is_valid(command, run, capsys, content):
    """By the console, by scripts and by `bmg plot`: or it is refused in one line."""
    path = run / "metrics.jsonl"
    for before in (b"", content[: len(content) // 2]):
        path.write_bytes(before)
        shown = RunConsole(run, 200_000)
        path.write_bytes(content + b"\n")
        shown.refresh()
        with open(path, "a") as file:
            file.write("\n" + json.dumps({**ROW, "session": 9}) + "\n" + json.dumps(ROW) + "\n")
        shown.close()
        assert capsys.readouterr().out.startswith("50,000 of 200,000 frames (25 %)")
    path.write_bytes(content)
    points = read_metrics(run, METRIC)
    code, out, err = command(*PLOT, "x.png")
    if code:
        assert code == 2 and not points
        names = "see the names in metrics.jsonl or results.csv"
        assert err == f"bmg: no run has the metric {METRIC!r}; {names}.\n"
    else:
        assert points and out.splitlines()[-1] == "x.png"


def test_names_are_no_formulas_and_nothing_is_not_drawn(command, tmp_path):
    """Dollars, and letters that no font has."""
    for name in ("a$b_{$", "猫"):
        save_run(tmp_path / name)
        row = {"frames": 40, "training/return": 1.0, "evaluation/return": 2.0}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        code, out, err = command("plot", "--workdirs", name, "--output", "x.png")
        assert code == 0 and err == "" and out.splitlines()[-1] == "x.png"
    assert "--workdirs is empty" in command.refused("plot", "--workdirs")
    assert command("plot", "--workdirs", "猫", "--metrics")[0] == 0, "empty: the returns"
