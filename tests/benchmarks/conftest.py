"""The `bmg` command, as the tests of `launch` have it."""

from tests.launch.conftest import command  # noqa: F401 - a fixture
