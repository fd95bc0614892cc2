"""Checkpoints are tried on the learner's real state."""

from tests.learner.conftest import agent, quick_compilation  # noqa: F401
