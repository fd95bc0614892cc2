"""A table's signature, as Reverb keeps it: a list of TensorFlow's specs, one for each array."""

from __future__ import annotations

import numpy as np

from bmg.replay.backend import structures, types_of_tensors
from bmg.replay.signature import Signature

_OTHER_NAMES = {"float16": "HALF", "float32": "FLOAT", "float64": "DOUBLE"}


def encode(signature: Signature) -> structures.StructuredValue:
    """Returns the specs of a signature's arrays, in order.

    Raises:
        ValueError: a tensor cannot hold such a dtype; one line.
    """
    encoded = structures.StructuredValue()
    for name, shape, dtype in zip(signature.names, signature.shapes, signature.dtypes):
        spec = encoded.list_value.values.add().tensor_spec_value
        spec.name = name
        spec.shape.SetInParent()  # a scalar has a shape as well, and no sizes
        for size in shape:
            spec.shape.dim.add(size=size)
        try:
            kind = _OTHER_NAMES.get(dtype.name, dtype.name.upper())
            spec.dtype = types_of_tensors.DataType.Value(f"DT_{kind}")
        except ValueError:
            raise ValueError(f"{name} is of {dtype}: replay holds numbers and booleans") from None
    return encoded


def decode(encoded: structures.StructuredValue) -> tuple[list[tuple[int, ...]], list[np.dtype]]:
    """Returns the shapes and dtypes of the arrays that `encode` was given."""
    specs = [value.tensor_spec_value for value in encoded.list_value.values]
    names = {f"DT_{kind}": name for name, kind in _OTHER_NAMES.items()}
    kinds = [types_of_tensors.DataType.Name(spec.dtype) for spec in specs]
    return (
        [tuple(dim.size for dim in spec.shape.dim) for spec in specs],
        [np.dtype(names.get(kind, kind.removeprefix("DT_").lower())) for kind in kinds],
    )
