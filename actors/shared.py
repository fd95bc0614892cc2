"""Requests in memory that an actor shares with the inference server of its host. Linux alone.

What is asked about are frames, a megabyte and more each time: in a remote call they would be copied
and encoded six times over, which takes 4 ms for each megabyte. Here the call names the environments
alone.
"""

from __future__ import annotations

import mmap
import os
from typing import NamedTuple

import numpy as np

from bmg.actors.inference import Request


class Address(NamedTuple):
    """Where another process finds the memory, as long as the actor lives; nothing outlives it."""

    pid: int
    descriptor: int
    num_envs: int
    frames_shape: tuple[int, ...]  # (S, *frame_shape)
    dtype: str  # of frames


class SharedRequests:
    """The newest request of each environment of an actor."""

    def __init__(self, address: Address):
        """Maps memory that an actor made.

        Raises:
          OSError: the actor is gone.
        """
        self.address = address
        num_envs, frames_shape = address.num_envs, address.frames_shape
        shapes = [((num_envs, *frames_shape), address.dtype), ((num_envs,), np.int32),
                  ((num_envs, 4), np.uint32)]  # fmt: skip
        sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes]
        starts = np.cumsum([0, *(-(-size // 64) * 64 for size in sizes)])
        with open(f"/proc/{address.pid}/fd/{address.descriptor}", "r+b", buffering=0) as file:
            if os.fstat(file.fileno()).st_size < starts[-1]:
                os.ftruncate(file.fileno(), int(starts[-1]))
            memory = mmap.mmap(file.fileno(), int(starts[-1]))
        self._requests = Request(
            *(
                np.frombuffer(memory, dtype, int(np.prod(shape)), int(start)).reshape(shape)
                for (shape, dtype), start in zip(shapes, starts)
            )
        )

    @classmethod
    def make(cls, num_envs: int, frames_shape: tuple[int, ...], dtype: str) -> SharedRequests:
        """New memory, of this process, for as many environments and frames (S, *frame_shape)."""
        descriptor = os.memfd_create("bmg_requests")
        return cls(Address(os.getpid(), descriptor, num_envs, tuple(frames_shape), dtype))

    def put(self, request: Request) -> tuple[int, int]:
        """Shares a request; (first, number) of its environments, which are consecutive."""
        first, number = int(request.stream[0, 3]), len(request.age)
        for shared, values in zip(self._requests, request):
            shared[first : first + number] = values
        return first, number

    def get(self, first: int, number: int) -> Request:
        """The newest request of some environments: views, until they put the next one."""
        return Request(*(shared[first : first + number] for shared in self._requests))
