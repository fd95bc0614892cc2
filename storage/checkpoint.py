"""Checkpoints: arrays and JSON in one file, written whole or not at all.

`checkpoints/checkpoint_0000001234.npz` holds every array of a run's state under its path in the
tree, and a JSON header (format, counters, the run's configuration). It is written under a
temporary name, synced and renamed, so a file with the final name is complete. What is read is
verified whole before it is parsed, and nothing in it is ever unpickled.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from bmg.storage import npz
from bmg.storage.fields import Mistake
from bmg.storage.files import whole_file

FORMAT = 1
_NAME = re.compile(r"checkpoint_([0-9]{10}|[1-9][0-9]{10,})\.npz")
_HEADER = "header"
_MOST_HEADER_BYTES = 2**20
NOTHING: Mapping[str, str] = MappingProxyType({})
_SHOWN = 80  # characters of a foreign value in a message


class CheckpointError(Mistake):
    """A checkpoint that cannot be used; the message is one line for the user.

    What is raised by a `template` or a `check` goes on from the file's name, which `load` adds.
    """


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    state: Any  # the tree given to `save`, numpy arrays
    header: dict[str, Any]
    number: int | None  # updates in the file's name; None where that is not one of `save`'s


Check = Callable[[Checkpoint], None]


def _named_leaves(state) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _number(path: pathlib.Path) -> int | None:
    match = _NAME.fullmatch(path.name)
    return match and int(match[1])


def shown(value) -> str:
    """A value of a foreign file, for a message: short, and without control characters."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def save(directory: pathlib.Path, updates: int, state, header: dict, keep: int) -> pathlib.Path:
    """Writes a checkpoint and removes all but the newest `keep`.

    A run that fell back to an older checkpoint counts up from there: files of later updates are
    left over from what it gave up, and are put aside under another name.

    Args:
      directory: created if missing.
      updates: updates (or steps) so far; part of the name.
      state: a tree of arrays.
      header: JSON values; a megabyte of text at most.
      keep: how many newest checkpoints to leave, at least 1.

    Returns:
      The file.

    Raises:
      ValueError: `updates`, `header` or `keep` out of range; nothing was written.
      OSError: where it could not be written (a full disk); earlier checkpoints are untouched.
    """
    if keep < 1 or updates < 0:
        raise ValueError(f"keep {keep}, updates {updates}: give at least 1 and at least 0.")
    archive = _archive(state, header)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"checkpoint_{updates:010d}.npz"
    if path.is_dir() and not path.is_symlink():  # no file could take its name
        _put_aside(path)
    with whole_file(path) as file:
        file.write(archive)
    complete = list_checkpoints(directory)
    for left_over in [other for other in complete if _number(other) > updates]:
        _put_aside(left_over)
    older = [other for other in complete if _number(other) < updates]
    for old in older[: max(len(older) - (keep - 1), 0)]:
        old.unlink(missing_ok=True)
    return path


def write(path: pathlib.Path, state, header: dict) -> None:
    """Writes arrays and JSON to a file of any name, for `load`.

    Args:
      path: the file; its folder is created if missing.
      state: a tree of arrays.
      header: JSON values; a megabyte of text at most.

    Raises:
      ValueError: the header is too long.
      OSError: it could not be written.
    """
    archive = _archive(state, header)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(archive)


def _archive(state, header: dict) -> bytes:
    text = json.dumps({"format": FORMAT, **header}).encode()
    if len(text) > _MOST_HEADER_BYTES:
        raise ValueError(f"a header of {len(text)} bytes; give at most {_MOST_HEADER_BYTES}.")
    arrays = {name: np.asarray(leaf) for name, leaf in _named_leaves(state).items()}
    arrays = {name: array.view(_stored(array.dtype)) for name, array in arrays.items()}
    arrays[_HEADER] = np.frombuffer(text, np.uint8)
    return npz.packed(arrays)


def _put_aside(path: pathlib.Path) -> None:
    """Gives it a name that nothing has yet."""
    for number in itertools.count():
        aside = path.with_name(f"{path.name}.abandoned{f'.{number}' if number else ''}")
        if not os.path.lexists(aside):
            path.rename(aside)
            return


def list_checkpoints(directory: pathlib.Path) -> list[pathlib.Path]:
    """Complete checkpoints, oldest first: files alone, whatever else has such a name."""
    found = directory.glob("checkpoint_*.npz")
    return sorted((path for path in found if _NAME.fullmatch(path.name) and path.is_file()),
                  key=_number)  # fmt: skip


def load(
    path: pathlib.Path,
    template,
    identity: dict[str, Any] | None = None,
    check: Check | None = None,
    former: Mapping[str, str] = NOTHING,
    remedy: str = "remove it to use an earlier one",
) -> Checkpoint:
    """Reads a checkpoint into the structure of `template`.

    Args:
      path: the file.
      template: a tree of arrays (or shapes) that the checkpoint must match, or a function of the
        header that gives it.
      identity: what must stand in its header of the run that it belongs to; None for anything.
      check: refuses what the caller cannot use, with a CheckpointError.
      former: beginnings of arrays' paths in older checkpoints -> what they are now.
      remedy: what the user can do about a damaged file.

    Raises:
      CheckpointError: truncated, damaged, or of another agent or run; one line.
    """
    try:
        found = _load(path, template, identity or {}, former)
        if check is not None:
            check(found)
        return found
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error
    except Exception as error:  # there is no end to what a foreign file makes libraries raise
        raise CheckpointError(
            f"{path} is truncated, damaged or no checkpoint ({type(error).__name__}); {remedy}."
        ) from error


def _load(
    path: pathlib.Path, template, identity: dict[str, Any], former: Mapping[str, str]
) -> Checkpoint:
    try:
        file = open(path, "rb")  # noqa: SIM115 - with another error than what is in it
    except OSError as error:
        raise CheckpointError(f"cannot be opened: {error.strerror}.") from error
    with file, zipfile.ZipFile(file) as archive:
        members = npz.members(archive)
        header = _read_header(archive, members.pop(_HEADER), identity)
        if callable(template):
            template = template(header)
        expected = _named_leaves(template)
        if members.keys() != expected.keys():
            members = {_renamed(name, former): member for name, member in members.items()}
        arrays = _read_arrays(archive, members, expected)
    return Checkpoint(
        jax.tree.unflatten(jax.tree.structure(template), arrays), header, _number(path)
    )


def _renamed(name: str, former: Mapping[str, str]) -> str:
    for then, now in former.items():
        if name.startswith(then):
            return now + name.removeprefix(then)
    return name


def _read_header(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, identity: dict[str, Any]
) -> dict[str, Any]:
    """The header, which must be of this format and of that run."""
    if member.file_size > npz.MOST_HEAD_BYTES + _MOST_HEADER_BYTES:
        raise CheckpointError(f"has a header of {member.file_size} bytes; it is no checkpoint.")
    header = json.loads(bytes(npz.read(archive, member)))
    if not isinstance(header, dict) or not isinstance(header.get("identity", {}), dict):
        raise CheckpointError(f"has the header {shown(header)}; it is no checkpoint.")
    if type(header.get("format")) is not int or header["format"] != FORMAT:
        raise CheckpointError(f"has format {shown(header.get('format'))}; this is format {FORMAT}.")
    theirs = header.get("identity", {})
    for name, value in identity.items():
        if name in theirs and theirs[name] != value:
            raise CheckpointError(
                f"is of another run: {name} was {shown(theirs[name])}, not {value!r}."
            )
    return header


def _read_arrays(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], expected: dict[str, Any]
) -> list[np.ndarray]:
    """The arrays, which must be the expected ones; none is read that is larger."""
    wrong = sorted(expected.keys() ^ members.keys()) or [
        name for name, leaf in expected.items() if members[name].file_size > _most_bytes(leaf)
    ]
    arrays = {} if wrong else {name: npz.read(archive, members[name]) for name in expected}
    wrong = wrong or [
        name
        for name, leaf in expected.items()
        if (tuple(leaf.shape), _stored(leaf.dtype)) != (arrays[name].shape, arrays[name].dtype)
    ]
    if wrong:
        raise CheckpointError(
            f"is of another agent: {len(wrong)} arrays differ, the first is {shown(wrong[0])}; "
            "use the configuration it was made with."
        )
    return [arrays[name].view(leaf.dtype) for name, leaf in expected.items()]


def _stored(dtype: np.dtype) -> np.dtype:
    """The type under which numpy's format has an array: JAX's own (bfloat16) it does not know."""
    return np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype


def _most_bytes(leaf) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize + npz.MOST_HEAD_BYTES


def check_finite(state) -> None:
    """Refuses numbers that are not finite: for `check`.

    Raises:
      CheckpointError: naming the first such array.
    """
    for name, leaf in _named_leaves(state).items():
        if np.issubdtype(leaf.dtype, np.inexact) and not np.isfinite(leaf).all():
            raise CheckpointError(
                f"holds numbers that are not finite, in {shown(name)}; remove it to use an earlier "
                "one."
            )


def load_newest(
    directory: pathlib.Path,
    template,
    identity: dict[str, Any] | None = None,
    check: Check | None = None,
    former: Mapping[str, str] = NOTHING,
) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that can be used, and a line for each newer one that could not; see
    `load`.

    Raises:
      CheckpointError: none there, or none usable.
    """
    problems: list[str] = []
    for path in reversed(list_checkpoints(directory)):
        try:
            return load(path, template, identity, check, former), problems
        except CheckpointError as error:
            problems.append(str(error))
    raise CheckpointError(problems[0] if problems else f"no checkpoint in {directory} to use.")
