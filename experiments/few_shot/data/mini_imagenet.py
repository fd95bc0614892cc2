"""MiniImagenet, from a folder that the user has. ImageNet's licence lets nobody pass it on.

Two formats are known:

    mini-imagenet-cache-{train,val,test}.pkl   Ren et al.'s; learn2learn names one "validation"
    {train,val,test}.csv and images/           Ravi and Larochelle's: filename,label
"""

from __future__ import annotations

import csv
import functools
import pathlib
import pickle
from typing import Any

import numpy as np

from bmg.experiments.few_shot.data import cache, classes, folder, pictures
from bmg.experiments.few_shot.data.config import DataConfig
from bmg.experiments.few_shot.data.pictures import Report
from bmg.experiments.few_shot.data.sets import DataSet, ImageSet, check_disjoint
from bmg.storage.fields import shown

# Names of the splits in both formats, in the order of `SPLITS`.
_NAMES = (("train",), ("val", "validation"), ("test",))
_SIZES = [(64, 600), (16, 600), (20, 600)]  # classes and images of each, in the same order
_PICKLED_SIZE = 84
_CHANNELS = 3


def load(config: DataConfig, report: Report) -> DataSet:
    """Reads it.

    Raises:
      ValueError: no such folder, or what is in it is no MiniImagenet; one line.
    """
    path = pathlib.Path(config.path)
    if all(pickles := [_first(path, names, "mini-imagenet-cache-{}.pkl") for names in _NAMES]):
        if config.pixels != _PICKLED_SIZE:
            raise ValueError(
                f"image_size is {config.pixels}, but {pickles[0]} holds images of {_PICKLED_SIZE} "
                f"x {_PICKLED_SIZE} pixels; leave it out, or give a folder of the csv format."
            )
        dataset = DataSet(*(_unpickled(each, config.seed, report) for each in pickles))
        check_disjoint(dataset)
        return _counted(dataset, report)
    if all(tables := [_first(path, names, "{}.csv") for names in _NAMES]):
        return _counted(_from_tables(tables, config, report), report)
    there = ", ".join(each.name for each in (*pickles, *tables) if each)
    raise ValueError(
        f"{path} holds no MiniImagenet ({f'only {there}' if there else 'nothing of it'}); expected "
        "are mini-imagenet-cache-train.pkl, -val.pkl and -test.pkl, or train.csv, val.csv, "
        "test.csv and images/."
    )


def _counted(dataset: DataSet, report: Report) -> DataSet:
    """Reports where it is not all of MiniImagenet; results do not compare with published ones."""
    sizes = [each.images.shape[:2] for each in dataset]
    if sizes != _SIZES:
        counts = [" / ".join(map(str, of_all)) for of_all in zip(*sizes)]
        report(
            f"images: classes in training / validation / test are {counts[0]} with {counts[1]} "
            "images each; MiniImagenet has 64 / 16 / 20 with 600 images each"
        )
    return dataset


def _first(path: pathlib.Path, names: tuple[str, ...], form: str) -> pathlib.Path | None:
    paths = [path / form.format(name) for name in names]
    return next((each for each in paths if each.is_file()), None)


def _refuse(path: pathlib.Path, problem: str) -> ValueError:
    return ValueError(f"{path} {problem}; get the file anew.")


def _unpickled(path: pathlib.Path, seed: int, report: Report) -> ImageSet:
    """One split of the pickled format."""
    report(f"images: reading {path}")
    content = read_pickle(path)
    images = content.get("image_data") if isinstance(content, dict) else None
    members = content.get("class_dict") if isinstance(content, dict) else None
    if not (isinstance(images, np.ndarray) and isinstance(members, dict) and members):
        raise _refuse(path, "has no image_data and class_dict, as the format has them")
    shape = (_PICKLED_SIZE, _PICKLED_SIZE, _CHANNELS)
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise _refuse(
            path,
            f"holds images of {images.dtype} {list(images.shape[1:])}; allowed are uint8 "
            f"{list(shape)}",
        )
    indices = {_text(name): _indices(path, name, x, len(images)) for name, x in members.items()}
    if sum(map(len, indices.values())) != len({i for x in indices.values() for i in x}):
        raise _refuse(path, "has an image that is in its class_dict twice")
    indices = classes.equal_numbers(indices, seed, str(path), report)
    chosen = np.array(list(indices.values()))
    # As the files are written, class after class: nothing is copied.
    if chosen.size == len(images) and (chosen.ravel() == np.arange(chosen.size)).all():
        return ImageSet(images.reshape(*chosen.shape, *shape), tuple(indices))
    return ImageSet(images[chosen], tuple(indices))


def _indices(path: pathlib.Path, name: Any, indices: Any, count: int) -> list[int]:
    whole = (
        isinstance(indices, (list, tuple, np.ndarray))
        and np.ndim(indices) == 1
        and all(isinstance(i, (int, np.integer)) and 0 <= i < count for i in indices)
    )
    if not whole or not len(indices):
        raise _refuse(path, f"has a class {shown(_text(name))} whose images are not in it")
    return [int(i) for i in indices]


def _text(name: Any) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


def _latin1(text: str, encoding: str) -> bytes:
    """How bytes are written by Python 2, or by pickle's protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the encoding {shown(encoding)}")
    return text.encode("latin1")


@functools.cache
def _allowed() -> dict[tuple[str, str], Any]:
    """What arrays are pickled with, by the names that NumPy has had for it."""
    reconstruct = np.zeros(1).__reduce__()[0]
    from_buffer = np.zeros(1).__reduce_ex__(5)[0]
    scalar = np.float64(0).__reduce__()[0]
    allowed = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
    }
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = reconstruct
        allowed[f"{core}.multiarray", "scalar"] = scalar
        allowed[f"{core}.numeric", "_frombuffer"] = from_buffer
    return allowed


class _ArraysOnly(pickle.Unpickler):
    """Dictionaries, lists, texts, numbers and arrays: a pickle of anything else may run any
    program."""

    def find_class(self, module: str, name: str) -> Any:
        """Called for whatever is not built into the format."""
        found = _allowed().get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return found


def read_pickle(path: pathlib.Path) -> Any:
    """Reads a pickle of arrays and containers, and runs nothing that is in it.

    Raises:
      ValueError: it is damaged, or holds anything else; one line.
    """
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise _refuse(
            path, f"is damaged, or holds more than arrays ({shown(str(error))})"
        ) from None
    except OSError as error:
        raise _refuse(path, f"cannot be read ({error.strerror})") from None
    # What unpickling raises of damaged files.
    except (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError,
            OverflowError, ImportError) as error:  # fmt: skip
        raise _refuse(path, f"is damaged ({type(error).__name__})") from None


def _from_tables(tables: list[pathlib.Path], config: DataConfig, report: Report) -> DataSet:
    """The csv format: pictures are read once, which takes minutes, and then kept in the cache."""
    splits = [
        classes.equal_numbers(_read_table(table), config.seed, str(table), report)
        for table in tables
    ]
    check_disjoint(DataSet(*(ImageSet(None, tuple(each)) for each in splits)))
    folder.check_once([path for each in splits for paths in each.values() for path in paths])
    total = sum(len(images) for each in splits for images in each.values())

    def read() -> DataSet:
        progress = pictures.Progress(total, report)
        report(f"images: {total} are read once, from {tables[0].parent / 'images'}")
        return DataSet(
            *(
                ImageSet(
                    pictures.read_all(list(each.values()), config.pixels, _CHANNELS, progress),
                    tuple(each),
                )
                for each in splits
            )
        )

    content = [
        config.pixels,
        [[[name, folder.stamps(x)] for name, x in each.items()] for each in splits],
    ]
    return cache.kept(cache.folder(config.cache), "mini-imagenet", content, read)


def _read_table(table: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """The pictures of each class, in the table's order."""
    found: dict[str, list[pathlib.Path]] = {}
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not {"filename", "label"} <= set(rows.fieldnames or ()):
                raise _refuse(table, "has no columns filename and label")
            for row in rows:
                if not (row["filename"] and row["label"]):
                    raise _refuse(table, f"lacks a filename or a label in line {rows.line_num}")
                path = table.parent / "images" / row["filename"]
                found.setdefault(row["label"], []).append(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _refuse(table, f"cannot be read ({type(error).__name__})") from None
    if not found:
        raise _refuse(table, "lists no image")
    for path in (path for images in found.values() for path in images):
        if not path.is_file():
            raise ValueError(
                f"{table} lists {path.name}, but {path} is no file; put it there, or take it out "
                "of the table."
            )
    return found
