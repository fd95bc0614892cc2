"""What a meta-gradient of few-shot learning keeps in memory, as XLA lays it out."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from bmg.experiments.few_shot.adaptation import make_task_gradient
from tests.experiments.few_shot import oracle


def peak_bytes(inner_steps: int) -> int:
    config = dataclasses.replace(oracle.SMALL, objective="maml", inner_steps=inner_steps)
    compute = jax.jit(make_task_gradient(oracle.small_network(), config))
    lowered = compute.lower(oracle.some_params(), oracle.some_task(), jax.random.PRNGKey(0))
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.long
def test_four_steps_take_hardly_more_than_one():
    assert peak_bytes(4) < 1.5 * peak_bytes(1)
