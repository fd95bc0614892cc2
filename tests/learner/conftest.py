"""Compiling is most of the time here: these small programs need no optimised code."""

import pytest

from tests.learner import fakes


@pytest.fixture(scope="module", autouse=True)
def small_programs(quick_compilation):
    """In every test here."""


@pytest.fixture(scope="session")
def agent():
    """The small agent on one device, compiled once."""
    return fakes.make_agent()
