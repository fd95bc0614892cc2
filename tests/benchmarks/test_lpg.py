"""`bmg benchmark lpg`: what is measured, and what is told of it."""

from __future__ import annotations

import dataclasses

import pytest

from bmg.benchmarks import lpg
from bmg.benchmarks.lpg import Config


def test_the_work_is_that_of_the_papers_agents():
    found = lpg.cases(Config())
    assert lpg.steps_of(found["dense, K = 5"]) == 16 * 64 * 20 * 5
    assert lpg.steps_of(found["dense, K = 20"]) == 16 * 64 * 20 * 20
    assert len(found["nine worlds, K = 5"].worlds) == 9
    # 256 x 1,024 products: forwards, 4 of 5 again, and twice backwards.
    assert lpg.lstm_flops(found["dense, K = 5"]) == round(2 * 256 * 1024 * 3.8)


@pytest.mark.heavy
@pytest.mark.usefixtures("quick_compilation")
def test_the_rows(monkeypatch):
    monkeypatch.setattr(lpg, "product_rate", lambda precision: 1e9)
    small = {
        name: dataclasses.replace(case, inner_steps=1, environments=2, rollout_length=3)
        for name, case in lpg.cases(Config(quick=True, lifetimes=1, units=4)).items()
    }
    monkeypatch.setattr(lpg, "cases", lambda config: small)
    first, mixed = lpg.measure(Config(quick=True))
    assert (first["case"], mixed["case"]) == ("dense, K = 5", "nine worlds, K = 5")
    assert first["rate_over_first"] == first["temporary_over_first"] == 1
    expected = first["steps_per_second"] * 2 * 4 * 16 * 3 / 1e9
    assert 1 / first["time_over_products"] == pytest.approx(expected, rel=1e-2)
    assert mixed["temporary_bytes"] > first["temporary_bytes"] > 0
