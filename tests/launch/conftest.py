"""The `bmg` command in the test's own process."""

import pytest

from tests.launch.commands import Command


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs in an empty folder; see `Command`."""
    return Command(monkeypatch, capsys, tmp_path)
