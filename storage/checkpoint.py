"""Checkpoints: arrays and JSON in one file, written whole or not at all.

`checkpoints/checkpoint_0000001234.npz` holds every array of a run's state under its path in the
tree, and a JSON header (format, counters, the run's configuration). It is written under a
temporary name, synced and renamed, so a file with the final name is complete; nothing in it is
ever unpickled.
"""

from __future__ import annotations

import json
import pathlib
import zipfile
from typing import Any, NamedTuple

import jax
import numpy as np

from storage.files import whole_file

FORMAT = 1
# What reading a truncated or foreign file may raise.
_UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, RuntimeError,
    zipfile.BadZipFile,
)  # fmt: skip
_HEADER = "header"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line for the user."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    state: Any  # the tree given to `save`, numpy arrays
    header: dict[str, Any]


def _named_leaves(state) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def save(directory: pathlib.Path, updates: int, state, header: dict, keep: int) -> pathlib.Path:
    """Writes a checkpoint and removes all but the newest `keep`.

    A run that fell back to an older checkpoint counts up from there: files of later updates are
    left over from what it gave up, and are put aside under another name.

    Args:
      directory: created if missing.
      updates: updates (or steps) so far; part of the name.
      state: a tree of arrays.
      header: JSON values.
      keep: how many newest checkpoints to leave.

    Returns:
      The file.

    Raises:
      OSError: where it could not be written (a full disk); earlier checkpoints are untouched.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"checkpoint_{updates:010d}.npz"
    arrays = {name: np.asarray(leaf) for name, leaf in _named_leaves(state).items()}
    text = json.dumps({"format": FORMAT, **header})
    arrays[_HEADER] = np.frombuffer(text.encode(), np.uint8)
    with whole_file(path) as file:
        np.savez(file, **arrays)
    complete = list_checkpoints(directory)
    position = complete.index(path) + 1
    for left_over in complete[position:]:
        left_over.rename(left_over.with_name(left_over.name + ".abandoned"))
    for old in complete[:position][:-keep]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(directory: pathlib.Path) -> list[pathlib.Path]:
    """Complete checkpoints, oldest first."""
    return sorted(directory.glob("checkpoint_*.npz"), key=lambda path: (len(path.name), path.name))


def load(path: pathlib.Path, template, identity: dict[str, Any] | None = None) -> Checkpoint:
    """Reads a checkpoint into the structure of `template`.

    Args:
      path: the file.
      template: a tree of arrays (or shapes) that the checkpoint must match, or a function of the
        header that gives it.
      identity: what must stand in its header of the run that it belongs to; None for anything.

    Raises:
      CheckpointError: truncated, or of another agent or run; one line.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = dict(json.loads(bytes(arrays.pop(_HEADER))))
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} is truncated or no checkpoint ({type(error).__name__}); remove it to use an "
            "earlier one."
        ) from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {header.get('format')}; this is format {FORMAT}.")
    if callable(template):
        template = template(header)
    expected = _named_leaves(template)
    wrong = sorted(set(expected) ^ set(arrays)) or [
        name
        for name, leaf in expected.items()
        if (tuple(leaf.shape), leaf.dtype) != (arrays[name].shape, arrays[name].dtype)
    ]
    if wrong:
        raise CheckpointError(
            f"{path} is of another agent: {len(wrong)} arrays differ, the first is {wrong[0]}; "
            "use the configuration it was made with."
        )
    theirs = header.get("identity", {})
    for name, value in (identity or {}).items():
        if name in theirs and theirs[name] != value:
            raise CheckpointError(
                f"{path} is of another run: {name} was {theirs[name]!r}, not {value!r}."
            )
    treedef = jax.tree.structure(template)
    return Checkpoint(jax.tree.unflatten(treedef, [arrays[name] for name in expected]), header)


def load_newest(
    directory: pathlib.Path, template, identity: dict[str, Any] | None = None
) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that can be used, and a line for each newer one that could not; see
    `load`.

    Raises:
      CheckpointError: none there, or none usable.
    """
    problems: list[str] = []
    for path in reversed(list_checkpoints(directory)):
        try:
            return load(path, template, identity), problems
        except CheckpointError as error:
            problems.append(str(error))
    raise CheckpointError(problems[0] if problems else f"no checkpoint in {directory} to use.")
