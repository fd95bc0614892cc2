"""Bytes that are carried from one connection to another, and never looked at."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from typing import NamedTuple

LIMIT = 2**18  # bytes that a side of a connection holds, about, before it waits for the other one
_MOST_FILES = 2**16
_SILENCE = 60  # seconds after which a machine that answers nothing at all is taken for gone


class Stream(NamedTuple):
    """A connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def close(self) -> None:
        """Sends what was written, and closes."""
        self.writer.close()

    def cut(self) -> None:
        """Closes at once, and waits for nobody."""
        self.writer.transport.abort()


def keep_alive(stream: Stream) -> Stream:
    """Has the kernel find out when the other machine is gone without a word; Linux alone.

    Raises:
      OSError: the connection is closed already.
    """
    connection = stream.writer.get_extra_info("socket")
    if connection is None:  # the other side left right after the handshake
        raise ConnectionResetError("the connection broke")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _SILENCE // 4),
        (socket.TCP_KEEPINTVL, _SILENCE // 4),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, 1000 * _SILENCE),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return stream


async def carry(one: Stream, other: Stream) -> None:
    """Carries bytes both ways until one of the connections ends; then both do."""
    ways = [
        asyncio.create_task(_carry(source.reader, sink.writer))
        for source, sink in ((one, other), (other, one))
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        one.close()
        other.close()


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # the connection broke
        while data := await source.read(LIMIT):
            sink.write(data)
            await sink.drain()  # who is slow at the end of the way holds back who is at its start


def allow_many_connections() -> None:
    """Lets this process have as many as the system allows it: each takes two descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
