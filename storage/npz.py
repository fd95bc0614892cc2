"""Archives of arrays (npz), read so that damage is found and nothing foreign is evaluated.

Each member is read whole, which is when zipfile compares its checksum, and only then parsed. (numpy
reads as much of a member as the array's own header claims: with one bit of that flipped, other
numbers, and the checksum is never reached.) Members are stored without compression, as `np.savez`
writes them, so that an archive holds no more than its own size.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Mapping

import numpy as np

# Numbers alone: an object's bytes would be taken for its address.
_HEAD = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>|][biufc]\d\d?)', 'fortran_order': (True|False), "
    rb"'shape': \(([\d, ]*)\), \} *\n",
    re.DOTALL,
)
_LENGTH = slice(8, 10)  # bytes that hold how many follow them before the data
MOST_HEAD_BYTES = 10 + 2**16


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An archive's bytes. They are to be written at once: where a disk is full, `np.savez` would
    leave its archive open."""
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    return archive.getvalue()


def members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Arrays' names and where they are; nothing of them is read yet.

    Raises:
      Exception: of any kind, where the archive is damaged or not one of arrays.
    """
    infos = archive.infolist()
    if any(x.compress_type != zipfile.ZIP_STORED or x.compress_size != x.file_size for x in infos):
        raise ValueError("compressed")
    if sum(x.file_size for x in infos) > os.fstat(archive.fp.fileno()).st_size:
        raise ValueError("holds more than its size")
    for info in infos:
        archive.open(info).close()  # a name stands twice: both are the same
    found = {x.filename.removesuffix(".npy"): x for x in infos}
    if len(found) != len(infos):
        raise ValueError("a name comes twice")
    return found


def read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """A member's array.

    Raises:
      Exception: of any kind, where it is damaged or no array of numbers.
    """
    content = archive.read(member)
    head = _HEAD.match(content)
    if head is None or head.end() != 10 + int.from_bytes(content[_LENGTH], "little"):
        raise ValueError("no array of numbers")
    dtype, order = np.dtype(head[1].decode()), "F" if head[2] == b"True" else "C"
    shape = tuple(int(n) for n in head[3].split(b",") if n.strip())
    array = np.ndarray(shape, dtype, content, head.end(), order=order)
    if head.end() + array.nbytes != len(content):
        raise ValueError("longer than its array")
    return array.copy(order)
