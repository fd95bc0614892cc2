"""`bmg demo`: what it prints, draws and leaves is what was recorded, however it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pty
import re
import subprocess

import numpy as np
import pytest

from bmg.experiments.records import read_csv
from bmg.experiments.two_colors import demonstration
from bmg.experiments.two_colors.config import ActorCriticConfig, TwoColorsConfig
from bmg.experiments.two_colors.figures import Run
from bmg.launch import demo
from bmg.launch.console import sparkline
from tests.launch import commands
from tests.programs import once
from tests.tables import named
from tests.waiting import DEADLINE

FLIP, ROW = 800, 160  # steps of a cycle and of a row, in `small`

pytestmark = [
    pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation", "shared_programs"),
]  # fmt: skip
made_once = once(demo.make_lifetime)


@pytest.fixture
def small(monkeypatch):
    """Small networks in a world that changes often, compiled once for so many seeds."""
    real = demonstration.agents

    def agents(seeds: int, steps: int) -> dict[str, TwoColorsConfig]:
        return {name: smaller(config) for name, config in real(seeds, steps).items()}

    def smaller(config: TwoColorsConfig) -> TwoColorsConfig:
        own = dataclasses.replace(config.actor_critic, hidden=(8,), meta_hidden=(4,))
        return dataclasses.replace(config, flip_every=FLIP, record_every=ROW, actor_critic=own)

    def make_lifetime(experiment, config: TwoColorsConfig):
        return made_once(experiment, dataclasses.replace(config, seeds=1, steps=1_000))

    monkeypatch.setattr(demonstration, "agents", agents)
    monkeypatch.setattr(demo, "make_lifetime", make_lifetime)


def test_both_agents_are_of_the_paper_and_differ_in_the_method_alone():
    fixed, bmg = demonstration.agents(3, 5_000).values()
    assert (bmg.method, bmg.inner_steps, bmg.target_steps) == ("bmg", 1, 7)
    paper = TwoColorsConfig(seeds=3, steps=5_000)
    assert fixed == dataclasses.replace(
        paper, method="fixed", actor_critic=ActorCriticConfig(entropy_weight=0.15)
    )
    assert bmg == dataclasses.replace(
        paper, meta_learning_rate=3e-4, actor_critic=ActorCriticConfig(initial_entropy_weight=0.2)
    )
    assert fixed.actor_critic.entropy_weight in demonstration.CANDIDATES


def test_what_is_printed_and_drawn_is_what_was_recorded(small, command, tmp_path, pictures):
    code, out, err = command(*"demo --steps 3200 --seeds 3 --output shown/x".split())
    assert code == 0 and err == ""
    assert out.splitlines()[-1] == "shown/x.png, shown/x.csv"
    lines = [line for line in out.splitlines() if not line.startswith("environment: ")]
    assert max(map(len, lines)) <= 80
    steps, columns = read_csv(tmp_path / "shown" / "x.csv")
    np.testing.assert_array_equal(steps, np.arange(ROW, 3_201, ROW))
    assert all(column.shape == (3, 20) for column in columns.values())

    for line, rows in (("reward per step", 20), ("in the last 800 steps", 5)):
        for name in ("bmg", "fixed"):
            each = columns[f"{name}_reward"][:, -rows:].mean(1)
            words = rf"{line}: .*\b{name} (-?\d\.\d+) \+- (\d\.\d+)"
            printed = re.search(words, out, re.IGNORECASE).groups()
            np.testing.assert_allclose([*map(float, printed)], [each.mean(), each.std()], atol=6e-4)
    weight = columns["bmg_entropy_weight"].mean(0)
    # Five rows are a cycle: the world changes after rows 4, 9 and 14.
    words = r"(\d\.\d+) to (\d\.\d+) at the first change, (\d\.\d+) to (\d\.\d+) at the last of 3"
    np.testing.assert_allclose(
        [*map(float, re.search(words, out).groups())], weight[[4, 5, 14, 15]], atol=6e-3
    )
    assert np.all(columns["fixed_entropy_weight"] == demonstration.FIXED_WEIGHT)
    assert f"fixed weight: {demonstration.FIXED_WEIGHT:g}, the best of" in out

    pictures.assert_full("x.png")
    above, below = pictures["x.png"]
    assert (above.title, below.title) == ("entropy weight", "reward per step")
    np.testing.assert_allclose(above.lines["BMG"][:, 1], weight, atol=1e-5)
    np.testing.assert_allclose(above.lines["BMG"][:, 0], steps / 1e6)
    np.testing.assert_allclose(above.lines["fixed at 0.15"][:, 1], demonstration.FIXED_WEIGHT)
    for line, (label, xy) in zip(("bmg", "fixed"), below.lines.items()):
        reward = columns[f"{line}_reward"]
        assert label.endswith(f"{reward.mean():.3f} in the mean")
        np.testing.assert_allclose(np.mean(xy[:, 1]), reward.mean(), atol=1e-5)
    for panel in (above, below):
        flips = [xy[0, 0] for xy in panel.lines.values() if len(xy) == 2 and xy[0, 0] == xy[1, 0]]
        np.testing.assert_allclose(flips, np.array([800, 1_600, 2_400]) / 1e6)


@pytest.mark.parametrize("steps", [1, 700, 1_400])
def test_a_few_steps_are_shown_as_what_they_are(small, command, tmp_path, steps):
    """Less than a row, a cycle, or a whole cycle after a change."""
    code, out, _ = command("demo", "--steps", steps, "--seeds", 1, "--output", ".")
    assert code == 0 and "no whole cycle after a change of the world yet" in out
    found, _ = read_csv(tmp_path / "demo.csv")
    assert found[-1] == -(-steps // ROW) * ROW
    assert (tmp_path / "demo.png").exists()


class AskedAfter:
    """An event that is set after so many looks."""

    def __init__(self, looks: int):
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_whoever_stops_it_sees_what_there_is(small, command, tmp_path, monkeypatch):
    """Over the steps that both agents have, wherever it is stopped."""
    for chunks in range(6):
        with named(chunks):
            monkeypatch.setattr(
                demo.signals, "orderly", lambda *_: contextlib.nullcontext(AskedAfter(chunks))
            )
            code, out, err = command(*"demo --steps 1000000 --seeds 1 --output .".split())
            assert code == 130 and err == ""
            printed = re.search(r"stopped after ([\d,]+) of 1,000,000 steps", out)[1]
            steps = int(printed.replace(",", ""))
            if chunks < 2:  # one of them has not begun
                assert steps == 0 and not [*tmp_path.iterdir()]
                continue
            found, columns = read_csv(tmp_path / "demo.csv")
            assert found[-1] == steps > 0 and out.splitlines()[-1] == "demo.png, demo.csv"
            assert all(column.shape == (1, len(found)) for column in columns.values())


def test_ctrl_c_ends_the_real_command(tmp_path):
    with commands.started(*"demo --steps 1000000000 --seeds 1".split(), cwd=tmp_path) as run:
        while " left: reward BMG" not in (line := run.process.stdout.readline()):
            assert line, "it has ended"
        run.interrupt()
        code, out, err = run.finish()
    assert code == 130 and err == "", err
    printed = re.search(r"stopped after ([\d,]+) of 1,000,000,000 steps", out)[1]
    steps, columns = read_csv(tmp_path / "runs" / "demo" / "demo.csv")
    assert steps[-1] == int(printed.replace(",", ""))
    assert f"BMG {columns['bmg_reward'].mean():.3f}" in out
    assert (tmp_path / "runs" / "demo" / "demo.png").read_bytes().startswith(b"\x89PNG")


def on_a_terminal(folder, *arguments: str, columns: int = 80, **variables: str) -> tuple[int, str]:
    """The exit code, and everything that a terminal of that width gets."""
    ours, theirs = pty.openpty()
    environment = {**commands.environment(), "TERM": "xterm", "COLUMNS": str(columns), **variables}
    process = subprocess.Popen(
        [*commands.BMG, *arguments], cwd=folder, env=environment, stdin=theirs, stdout=theirs,
        stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    got = b""
    try:
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while more := os.read(ours, 65_536):
                got += more
        return process.wait(DEADLINE), got.decode()
    finally:
        os.close(ours)
        process.kill()
        process.wait(DEADLINE)


def test_in_a_terminal_lines_are_updated_in_place(tmp_path):
    code, text = on_a_terminal(tmp_path, *"demo --steps 30000 --seeds 1".split())
    assert code == 0, text
    assert "\x1b[1A" in text, "the cursor goes up again"
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "it is hidden, and shown again"
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))
    assert max(len(line) for line in lines if not line.startswith("environment: ")) <= 80
    assert any(re.match(r"[\d,]+ of 30,000 steps, \d+ s left$", line) for line in lines)
    last = lines.index("world changes       0", len(lines) - 9)
    assert re.match(r"BMG's weight +0\.\d\d  [▁▂▃▄▅▆▇█]{15}$", lines[last - 3]), lines


def test_a_narrow_terminal_without_other_letters(tmp_path):
    code, text = on_a_terminal(
        tmp_path, *"demo --steps 3000 --seeds 1".split(), columns=40, PYTHONIOENCODING="ascii"
    )
    assert code == 0 and text.isascii(), text
    assert re.search(r"BMG's weight +0\.\d\d  [_.:=+*#-]", text)


def run_of(name: str, steps: np.ndarray, **columns: np.ndarray) -> Run:
    config = demonstration.agents(1, 1_000_000)[name]
    return Run(name, config, steps, columns)


def test_the_curves_of_a_whole_run_fit_into_80_columns():
    """A character is a part of a cycle, or several cycles where they are many."""
    for total, characters in (
        (2_000, 1), (100_000, 50), (1_400_000, 56), (1_800_000, 54), (5_600_000, 56),
        (6_000_000, 30), (100_000_000, 56),
    ):  # fmt: skip
        with named(total):
            steps = np.arange(2_000, total + 1, 2_000)
            reward = np.sin(steps)[None]
            runs = {
                name: run_of(name, steps, reward=reward, entropy_weight=0.5 + reward / 2)
                for name in ("bmg", "fixed")
            }
            *curves, marks = demo.live_lines(runs, total)
            assert {len(line) for line in curves} == {23 + characters}
            per_cycle = characters * 100_000 // total
            flips = [at for at, mark in enumerate(marks[23:]) if mark == "^"]
            assert flips == ([*range(per_cycle, characters, per_cycle)] if per_cycle else [])
            assert marks[:23].split()[-1] == str((total - 1) // 100_000)
            assert len(demo.plain_line(runs, total, 100.0)) <= 80


def test_sparklines():
    assert sparkline([0.0, 0.5, 1.0, float("nan"), 2.0, -1.0], 0.0, 1.0) == "▁▅█ █▁"
    assert sparkline([3.0, 3.0], 3.0, 3.0) == "▁▁"
    assert sparkline([0.0, 1.0], 0.0, 1.0, ascii_only=True) == "_#"


def test_means_over_longer_stretches_weigh_rows_by_their_steps():
    steps = np.array([2_000, 4_000, 6_000, 7_000])
    run = run_of("bmg", steps, reward=np.array([[1.0, 2.0, 3.0, 6.0]]))
    ends, means = demonstration.coarser(run, "reward", 4_000)
    np.testing.assert_array_equal(ends, [4_000, 7_000])
    np.testing.assert_allclose(means, [[1.5, 4.0]])


BAD = [
    ("--steps 0", ["--steps is 0", "from 1"]),
    ("--steps many", ["--steps is 'many'", "integers"]),
    ("--seeds 0", ["--seeds is 0", "from 1"]),
    ("--seed 3", ["--seed", "did you mean --seeds"]),
    ("--output x.pngg", ["'.pngg'", "Did you mean .png?"]),
    ("--output /proc/nowhere/x.png", ["/proc/nowhere/x.png", "another --output"]),
]


def test_bad_input_is_one_line_before_anything_is_run(command):
    for arguments, words in BAD:
        with named(arguments):
            line = command.refused("demo", *arguments.split())
            assert all(word in line for word in words), line
