"""`bmg benchmark accelerator`: its parts, their time, and what is written of them; on the CPU."""

from __future__ import annotations

import functools
import json
import math
import multiprocessing

import jax
import jax.numpy as jnp
import pytest

from bmg.agents import config as agents_config
from bmg.agents.config import AgentConfig, MetaConfig, NetworkConfig
from bmg.benchmarks import accelerator, learner
from bmg.benchmarks.accelerator import Config
from bmg.launch import cli

COLUMNS = [
    "part", "case", "rate", "unit", "tflops", "share_of_product", "peak_gb", "compile_seconds",
    "difference", "kept", "note",
]  # fmt: skip
PLENTY = lambda: math.inf  # noqa: E731 seconds left


@pytest.fixture
def small(monkeypatch):
    """Networks and frames that compile in seconds."""
    tiny = NetworkConfig(torso="mlp", features=8, head_hidden=())
    monkeypatch.setattr(learner, "NETWORKS", {"4x": tiny})
    alone = functools.partial(MetaConfig, auxiliary_tasks=0)
    monkeypatch.setattr(learner, "MetaConfig", alone)
    monkeypatch.setattr(learner, "FRAMES", {"light": (6, 6, 1), "paper": (7, 6, 3)})
    monkeypatch.setattr(learner, "_LENGTH", 3)
    monkeypatch.setattr(learner, "product_rate", lambda precision: 1e9)


@pytest.mark.usefixtures("quick_compilation", "small")
def test_updates_are_held_against_a_matrix_product():
    config = Config(seconds=0.0, horizons=(2,), frames=("light",))
    product, *rows = accelerator.learner_rows(config, PLENTY)
    assert product["rate"] == 1e9 / 1e12
    assert [row["case"].rpartition(", 4x")[0] for row in rows] == [
        "impala, K = 1", "bmg, K = 1, L = 1", "bmg, K = 1, L = 4", "stacx, K = 1",
        "bmg, K = 2, L = 1",
    ]  # fmt: skip
    for row in rows:
        assert list(row) == COLUMNS
        assert row["tflops"] == pytest.approx(row["share_of_product"] * 1e9 / 1e12)
    work = [row["tflops"] / row["rate"] for row in rows]
    assert work[0] < work[1] < work[2]


def test_what_is_counted_where_the_compiled_program_counts_nothing(monkeypatch):
    """Accelerators' convolutions and products are calls of a library."""
    x = jnp.ones((8, 16))
    product = lambda x: x @ x.T  # noqa: E731
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert learner.count_flops(None, product, x) == 2 * 8 * 8 * 16


@pytest.mark.heavy
@pytest.mark.usefixtures("quick_compilation")
def test_one_update_there_is_the_one_on_the_cpu(monkeypatch):
    """Here both are the CPU: alike in float32; in bfloat16 they differ, and not by much."""
    small = functools.partial(NetworkConfig, features=32, head_hidden=())
    alone = functools.partial(AgentConfig, meta=MetaConfig(auxiliary_tasks=0))
    monkeypatch.setattr(agents_config, "NetworkConfig", small)
    monkeypatch.setattr(agents_config, "AgentConfig", alone)
    monkeypatch.setattr(learner, "FRAMES", {"light": (40, 40, 1)})
    monkeypatch.setattr(learner, "_LENGTH", 3)
    allowed = accelerator._ALLOWED["bfloat16"]
    monkeypatch.setattr(accelerator, "_ALLOWED", {"float32": 0.0, "bfloat16": 1e-4})
    alike, other = [], []
    for row in accelerator._update_there_and_here(Config()):
        (alike if "float32" in row["case"] else other).append(row)
    assert len(alike) == len(other) == 3
    assert all(row["kept"] and row["difference"] == 0 for row in alike)
    assert all(not row["kept"] and 1e-3 < row["difference"] < allowed for row in other)


@pytest.mark.long
def test_a_part_runs_in_a_process_of_its_own(tmp_path, capsys):
    """A row for each case, and tables of them."""
    options = ["--parts", "experiments", "--quick", "--seconds", "0.1", "--output", str(tmp_path)]
    assert cli.run(["benchmark", "accelerator", *options, "--seeds", "3"]) == 0
    (row,) = json.loads((tmp_path / "accelerator.json").read_text())
    assert list(row) == COLUMNS and row["rate"] > 0 and "3 seeds" in row["case"]
    assert "| two colours, BMG, L = 7, 3 seeds |" in (tmp_path / "accelerator.md").read_text()
    assert "two colours" in capsys.readouterr().out


def test_what_no_time_is_left_for_is_named(tmp_path):
    """Whatever a part does at that moment, such as compile."""
    config = Config(parts=("experiments", "correctness"), minutes=1e-6, output=str(tmp_path))
    rows = list(accelerator.measure(config))
    assert [row["part"] for row in rows] == ["experiments", "correctness"]
    assert all(row["note"] == "no time left" and row["rate"] is None for row in rows)
    assert json.loads((tmp_path / "accelerator.json").read_text()) == rows


def test_a_part_that_fails_leaves_the_others(monkeypatch):
    """In one line, and it counts as not kept."""

    def fails(config, left):
        yield accelerator.row("learner", "first", 1.0)
        raise ValueError("out of\nluck")

    monkeypatch.setattr(accelerator, "_PARTS", {"learner": fails})
    receiver, sender = multiprocessing.Pipe(duplex=False)
    accelerator._run("learner", Config(), 1.0, sender)
    sent = [receiver.recv(), receiver.recv()]
    with pytest.raises(EOFError):
        receiver.recv()
    assert [row["case"] for row in sent] == ["first", "the rest"]
    assert sent[1]["note"] == "ValueError: out of luck" and sent[1]["kept"] is False
