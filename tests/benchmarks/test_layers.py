"""The benchmark of convolutions measures each way in each kind of memory."""

from __future__ import annotations

import itertools

from bmg.benchmarks import layers


def test_every_way_is_measured_in_both_kinds_of_memory():
    rows = list(layers.measure(layers.Config(torsos=("shallow",), unrolls=1, turns=1)))
    found = [(row["memory"], row["torso"], row["way"]) for row in rows]
    ways = ("strides", "space to depth")
    assert found == list(itertools.product(("fetched", "kept"), ("shallow",), ways))
    for row in rows:
        assert row["frames"] == 21
        assert 0 < row["forward_ms"] < row["derivative_of_gradient_ms"]
