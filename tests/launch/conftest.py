"""The `bmg` command in the test's own process."""

import os

import pytest

from tests.launch.commands import Command


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs in an empty folder; see `Command`. The environment is afterwards what it was before."""
    before = dict(os.environ)
    yield Command(monkeypatch, capsys, tmp_path)
    os.environ.clear()
    os.environ.update(before)
