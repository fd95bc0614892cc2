"""What is left of runs of lifetimes, whoever has written over it."""

from __future__ import annotations

import pytest

from launch.lifetimes import _is_complete


@pytest.mark.parametrize(
    ("content", "complete"),
    [
        (b'{"complete": true, "steps": 100}', True),
        (b'{"complete": true, "steps": 200}', False),
        (b'{"complete": false, "steps": 100}', False),
        (b'{"complete": "no", "steps": 100}', False),
        *((content, False) for content in (
            b"", b"[]", b'["complete", "steps"]', b"null", b"5", b'"complete"', b"{}", b"\xff\xfe",
            b'{"complete": true}', b"[" * 100_000,
        )),
    ],
)  # fmt: skip
def test_only_results_of_so_many_steps_are_complete(tmp_path, content, complete):
    assert _is_complete(tmp_path, 100) is False
    (tmp_path / "results.json").write_bytes(content)
    assert _is_complete(tmp_path, 100) is complete
