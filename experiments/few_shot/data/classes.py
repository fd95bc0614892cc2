"""Equal numbers of images for all classes, and classes shared out to splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from bmg.experiments.few_shot.data.deformation import uniforms
from bmg.experiments.few_shot.data.pictures import Report

Item = TypeVar("Item")
_SHARES, _IMAGES = 1, 2  # streams of random numbers


def shuffled(items: Sequence[Item], seed: int, stream: int) -> list[Item]:
    """In an order that depends on the seed and on how many there are, alike on all machines."""
    order = np.argsort(uniforms(seed, stream, (len(items),)), kind="stable")
    return [items[i] for i in order]


def equal_numbers(
    classes: dict[str, Sequence[Item]], seed: int, where: str, report: Report
) -> dict[str, list[Item]]:
    """As many of each class as the smallest has, which is reported where they differ.

    Args:
      classes: name -> its images, one class or more.
      seed: of which are kept.
      where: what the classes are of, for the report.
      report: shows a line to the user.
    """
    counts = [len(images) for images in classes.values()]
    if min(counts) == max(counts):
        return {name: list(images) for name, images in classes.items()}
    report(
        f"{where}: classes have {min(counts)} to {max(counts)} images; {min(counts)} of each, "
        f"drawn with the seed {seed}, are used"
    )
    return {
        name: shuffled(images, seed, _IMAGES)[: min(counts)] for name, images in classes.items()
    }


def shared_out(
    names: Sequence[str], validation_share: float, test_share: float, seed: int
) -> tuple[list[str], list[str], list[str]]:
    """Names of the classes for training, validation and test, each at least one, in their order."""
    order = shuffled(names, seed, _SHARES)
    num_validation = max(round(len(names) * validation_share), 1)
    num_test = max(round(len(names) * test_share), 1)
    test, validation = order[:num_test], order[num_test : num_test + num_validation]
    held_out = {*test, *validation}
    train = [name for name in names if name not in held_out]
    return train, sorted(validation), sorted(test)
