"""Who gets which of a host's devices."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import pytest

from bmg.learner.config import DevicesConfig
from bmg.learner.placement import place, split
from tests.learner import fakes


@pytest.mark.parametrize(
    ("config", "there", "central_inference", "expected"),
    [
        (DevicesConfig(), 8, True, (6, 2)),  # the paper's
        (DevicesConfig(), 8, False, (8, 0)),
        (DevicesConfig(), 4, True, (3, 1)),
        (DevicesConfig(), 2, True, (1, 1)),
        (DevicesConfig(), 1, True, (1, 1)),  # the same one
        (DevicesConfig(), 1, False, (1, 0)),
        (DevicesConfig(learner=6), 8, True, (6, 2)),
        (DevicesConfig(learner=4), 8, True, (4, 4)),
        (DevicesConfig(learner=3), 8, False, (3, 0)),
        (DevicesConfig(inference=1), 8, True, (7, 1)),
        (DevicesConfig(learner=2, inference=3), 8, True, (2, 3)),
        (DevicesConfig(learner=1, inference=1), 1, True, (1, 1)),
    ],
)
def test_devices_are_shared_out(config, there, central_inference, expected):
    assert split(config, there, "cpu", central_inference) == expected


@pytest.mark.parametrize(
    ("config", "there", "central_inference", "words"),
    [
        (DevicesConfig(learner=9), 8, False, ["9 devices", "8 there (tpu)", "--devices.learner"]),
        (DevicesConfig(learner=8), 8, True, ["8 devices", "1 for inference", "8 there"]),
        (DevicesConfig(inference=8), 8, True, ["8 for inference", "--devices.inference"]),
        (DevicesConfig(learner=7, inference=2), 8, True, ["7 devices", "2 for inference"]),
        (DevicesConfig(learner=2), 1, True, ["2 devices", "1 there"]),
        (DevicesConfig(inference=1), 8, False, ["--actors.inference server"]),
    ],
)
def test_what_cannot_be_had_is_refused(config, there, central_inference, words):
    with pytest.raises(ValueError) as caught:
        split(config, there, "tpu", central_inference)
    text = fakes.one_line(caught.value)
    assert all(word in text for word in words), text


def test_the_first_devices_learn_and_the_next_ones_act():
    assert len(jax.devices()) == 8, "tests/conftest.py forces eight"
    assert place(DevicesConfig(), "", central_inference=True) == (
        jax.devices()[:6],
        jax.devices()[6:],
    )
    assert place(DevicesConfig(learner=3), "cpu", central_inference=False) == (
        jax.devices()[:3],
        [],
    )


@pytest.mark.parametrize("platform", ["cuda", "abacus"])
def test_a_platform_that_is_not_there_is_refused(platform):
    with pytest.raises(ValueError) as caught:
        place(DevicesConfig(), platform, central_inference=False)
    text = fakes.one_line(caught.value)
    assert repr(platform) in text and "cpu" in text and "--learner.platform" in text


BROKEN = """
import sys
from jax._src import xla_bridge

def fails():
    raise RuntimeError("no memory is left")

xla_bridge.register_backend_factory("abacus", fails, priority=500, fail_quietly=False)
"""


def with_a_broken_accelerator(code: str, *arguments: str) -> tuple[int, str]:
    """The exit code and the last line of errors."""
    ended = subprocess.run(
        [sys.executable, "-c", BROKEN + code, *arguments],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"},
    )
    return ended.returncode, ended.stderr.strip().splitlines()[-1]


def test_the_cpu_does_not_stand_in_for_an_accelerator_that_cannot_be_used():
    code, last = with_a_broken_accelerator(
        "from bmg.learner.placement import local_devices; local_devices('')"
    )
    assert code and last.startswith("ValueError: Unable to initialize backend"), last
    assert "abacus" in last and "no memory is left" in last and "another process" in last


def test_an_experiment_says_in_one_line_that_an_accelerator_cannot_be_used(tmp_path):
    code, last = with_a_broken_accelerator(
        "from bmg.launch.cli import main; main()",
        *("two-colors", "--steps", "100", "--seeds", "1", "--workdir", str(tmp_path / "run")),
    )
    assert code == 2 and last.startswith("bmg: Unable to initialize backend"), last
    assert "abacus" in last and "no memory is left" in last
