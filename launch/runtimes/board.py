"""What the nodes of a run say of themselves, in memory that the launcher shares with them.

The launcher has to learn how a node is even where nothing can be written: the disk is full, or the
run directory is gone. Each node has a place of its own in the memory:

    beats (8 bytes) | which half (1) | half 0: length, checksum, JSON | half 1: the same

It writes into the half that is not read and then switches, so that a node that is killed in the
midst of it leaves the half before whole.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
import zlib
from collections.abc import Sequence
from typing import Any

ADDRESS = "BMG_BOARD"  # environment variable: where the processes of a run find its board
_HALF = 64 * 1024  # bytes
_BEATS, _WHICH, _ENTRY = struct.Struct("<Q"), struct.Struct("<B"), struct.Struct("<II")
_HALVES = 64  # where they begin
_PLACE = _HALVES + 2 * _HALF
_LOOKS = 100  # until a place that is being written comes out whole


class Board:
    """The places of all nodes of a run."""

    def __init__(self, nodes: Sequence[str], memory: mmap.mmap):
        """Args: `nodes`, their names, the same and in the same order for all who share; `memory`,
        of `size(nodes)` bytes."""
        self._starts = {node: _PLACE * index for index, node in enumerate(nodes)}
        self._memory = memory
        self._last: dict[str, dict[str, Any]] = {}

    @classmethod
    def make(cls, nodes: Sequence[str]) -> Board:
        """A new one for the threads of this process."""
        return cls(nodes, mmap.mmap(-1, size(nodes)))

    @classmethod
    def share(cls, nodes: Sequence[str]) -> tuple[Board, str]:
        """A new one for the processes of a run, and its address; Linux alone. It is gone with the
        last process that has it."""
        descriptor = os.memfd_create("bmg_board")
        os.ftruncate(descriptor, size(nodes))
        return (
            cls(nodes, mmap.mmap(descriptor, size(nodes))),
            f"/proc/{os.getpid()}/fd/{descriptor}",
        )

    @classmethod
    def at(cls, nodes: Sequence[str], address: str) -> Board:
        """The one that another process shares.

        Raises:
          OSError: that process is gone.
        """
        with open(address, "r+b", buffering=0) as file:
            return cls(nodes, mmap.mmap(file.fileno(), size(nodes)))

    def put(self, node: str, status: dict[str, Any]) -> None:
        """Says how a node is; JSON of up to 64 kB. One thread at a time, of that node alone."""
        text = json.dumps(status).encode()
        if len(text) > _HALF - _ENTRY.size:
            raise ValueError(f"{len(text)} bytes of status from {node}")
        start = self._starts[node]
        which = 1 - _WHICH.unpack_from(self._memory, start + _BEATS.size)[0]
        entry = start + _HALVES + which * _HALF
        _ENTRY.pack_into(self._memory, entry, len(text), zlib.crc32(text))
        self._memory[entry + _ENTRY.size : entry + _ENTRY.size + len(text)] = text
        _WHICH.pack_into(self._memory, start + _BEATS.size, which)

    def get(self, node: str) -> dict[str, Any] | None:
        """What a node last said; None before it has said anything."""
        start = self._starts[node]
        for _ in range(_LOOKS):
            which = _WHICH.unpack_from(self._memory, start + _BEATS.size)[0]
            entry = start + _HALVES + which * _HALF
            length, checksum = _ENTRY.unpack_from(self._memory, entry)
            if not length:
                break
            text = bytes(self._memory[entry + _ENTRY.size : entry + _ENTRY.size + length])
            if zlib.crc32(text) == checksum:
                self._last[node] = json.loads(text)
                break
            time.sleep(0.001)
        return self._last.get(node)

    def statuses(self) -> dict[str, dict[str, Any]]:
        """What each node last said, of those that have said anything."""
        found = {node: self.get(node) for node in self._starts}
        return {node: status for node, status in found.items() if status is not None}

    def beat(self, node: str) -> None:
        """A sign of life of a node."""
        _BEATS.pack_into(self._memory, self._starts[node], self.beats(node) + 1)

    def beats(self, node: str) -> int:
        """How many it has given."""
        return _BEATS.unpack_from(self._memory, self._starts[node])[0]

    @property
    def nodes(self) -> list[str]:
        """Whose places it has."""
        return list(self._starts)


def size(nodes: Sequence[str]) -> int:
    """Bytes of a board; those that nobody writes take no memory."""
    return _PLACE * len(nodes)
