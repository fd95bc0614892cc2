"""Folders of pictures, one a class: the user's own data."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from bmg.experiments.few_shot.data import cache, classes, pictures
from bmg.experiments.few_shot.data.config import DataConfig
from bmg.experiments.few_shot.data.pictures import Report
from bmg.experiments.few_shot.data.sets import SPLITS, DataSet, ImageSet, check_disjoint

Classes = dict[str, list[pathlib.Path]]  # name -> its pictures


def load(config: DataConfig, report: Report) -> DataSet:
    """Reads the classes of PATH/train, PATH/validation and PATH/test, or those of PATH, shared out.

    Every folder in these is a class, and every picture in it, or in folders of it, one of its
    images. All are grey if all the files are, else all have colours.

    Raises:
      ValueError: something of that is missing, or damaged; one line.
    """
    splits = _find(config, report)
    check_disjoint(DataSet(*(ImageSet(None, tuple(each)) for each in splits)))
    paths = [path for each in splits for images in each.values() for path in images]
    check_once(paths)

    def read() -> DataSet:
        channels = 1 if all(map(pictures.is_grey, paths)) else 3
        progress = pictures.Progress(len(paths), report)
        return DataSet(
            *(
                ImageSet(
                    pictures.read_all(list(each.values()), config.pixels, channels, progress),
                    tuple(each),
                )
                for each in splits
            )
        )

    content = [config.pixels, [[name, stamps(x)] for each in splits for name, x in each.items()]]
    sizes = [len(each) for each in splits]
    return cache.kept(cache.folder(config.cache), "folder", [content, sizes], read)


def check_once(paths: Sequence[pathlib.Path]) -> None:
    """Refuses a file that is there twice, be it by a link: it could be learned and asked for.

    Raises:
      ValueError: one line.
    """
    found: dict[pathlib.Path, pathlib.Path] = {}
    for path in paths:
        other = found.setdefault(path.resolve(), path)
        if other is not path:
            raise ValueError(f"the images {other} and {path} are one file; remove one of them.")


def stamps(paths: list[pathlib.Path]) -> list[Any]:
    """What changes if one of the files does: paths, sizes and times."""
    found = [(path, path.stat()) for path in paths]
    return [[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in found]


def folders(path: pathlib.Path) -> list[pathlib.Path]:
    """The visible folders in one, by name."""
    return sorted(each for each in path.iterdir() if each.is_dir() and each.name[0] != ".")


def _within(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """What lies in a folder and its folders; `Path.rglob` leaves out those that it may not read.

    Raises:
      OSError: one of them cannot be read.
    """

    def fail(error: OSError):
        raise error

    for place, _, names in os.walk(path, onerror=fail):
        yield from (pathlib.Path(place, name) for name in names)


def _find(config: DataConfig, report: Report) -> list[Classes]:
    """The classes of each split, with equal numbers of pictures within a split."""
    path = pathlib.Path(config.path)
    if not path.is_dir():
        raise ValueError(
            f"{path} is no folder; give one with a folder of images for each class, or with "
            f"{', '.join(SPLITS)} that have such."
        )
    there = [split for split in SPLITS if (path / split).is_dir()]
    if there and len(there) < len(SPLITS):
        missing = ", ".join(split for split in SPLITS if split not in there)
        raise ValueError(
            f"{path} has {', '.join(there)} but lacks {missing}; give all of "
            f"{', '.join(SPLITS)}, or a folder of images for each class."
        )
    if there:
        splits = [_classes(path / split, config, 1) for split in SPLITS]
    else:
        found = _classes(path, config, len(SPLITS))
        names = classes.shared_out(
            list(found), config.validation_share, config.test_share, config.seed
        )
        counts = " / ".join(str(len(each)) for each in names)
        report(
            f"{path}: {len(found)} classes, shared out with the seed {config.seed} to training / "
            f"validation / test: {counts}"
        )
        if not names[0]:
            raise ValueError(
                f"{path} leaves none of its {len(found)} classes for training; give more classes, "
                "or smaller shares for validation and test."
            )
        splits = [{name: found[name] for name in each} for each in names]
    return [
        classes.equal_numbers(each, config.seed, f"{path}, {split}", report)
        for split, each in zip(SPLITS, splits)
    ]


def _classes(path: pathlib.Path, config: DataConfig, least: int) -> Classes:
    """All classes of a folder, refused if they are too few or too small."""
    found = {
        folder.name: sorted(
            file for file in _within(folder) if pictures.is_picture(file) and file.is_file()
        )
        for folder in folders(path)
    }
    if len(found) < least:
        raise ValueError(
            f"{path} has {len(found)} folders; allowed are {least} or more, one for each class."
        )
    for name, images in found.items():
        if len(images) < config.min_images_per_class:
            raise ValueError(
                f"the class {path / name} has {len(images)} images; allowed are "
                f"{config.min_images_per_class} or more ({', '.join(pictures.ENDINGS)}): remove "
                "it, or give a smaller --data.min-images-per-class."
            )
    return found
