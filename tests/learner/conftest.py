"""Compiling is most of the time here: these small programs need no optimised code."""

import jax
import pytest

from tests.learner import fakes


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Leaves out the compiler's costly passes; the arithmetic is the same."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def agent():
    """The small agent on one device, compiled once."""
    return fakes.make_agent()
