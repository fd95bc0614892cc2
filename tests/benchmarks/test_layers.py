"""The benchmark of layers measures each way in each precision and each kind of memory."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from bmg.benchmarks import layers


def test_every_way_is_measured_in_both_precisions_and_kinds_of_memory():
    config = layers.Config(layers=("shallow", "pooling"), unrolls=1, turns=1)
    rows = list(layers.measure(config))
    found = [(row["memory"], row["precision"], row["layers"], row["way"]) for row in rows]
    ways = [
        ("shallow", "strides"), ("shallow", "space to depth"),
        ("pooling", "select and scatter"), ("pooling", "masks"),
    ]  # fmt: skip
    expected = itertools.product(("fetched", "kept"), ("float32", "bfloat16"), ways)
    assert found == [(memory, precision, *way) for memory, precision, way in expected]
    for row in rows:
        assert row["frames"] == 21
        for name in ("forward", "gradient", "derivative_of_gradient"):
            assert 0 < row[f"{name}_ms"] < np.inf


def test_rows_come_one_by_one(command, monkeypatch):
    """What is stopped shows what it has measured."""
    endless = 'import time; print(\'{"layers": "dqn"}\', flush=True); time.sleep(600)'
    monkeypatch.setattr(layers, "_PROGRAM", endless)
    measured = layers.measure(layers.Config())
    row = next(measured)
    assert row == {"memory": "fetched", "layers": "dqn"}
    measured.close()  # as an interruption does; the process is not waited for

    def stopped(config):
        yield row
        raise KeyboardInterrupt

    monkeypatch.setattr(layers, "measure", stopped)
    code, out, err = command("benchmark", "layers", "--quick")
    assert code == 130 and err == "" and "stopped; measured so far" in out and "dqn" in out


@pytest.mark.usefixtures("quick_compilation")
def test_all_ways_compute_the_same():
    """And the same derivatives: what is compared is their time alone."""
    rng = np.random.default_rng(0)
    for name, (shapes, ways) in layers._WAYS.items():
        channels = 16 if name == "pooling" else 4
        x = rng.random((2, 84, 84, channels)).astype(np.float32)
        weights = [rng.normal(size=shape).astype(np.float32) / 10 for shape in shapes]
        one, other = (results(way, weights, x) for way in ways.values())
        for kind, expected in other.items():
            assert len(expected) == (1 if kind == "forward" else len(weights))
            for a, b in zip(one[kind], expected):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())


def results(way, weights, x) -> dict[str, list[np.ndarray]]:
    """Of all functions of a way, in one program."""
    functions = layers._functions(way, "float32")
    compute = jax.jit(lambda *given: {kind: f(*given) for kind, f in functions.items()})
    return {kind: jax.tree.map(np.asarray, jax.tree.leaves(tree))
            for kind, tree in compute(weights, x).items()}  # fmt: skip
