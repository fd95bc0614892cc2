"""The one place that imports Reverb: its compiled part, its writer and its protocol buffers.

Reverb's package imports the whole of TensorFlow, for data sets and a client that nobody uses here:
350 MB and a few seconds of every process. Its compiled part needs one library of TensorFlow's and
no Python. So the two packages are entered without their `__init__`; a later import is whole.
"""

import contextlib
import ctypes
import importlib.util
import os
import pathlib
import sys
import types
from collections.abc import Iterator, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the library is loaded

_LIBRARY = "libtensorflow_framework.so.2"


@contextlib.contextmanager
def _submodules_of(name: str) -> Iterator[Sequence[str]]:
    """Lets modules within a package be imported while the package itself is not; gives its folders.

    Raises:
        ImportError: there is no such package.
    """
    if name in sys.modules:
        yield sys.modules[name].__path__
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    package = types.ModuleType(name)
    package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations)
    sys.modules[name] = package
    try:
        yield package.__path__
    finally:
        del sys.modules[name]


with _submodules_of("tensorflow") as folders, _submodules_of("reverb"):
    # Known to the loader by its name from here on, and its symbols to nobody else: Python's
    # protocol buffers have some of the same names.
    for library in [path for path in (pathlib.Path(f, _LIBRARY) for f in folders) if path.exists()]:
        ctypes.CDLL(str(library))
    from reverb import libpybind as pybind

    sys.modules.setdefault("reverb.pybind", pybind)  # which asks TensorFlow for its version
    from reverb.cc import schema_pb2 as schema
    from reverb.errors import DeadlineExceededError
    from reverb.trajectory_writer import TrajectoryWriter
    from tensorflow.core.framework import types_pb2 as types_of_tensors
    from tensorflow.core.protobuf import struct_pb2 as structures

__all__ = [
    "DeadlineExceededError",
    "TrajectoryWriter",
    "pybind",
    "schema",
    "structures",
    "types_of_tensors",
]
