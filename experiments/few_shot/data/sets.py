"""Images by class, in three splits that share no class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bmg.storage.fields import shown

SPLITS = ("train", "validation", "test")


class ImageSet(NamedTuple):
    """One split."""

    images: np.ndarray  # uint8 [classes, images of a class, height, width, channels]
    names: tuple[str, ...]  # of the classes


class DataSet(NamedTuple):
    """The splits, in the order of `SPLITS`."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet


def check_tasks(splits: Sequence[np.ndarray], ways: int, shots: int, queries: int) -> None:
    """Refuses tasks that a split has too few classes or images for.

    Args:
      splits: images of each, as of `ImageSet`; every one has to do.
      ways: classes of a task.
      shots: images of each class to learn from.
      queries: images of each class to be classified.

    Raises:
      ValueError: one line.
    """
    for split, images in zip(SPLITS, splits):
        classes, count = images.shape[:2]
        if classes < ways:
            raise ValueError(
                f"tasks of {ways} classes do not fit the {split} split, which has {classes}; "
                + (f"choose at most {classes} ways, or " if classes > 1 else "")
                + "give more classes."
            )
        if count < shots + queries:
            raise ValueError(
                f"tasks of {shots} shots and {queries} queries do not fit the {split} split, which "
                f"has {count} images of a class; choose shots + queries of at most {count}, or "
                "give more images."
            )


def check_disjoint(dataset: DataSet) -> None:
    """Refuses splits that share a class.

    Raises:
      ValueError: one line.
    """
    home: dict[str, str] = {}
    for split, (_, names) in zip(SPLITS, dataset):
        for name in names:
            if home.setdefault(name, split) != split:
                raise ValueError(
                    f"the class {shown(name)} is in the splits {home[name]} and {split}; allowed "
                    "is one split for each class: take it out of one of them."
                )


def same_classes(dataset: DataSet) -> list[tuple[str, str]]:
    """Names of classes of the same bytes: the first of each kind, and each further one."""
    found: list[tuple[str, str]] = []
    known: dict[bytes, list[tuple[str, np.ndarray]]] = {}  # by their first image
    for split in dataset:
        for name, images in zip(split.names, split.images):
            others = known.setdefault(images[0].tobytes(), [])
            first = next((other for other, x in others if np.array_equal(x, images)), None)
            if first is None:
                others.append((name, images))
            else:
                found.append((first, name))
    return found
