"""Rows of metrics: what is one, and which of them count."""

from __future__ import annotations

import json

import pytest

from bmg.storage.rows import in_force, parse_row, read_rows
from tests.tables import named

NO_ROWS = [
    b"", b"5", b"[]", b"null", b"true", b'"frames"', b"{}", b"{", b'{"frames": 40', b"\xff\xfe",
    b'{"a/b": 1.0}', b'{"frames": "40"}', b'{"frames": true}', b'{"frames": null}',
    b'{"frames": [40]}', b'{"frames": NaN}', b'{"frames": 1e999}', b'{"frames": -Infinity}',
    b'{"frames": 1' + b"0" * 400 + b"}", b'{"frames": ' + b"9" * 5_000 + b"}",
    b"[" * 100_000, b'{"frames": ' + b"[" * 100_000, b'{"frames": 40, "\xff": 1}',
    b'{"frames": 40} {"frames": 80}', "{\"frames\": 40}".encode("utf-16"),
]  # fmt: skip


def test_what_is_no_row(tmp_path):
    for line in NO_ROWS:
        with named(line):
            assert parse_row(line) is None
            good = b'{"frames": 40}\n'
            (tmp_path / "metrics.jsonl").write_bytes(good + line + b"\n" + good)
            assert read_rows(tmp_path / "metrics.jsonl") == [{"frames": 40}] * 2


def test_values_are_finite_numbers_or_left_out():
    row = {
        "frames": 40.5, "a": -1, "b": 1e-300, "text": "1", "flag": False, "none": None,
        "list": [1.0], "map": {"x": 1}, "nan": float("nan"), "huge": 10**400, "inf": float("inf"),
    }  # fmt: skip
    assert parse_row(json.dumps(row)) == {"frames": 40.5, "a": -1, "b": 1e-300}
    assert parse_row(b' {"frames": 0, "\xc3\xa4": 2}\r\n') == {"frames": 0, "ä": 2}


def session(frames):
    return {"frames": frames, "session": 2}


def learner(frames):
    return {"frames": frames, "learner/frames": frames}


def evaluation(frames):
    return {"frames": frames, "evaluation/return": 1.0}


SESSIONS = [
    ([learner(40), evaluation(40), learner(80)], "yyy"),
    ([learner(40), learner(80), session(40), learner(80)], "ynyy"),
    ([learner(40), learner(80), session(80), learner(120)], "yyyy"),
    ([learner(40), evaluation(40), session(0), session(0)], "nnyy"),
    # An evaluation may come after the row of a learner that has gone on meanwhile.
    ([learner(40), learner(80), evaluation(40), learner(120)], "yyyy"),
    ([learner(40), evaluation(80), session(60), evaluation(70), session(50)], "ynnny"),
    # What was abandoned once stays so, though the run has gone beyond it.
    ([learner(90), session(40), learner(80), learner(120), session(100)], "nyyny"),
    # Without a row that marks the session.
    ([learner(40), learner(80), evaluation(80), learner(60), learner(80)], "ynnyy"),
    ([learner(40), evaluation(40), learner(80), learner(40), learner(80)], "nnnyy"),
    ([learner(40), None, learner(80), None, session(20)], "nynyy"),
    ([], ""),
]


def test_which_rows_count(tmp_path):
    for rows, counts in SESSIONS:
        with named(counts):
            assert in_force(rows) == [letter == "y" for letter in counts]
            path = tmp_path / "metrics.jsonl"
            path.write_text("\n".join("{" if row is None else json.dumps(row) for row in rows))
            expected = [row for row, letter in zip(rows, counts) if row and letter == "y"]
            assert read_rows(path) == expected


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "metrics.jsonl")
