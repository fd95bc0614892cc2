"""`bmg benchmark few-shot`: FLOPs by hand, the rows, and the programs that take turns with ours."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import sys

import jax
import pytest

from bmg.benchmarks import few_shot
from bmg.benchmarks.few_shot import Case, Config, Program
from bmg.benchmarks.peer_process import Peer
from bmg.experiments.few_shot.config import FewShotConfig
from bmg.launch import cli
from bmg.launch.tables import print_table
from bmg.storage.fields import MANY
from tests.packaging.test_layers import imported_modules

pytestmark = pytest.mark.usefixtures("quick_compilation")
MAML, BMG = Case("maml", 1, 0), Case("bmg", 1, 5)
TINY = FewShotConfig(
    ways=2, shots=1, queries=2, meta_batch=2, filters=2, evaluate_every=MANY, steps=10
)  # fmt: skip


def products(side: int, inputs: int, filters: int) -> int:
    """Multiplications of a 3x3 convolution of one image, pixel by pixel."""
    pixels = list(itertools.product(range(side), repeat=2))
    near = sum(abs(a - c) <= 1 and abs(b - d) <= 1 for a, b in pixels for c, d in pixels)
    return near * inputs * filters


def by_hand(config: FewShotConfig, side: int, channels: int) -> int:
    """FLOPs of a meta-step, each product of each layer on its own."""
    layers, inputs = [], channels
    for _ in range(4):
        layers.append(2 * products(side, inputs, config.filters))
        side, inputs = side // 2, config.filters
    layers.append(2 * side * side * inputs * config.ways)
    total = 0
    for index, layer in enumerate(layers):
        first = index == 0
        for _ in range(config.inner_steps):
            forward = ["x w"] + ["x w'"] + ["x' w"] * (not first)
            reverse = ["w of y", "w' of y'"]
            reverse += ["x of y", "x of y'", "x' of y'", "w of y'"] * (not first)
            total += config.ways * config.shots * layer * len(forward + reverse)
        query = ["forward", "w"] + ["x"] * (not first)  # MAML's loss and its gradient
        if config.objective == "bmg":
            query = query * config.target_steps  # the first has the adapted learner's predictions
            query += ["the target's forward"]
            query += ["w of the distance"] + ["x of the distance"] * (not first)
        total += config.ways * config.queries * layer * len(query)
    return config.meta_batch * total


@pytest.mark.parametrize(
    "method, steps, target_steps", [("maml", 3, 1), ("bmg", 2, 1), ("bmg", 1, 4)]
)
def test_the_floor_is_what_one_counts(method, steps, target_steps):
    config = dataclasses.replace(
        TINY, objective=method, inner_steps=steps, target_steps=target_steps
    )
    assert few_shot.floor_flops(config, (18, 18, 3)) == by_hand(config, 18, 3)


def test_the_floor_at_the_papers_size():
    flops = few_shot.floor_flops(few_shot.config_of(MAML, Config()), few_shot.shape_of(Config()))
    assert flops == pytest.approx(88e9, rel=0.04)  # 88: with the products with the padding


def program(temporary_bytes: int = 100) -> Program:
    return Program(lambda: None, 2e9, temporary_bytes, 1.5)


class Answers:
    """A peer that has measured, or has failed."""

    def __init__(self, note: str):
        self.note = note


def test_the_ratios_of_rows(capsys):
    programs = {
        Case("maml", 5, 0): program(), Case("bmg", 5, 1): program(300),
        Case("anil", 5, 0): program(),
    }  # fmt: skip
    peers = {
        "torch-func": Answers("torch 2"),
        "torchopt": Answers("torchopt 1"),
        "b": Answers("no"),
    }
    seconds = {
        Case("maml", 5, 0): 0.5, Case("bmg", 5, 1): 0.75, Case("anil", 5, 0): 0.25,
        Case("torch-func", 5, 0): 2.0, Case("torchopt", 5, 0): 1.0, Case("b", 5, 0): None,
    }  # fmt: skip
    maml, bmg, anil, slow, fast, failed = few_shot.rows_of(
        seconds, programs, peers, {MAML: 80, Case("bmg", 1, 1): 150}, Config()
    )
    assert [row["method"] for row in (maml, bmg, anil, slow)] == [
        "maml-k5", "bmg-k5-l1", "maml-k5-anil", "torch-func"
    ]  # fmt: skip
    assert (anil["time_over_maml"], anil["gflop_floor"]) == (0.5, None)
    assert anil["paper_time_over_maml"] is None
    assert [row["meta_steps_per_second"] for row in (maml, bmg, slow, fast, failed)] == [
        2, 1 / 0.75, 0.5, 1, None
    ]  # fmt: skip
    assert [row["time_over_maml"] for row in (maml, bmg, slow, fast, failed)] == [
        1, 1.5, 4, 2, None
    ]  # fmt: skip
    assert maml["over_fastest_peer"] == 2 and bmg["over_fastest_peer"] is None
    assert maml["paper_time_over_maml"] == 1
    assert bmg["paper_time_over_maml"] == pytest.approx(4.4 / 4.2)
    assert (maml["temporary_over_one_step"], bmg["temporary_over_one_step"]) == (1.25, 2)
    assert (maml["gflop"], maml["compile_seconds"], slow["gflop"]) == (2, 1.5, None)
    assert bmg["gflop_floor"] > maml["gflop_floor"] == slow["gflop_floor"]
    assert [row["note"] for row in (maml, slow, failed)] == ["", "torch 2", "no"]
    print_table([maml, bmg, anil, slow, fast, failed])  # they share their keys, and heads are whole
    shown = capsys.readouterr().out
    assert "None" not in shown and "…" not in shown and "torchopt 1" in shown


def test_without_peers_maml_is_compared_with_none():
    rows = few_shot.rows_of(
        {MAML: 0.5, BMG: 1.0}, {MAML: program(0), BMG: program(0)}, {}, {}, Config()
    )
    assert [row["over_fastest_peer"] for row in rows] == [None, None]
    assert [row["temporary_over_one_step"] for row in rows] == [None, None]


@pytest.fixture
def tiny(monkeypatch):
    """Small tasks, in a process that others share."""
    small = functools.partial(FewShotConfig, filters=2, meta_batch=2, steps=10)
    monkeypatch.setattr(few_shot, "FewShotConfig", small)
    monkeypatch.setattr(few_shot, "use_all_cores", lambda most: None)


@pytest.mark.heavy
@pytest.mark.parametrize("devices", [1, 2])
def test_a_program_is_the_experiments_meta_step(tiny, monkeypatch, devices):
    """FLOPs and memory are those of all devices."""
    there = jax.devices()[:devices]
    monkeypatch.setattr(jax, "devices", lambda: there)
    sizes = Config(side=16, ways=2, shots=1, queries=2)
    config = few_shot.config_of(MAML, sizes)
    found = few_shot.compile_case(config, few_shot.random_images(sizes))
    floor = few_shot.floor_flops(config, few_shot.shape_of(sizes))
    assert floor < found.flops < 4 * floor
    assert found.temporary_bytes > TINY.meta_batch * TINY.ways * TINY.queries * 16 * 16 * 3 * 4
    found.run()


def instant(config, images):
    return Program(lambda: None, 1e9, 100 * config.inner_steps, 1.0)


def test_each_k_has_its_rows(tiny, monkeypatch):
    monkeypatch.setattr(few_shot, "compile_case", instant)
    rows = list(few_shot.measure(Config(seconds=0.0, rounds=1)))
    told = [(row["method"].split("-")[0], row["K"], row["L"]) for row in rows]
    assert set(few_shot.PAPER_RATES) <= set(told) and len(rows) == len(few_shot.CASES)
    assert all(row["temporary_over_one_step"] == row["K"] for row in rows)
    quick = list(few_shot.measure(Config(seconds=0.0, quick=True)))
    assert {row["K"] for row in quick} == {1}
    with pytest.raises(ValueError, match=r"inner_steps has 3; allowed are \[1, 5, 10\]"):
        list(few_shot.measure(Config(inner_steps=(3,))))


# A peer without torch: it answers with what it was told, and notes each request in a file.
FAKE = """
import json, sys
peer, sizes = sys.argv[1], json.loads(sys.argv[2])
if peer == "torchopt":
    import torchopt_that_is_missing
print(json.dumps({"versions": f"{peer} 1, {sizes['filters']} filters"}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if peer == "learn2learn":
        print("out of memory", file=sys.stderr)
        sys.exit(3)
    print(json.dumps({"seconds": 0.5 * request["inner_steps"]}), flush=True)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    path = tmp_path / "fake.py"
    path.write_text(FAKE)
    monkeypatch.setattr(few_shot, "_PEER_PROGRAM", path)
    return path


def test_peers_take_turns_or_say_what_they_lack(tiny, fake, monkeypatch):
    monkeypatch.setattr(few_shot, "compile_case", instant)
    started = []
    start = few_shot.start_peers

    def watched(*arguments):
        started.append(start(*arguments))
        return started[0]

    monkeypatch.setattr(few_shot, "start_peers", watched)
    measured = few_shot.measure(Config(peers=sys.executable, seconds=0.0, rounds=2))
    rows = list(itertools.islice(measured, 9))
    notes = {row["method"]: row["note"] for row in rows}
    assert notes["torch-func"] == "torch-func 1, 2 filters"
    assert notes["torchopt"] == "ModuleNotFoundError: No module named 'torchopt_that_is_missing'"
    assert notes["learn2learn"] == "out of memory"
    rates = {row["method"]: row["meta_steps_per_second"] for row in rows[6:]}
    assert rates == {"torch-func": 2, "torchopt": None, "learn2learn": None}
    ratio = 0.5 * rows[0]["meta_steps_per_second"]
    assert rows[0]["over_fastest_peer"] == pytest.approx(ratio)
    processes = [peer._process for peer in started[0].values()]
    assert processes[0].poll() is None
    measured.close()  # as an interruption does
    assert all(process.poll() is not None for process in processes)


@pytest.mark.parametrize("code, note", [
    ("print('hello')", "answered 'hello'"),
    ("import sys; sys.exit(4)", "ended with exit code 4"),
    ("raise ValueError('so it is')", "ValueError: so it is"),
])  # fmt: skip
def test_a_program_that_is_no_peer(code, note):
    with contextlib.closing(Peer([sys.executable, "-c", code])) as peer:
        peer.wait_until_ready()
        assert peer.failed and peer.note == note
        assert peer.ask(inner_steps=1, seconds=0.0) is None


def test_a_peer_ends_with_its_input():
    code = 'import sys; print(\'{"versions": "1"}\', flush=True); sys.stdin.read()'
    with contextlib.closing(Peer([sys.executable, "-c", code])) as peer:
        peer.wait_until_ready()
        assert peer.note == "1" and not peer.failed
        peer._process.stdin.close()
        assert peer._process.wait(60) == 0


def test_a_missing_interpreter_is_an_error_of_one_line(tiny, capsys):
    assert cli.run(["benchmark", "few-shot", "--peers", "/no/such/python"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "peers is '/no/such/python'" in line and "torchopt" in line


def test_the_peers_program_imports_nothing_of_ours():
    modules = imported_modules(few_shot._PEER_PROGRAM.read_text())
    assert "torch" in modules and not [name for name in modules if name.startswith("bmg")]
    assert set(few_shot.PEERS) >= {"torchopt", "learn2learn"}
