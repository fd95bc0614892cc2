"""What one unroll looks like: its structure, and the shape and dtype of every array in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tree


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """One leaf."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Signature:
    """The leaves of a nested structure, checked on the way in and put together on the way out.

    Args:
        structure: (nested) NamedTuple, tuple or dict of objects with `.shape` and `.dtype`.
    """

    def __init__(self, structure: Any):
        self.structure = structure
        paths_and_leaves = tree.flatten_with_path(structure)
        self.names = [".".join(map(str, path)) or "value" for path, _ in paths_and_leaves]
        self.shapes = [tuple(leaf.shape) for _, leaf in paths_and_leaves]
        self.dtypes = [np.dtype(leaf.dtype) for _, leaf in paths_and_leaves]

    @property
    def arrays(self) -> list[ArraySpec]:
        """The leaves without their structure, whose classes may import what a server lacks."""
        return [ArraySpec(shape, dtype) for shape, dtype in zip(self.shapes, self.dtypes)]

    def flatten(self, unroll: Any) -> list[np.ndarray]:
        """Returns the unroll's arrays, one per leaf.

        Raises:
            ValueError: structure, shape or dtype is not the signature's, in one line.
        """
        try:
            tree.assert_same_structure(self.structure, unroll)
        except (TypeError, ValueError):
            given = [".".join(map(str, path)) for path, _ in tree.flatten_with_path(unroll)]
            raise ValueError(
                f"unroll is a {type(unroll).__name__} of {', '.join(given)}: must be a "
                f"{type(self.structure).__name__} of {', '.join(self.names)}"
            ) from None
        arrays = [np.asarray(leaf) for leaf in tree.flatten(unroll)]
        self.check([a.shape for a in arrays], [a.dtype for a in arrays], "unroll")
        return arrays

    def unflatten(self, arrays: Sequence[np.ndarray]) -> Any:
        """Returns the arrays, one per leaf, in the signature's structure."""
        return tree.unflatten_as(self.structure, arrays)

    def check(self, shapes: Sequence[tuple], dtypes: Sequence[Any], what: str) -> None:
        """Refuses leaves that are not the signature's.

        Raises:
            ValueError: in one line, naming `what` and the first leaf that differs.
        """
        if len(shapes) != len(self.shapes):
            raise ValueError(f"{what} has {len(shapes)} arrays: must have {len(self.shapes)}")
        dtypes = [np.dtype(dtype) for dtype in dtypes]
        wanted = zip(self.names, self.shapes, self.dtypes)
        for (name, shape, dtype), given_shape, given_dtype in zip(wanted, shapes, dtypes):
            if given_shape != shape or given_dtype != dtype:
                raise ValueError(
                    f"{what} has {name} {given_dtype}{list(given_shape)}: "
                    f"must be {dtype}{list(shape)}"
                )
