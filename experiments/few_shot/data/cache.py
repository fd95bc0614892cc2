"""Images that were made or read once, kept in one file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bmg.experiments.few_shot.data.sets import SPLITS, DataSet, ImageSet
from bmg.storage import npz
from bmg.storage.files import reason, whole_file


def folder(given: str) -> pathlib.Path:
    """The folder of caches; the user's own where none is given."""
    if given:
        return pathlib.Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "bmg"


def kept(path: pathlib.Path, name: str, content: Any, make: Callable[[], DataSet]) -> DataSet:
    """What `make` gives, from the file of an earlier call where there is one.

    A file that cannot be read is made anew.

    Args:
      path: folder of the file, which need not exist.
      name: what the file's name begins with.
      content: JSON value that the images depend on: another one has another file.
      make: makes them.

    Raises:
      ValueError: the file cannot be written; one line. Likewise what `make` raises.
    """
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    file_path = path / f"{name}-{digest}.npz"
    # There is none, or it is damaged.
    with contextlib.suppress(
        OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error
    ):
        return _read(file_path)
    # A folder that cannot be had is refused before images are read for minutes.
    with _refusing(file_path):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    dataset = make()
    archive = npz.packed(_arrays(dataset))
    with _refusing(file_path), whole_file(file_path) as file:
        file.write(archive)
    return dataset


@contextlib.contextmanager
def _refusing(path: pathlib.Path) -> Iterator[None]:
    """Makes one line of an error of the system."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({reason(error)}); images are kept there for the next run: "
            "free some space, or give another folder for the cache."
        ) from None


def _arrays(dataset: DataSet) -> dict[str, np.ndarray]:
    return {
        f"{split}_{field}": np.asarray(value)
        for split, images in zip(SPLITS, dataset)
        for field, value in images._asdict().items()
    }


def _read(path: pathlib.Path) -> DataSet:
    with np.load(path, allow_pickle=False) as file:
        return DataSet(
            *(
                ImageSet(file[f"{split}_images"], tuple(map(str, file[f"{split}_names"])))
                for split in SPLITS
            )
        )
