"""Whatever has happened to a checkpoint's file: refused in one line, or read as it was written."""

from __future__ import annotations

import itertools
import json
import pathlib
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmg.storage import checkpoint
from bmg.storage.checkpoint import CheckpointError
from tests.learner import fakes
from tests.tables import named

# Nothing may be printed about a foreign file beside the one line.
pytestmark = pytest.mark.filterwarnings(
    # What other tests have left open may be collected here.
    "error",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
bounded = settings(max_examples=250)

STATE = {"w": np.float32([1.5, -2.0]), "n": np.int32(7)}
NAMES = [f"[{name!r}]" for name in STATE]
HEADER = {"updates": 3, "returns": [0.5]}
OLDER = {"w": np.float32([0.25, 4.0]), "n": np.int32(6)}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> pathlib.Path:
    return checkpoint.save(tmp_path_factory.mktemp("checkpoints"), 3, STATE, HEADER, keep=1)


@pytest.fixture(scope="module")
def content(path) -> bytes:
    return path.read_bytes()


def assert_one_line(text: str, path: pathlib.Path) -> None:
    """For a terminal: short, printable, and names the file."""
    assert str(path) in text and text.isprintable() and text.isascii()
    assert len(text) < len(str(path)) + 300


def is_refused(path: pathlib.Path) -> bool:
    """Whether it is; else it must hold what was saved."""
    try:
        found = checkpoint.load(path, STATE)
    except CheckpointError as error:
        assert_one_line(str(error), path)
        return True
    fakes.assert_same(found.state, STATE)
    assert found.header == {"format": checkpoint.FORMAT, **HEADER} and found.number == 3
    return False


def members_bytes(path: pathlib.Path) -> set[int]:
    """Positions of what the members hold, and of their names."""
    found: set[int] = set()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.header_offset + 30
            extra = 20  # which np.savez leaves for members of more than 4 GB
            start = name + len(info.filename) + extra
            found |= {*range(name, start - extra), *range(start, start + info.file_size)}
    return found


def test_every_single_bit(path, content):
    """The bits that nobody misses are times, owners and versions, which nothing reads."""
    inside = members_bytes(path)
    assert len(inside) > len(content) / 2
    missed = set()
    for position, bit in itertools.product(range(len(content)), range(8)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        if not is_refused(path):
            missed.add(position)
    assert missed and not missed & inside


@st.composite
def damage(draw, content: bytes) -> bytes:
    """The file after a few accidents."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["bit", "byte", "cut", "insert", "remove", "zeros", "move"]))
        at = draw(st.integers(0, max(len(damaged) - 1, 0)))
        end = at + draw(st.integers(1, 200))
        if kind in ("bit", "byte") and damaged:
            damaged[at] ^= (
                draw(st.integers(1, 255)) if kind == "byte" else 1 << draw(st.integers(0, 7))
            )
        elif kind == "cut":
            del damaged[at:]
        elif kind == "insert":
            damaged[at:at] = draw(st.binary(min_size=1, max_size=30))
        elif kind == "remove":
            del damaged[at:end]
        elif kind == "zeros":
            damaged[at:end] = bytes(len(damaged[at:end]))
        elif kind == "move":
            to = draw(st.integers(0, len(damaged)))
            damaged[to:to] = damaged[at:end]
    return bytes(damaged)


@bounded
@given(data=st.data())
def test_accidents(path, content, data):
    path.write_bytes(data.draw(damage(content)))
    is_refused(path)


@bounded
@given(data=st.data())
def test_the_newest_is_read_as_it_was_or_the_one_before(path, content, data):
    folder = path.parent / "two"
    checkpoint.save(folder, 2, OLDER, {**HEADER, "updates": 2}, keep=1)
    newer = folder / path.name
    newer.write_bytes(data.draw(damage(content)))
    found, problems = checkpoint.load_newest(folder, STATE)
    assert found.header["updates"] == found.number == 2 + (not problems)
    fakes.assert_same(found.state, OLDER if problems else STATE)
    assert len(problems) <= 1
    for problem in problems:
        assert_one_line(problem, newer)
    newer.unlink()


def npy(descr: str, shape: str, data: bytes, version: bytes = b"\x01\x00") -> bytes:
    """An array's file, of what it claims and what it holds."""
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(head)) + head + data


def write_archive(path: pathlib.Path, changes: dict[str, bytes | None], compression=0) -> None:
    """The checkpoint with other members; None leaves one out."""
    text = json.dumps({"format": checkpoint.FORMAT, **HEADER}).encode()
    members = {
        f"{NAMES[0]}.npy": npy("'<f4'", "(2,)", STATE["w"].tobytes()),
        f"{NAMES[1]}.npy": npy("'<i4'", "()", STATE["n"].tobytes()),
        "header.npy": npy("'|u1'", f"({len(text)},)", text),
        **changes,
    }
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, member in members.items():
            if member is not None:
                archive.writestr(name, member)


def test_what_the_tests_build_is_a_checkpoint(path):
    write_archive(path, {})
    assert not is_refused(path)


# Each is wrong for both arrays, whatever data follows.
WRONG_DESCR = [
    "'|O'", "'<O'", "'|V4'", "'>f4'", "'>i4'", "'<f8'", "'<U1'", "'|S4'", "'<M8[s]'", "'|b1'",
    "[('x', '<f4')]", "'<f4, <f4'", "'<f99'", "None", "open('x')", "'\x1b[2J'", "(" * 300,
    "-" * 9_000 + "1", "'\\d'", "1 is 1", "'<f4', 'descr': '<i4'",
]  # fmt: skip
WRONG_SHAPE = [
    "(3,)", "(0,)", "(2, 1)", "(1, 2)", "(-2,)", "2", "(2.0,)", "[2]", "(2", "(True,)", "None",
    "(10000000000,)", f"({2**62}, {2**62})", f"({10**30},)", f"({'9' * 5_000},)", f"(0, {10**30})",
    "(" + "1, " * 40 + ")",
]  # fmt: skip


@bounded
@given(
    name=st.sampled_from(NAMES),
    member=st.one_of(
        st.binary(max_size=300),
        st.builds(npy, st.sampled_from(WRONG_DESCR), st.sampled_from(["(2,)", "()"]),
                  st.sampled_from([b"", bytes(4), bytes(8), bytes(16), b"\xff" * 8])),
        st.builds(npy, st.sampled_from(["'<f4'", "'<i4'"]), st.sampled_from(WRONG_SHAPE),
                  st.sampled_from([b"", bytes(4), bytes(8), bytes(12)])),
        st.builds(npy, st.just("'<f4'"), st.just("(2,)"), st.binary(max_size=7)),
        st.builds(npy, st.just("'<f4'"), st.just("(2,)"), st.just(bytes(8)),
                  st.sampled_from([b"\x02\x00", b"\x03\x00", b"\x00\x00", b"\x01\x01"])),
    ),
)  # fmt: skip
def test_foreign_arrays(path, name, member):
    write_archive(path, {f"{name}.npy": member})
    assert is_refused(path)


@bounded
@given(
    name=st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=60),
    times=st.sampled_from([1, 100]),
)
def test_foreign_names(path, name, times):
    write_archive(path, {"x" + name * times: npy("'<f4'", "(2,)", bytes(8))})
    assert is_refused(path)


def test_members_that_are_missing_or_come_twice(path):
    for name in [f"{NAMES[0]}.npy", "header.npy"]:
        write_archive(path, {name: None})
        assert is_refused(path)
    write_archive(path, {NAMES[0]: npy("'<f4'", "(2,)", bytes(8))})
    assert is_refused(path)


def test_nothing_larger_than_expected_is_read(path):
    large = npy("'<f4'", "(10000000,)", bytes(40_000_000))
    cases = [
        ({f"{NAMES[0]}.npy": large}, zipfile.ZIP_STORED),
        ({f"{NAMES[0]}.npy": large}, zipfile.ZIP_DEFLATED),
        ({"header.npy": npy("'|u1'", "(40000000,)", b" " * 40_000_000)}, zipfile.ZIP_STORED),
        ({"header.npy": npy("'|u1'", "(40000000,)", b" " * 40_000_000)}, zipfile.ZIP_LZMA),
        ({"more.npy": large}, zipfile.ZIP_STORED),
    ]
    for changes, compression in cases:
        write_archive(path, changes, compression)
        tracemalloc.start()
        assert is_refused(path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 2_000_000, (changes.keys(), compression)


def test_members_that_share_their_bytes(path):
    """More in the directory than in the file: each entry is right by itself."""
    write_archive(path, {})
    with zipfile.ZipFile(path, "a") as archive:
        for _ in range(3):
            archive.filelist.append(archive.filelist[0])
        archive._didModify = True
    assert is_refused(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


def with_header(path: pathlib.Path, header: bytes) -> None:
    write_archive(path, {"header.npy": npy("'|u1'", f"({len(header)},)", header)})


@bounded
@given(
    header=json_values
    | st.dictionaries(st.sampled_from(["format", "identity", "updates"]), json_values)
    | st.builds(
        lambda identity, rest: {**rest, "format": 1, "identity": identity},
        json_values | st.just({"game": "pong"}) | st.fixed_dictionaries({"game": json_values}),
        st.dictionaries(st.text(max_size=9), json_values, max_size=3),
    )
)
def test_any_json_as_header(path, header):
    text = json.dumps(header)
    with_header(path, text.encode())
    try:
        found = checkpoint.load(path, STATE, {"game": "pong"})
    except CheckpointError as error:
        assert_one_line(str(error), path)
        return
    assert json.dumps(found.header) == text  # NaN is not equal to itself
    assert type(header["format"]) is int and header["format"] == checkpoint.FORMAT
    assert header.get("identity", {}).get("game", "pong") == "pong"


NO_HEADERS = [
    b"", b"\xff\xfe\x00", b"[" * 100_000, b'{"format": 1' + b"0" * 5_000 + b"}", b'{"format": ',
    b'[["format", 1]]', b'{"format": true}', b'{"format": 1.0}', b'{"format": "\\u001b[2J"}',
    b'{"format": "' + b"x" * 10_000 + b'"}', b'{"format": 1, "identity": null}',
    b'{"format": 1, "identity": {"game": "\\u202e\\n\\u001b]0;' + b"y" * 10_000 + b'"}}',
]  # fmt: skip


def test_no_header(path):
    for header in NO_HEADERS:
        with named(header):
            with_header(path, header)
            with pytest.raises(CheckpointError) as caught:
                checkpoint.load(path, STATE, {"game": "pong"})
            assert_one_line(str(caught.value), path)


def test_whatever_a_check_raises_is_a_reason(path, content):
    path.write_bytes(content)

    def check(found):
        raise KeyError("\x1b[2J")

    with pytest.raises(CheckpointError, match="KeyError") as caught:
        checkpoint.load(path, STATE, check=check)
    assert_one_line(str(caught.value), path)
