"""Checkpoints are tried on the learner's real state."""

from tests.learner.conftest import agent, small_programs  # noqa: F401
