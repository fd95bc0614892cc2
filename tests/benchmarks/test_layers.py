"""The benchmark of convolutions measures each way in each kind of memory."""

from __future__ import annotations

import itertools

import numpy as np

from bmg.benchmarks import layers


def test_every_way_is_measured_in_both_kinds_of_memory():
    rows = list(layers.measure(layers.Config(torsos=("shallow",), unrolls=1, turns=1)))
    found = [(row["memory"], row["torso"], row["way"]) for row in rows]
    ways = ("strides", "space to depth")
    assert found == list(itertools.product(("fetched", "kept"), ("shallow",), ways))
    for row in rows:
        assert row["frames"] == 21
        for name in ("forward", "gradient", "derivative_of_gradient"):
            assert 0 < row[f"{name}_ms"] < np.inf
