"""The example of the core alone: both meta-learners find what each input needs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.examples.loading import load

pytestmark = pytest.mark.usefixtures("quick_compilation")

example = load("step_sizes")


@pytest.mark.parametrize("name", ["ordinary", "bootstrapped"])
def test_the_inputs_get_step_sizes_of_their_own(name):
    loss, step_sizes = example.train(name)
    _, early = example.train(name, updates=20)
    assert loss < 1e-9
    assert np.all(np.diff(step_sizes) > 0), "the smaller an input, the larger its step size"
    # Below 2 / (mean square of the input) a coordinate's descent is stable.
    assert np.all(step_sizes * example.SCALES**2 < 2)
    assert np.ptp(np.log(early)) < 2 < np.ptp(np.log(step_sizes)), "they were alike at first"
