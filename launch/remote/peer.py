"""The way to a gate: what a machine that joins a run knows of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import ssl
from typing import Any

from bmg.launch.remote.gate import BEAT, FINISHED, REFUSED, greeting
from bmg.launch.remote.secret import NAME, Join
from bmg.launch.remote.streams import LIMIT, Stream, carry, keep_alive

_HANDSHAKE_SECONDS = 15.0
_SILENCE = 6 * BEAT  # seconds without a sign of life after which the run is out of reach
_CUT = (OSError, EOFError, asyncio.TimeoutError)  # what comes of a connection that breaks


class Peer:
    """A gate, seen from outside."""

    def __init__(self, host: str, port: int, join: Join):
        """Connects to nothing yet."""
        self.address = f"{host}:{port}"
        self._where, self._join, self._context = (host, port), join, join.context()

    async def open(self, service: str) -> Stream:
        """A connection to one of the run's services, after the greeting.

        Raises:
          ValueError: another run's gate; one line.
          OSError: none could be made.
        """
        connecting = asyncio.open_connection(
            *self._where, limit=LIMIT, ssl=self._context, server_hostname=NAME
        )
        try:
            stream = Stream(*await asyncio.wait_for(connecting, _HANDSHAKE_SECONDS))
        except ssl.SSLCertVerificationError:
            raise ValueError(self._refusal()) from None
        except asyncio.TimeoutError:
            raise ConnectionError("no answer") from None
        try:
            stream.writer.write(greeting(service, self._join.token))
            return keep_alive(stream)
        except BaseException:
            stream.cut()
            raise

    async def visit(self, service: str) -> Visit:
        """A connection to one of the gate's own services, run or actor.

        Raises:
          ValueError: the gate wants another token, or is another run's; one line.
          OSError: none could be made, or it broke.
        """
        stream = await self.open(service)
        try:
            values = await _next_line(stream.reader)
            if values == REFUSED:
                raise ValueError(self._refusal())
            return Visit(stream, values)
        except BaseException as error:
            stream.cut()
            if isinstance(error, _CUT):
                raise ConnectionError("the connection broke") from None
            raise

    def _refusal(self) -> str:
        return (
            f"the run at {self.address} is not the one of this join file; copy the join.json of "
            "its run directory."
        )

    async def forward(self, path: pathlib.Path, service: str) -> asyncio.AbstractServer:
        """A socket in the file system, from which each connection goes on to the service. Who may
        open the file decides who reaches the run."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            streams = [Stream(reader, writer)]
            try:
                streams.append(await self.open(service))
                await carry(*streams)
            except (OSError, ValueError):
                pass  # the connection of the run itself, `visit`, says why
            finally:
                for stream in streams:
                    stream.cut()

        return await asyncio.start_unix_server(serve, path, limit=LIMIT)


class Visit:
    """A connection to the gate that lasts as long as the run, or the actor."""

    def __init__(self, stream: Stream, welcome: dict[str, Any]):
        """Args: `stream`, after the first line; `welcome`, what that line says."""
        self._stream, self.welcome = stream, welcome

    async def end(self) -> bool:
        """Waits until the connection ends; whether the run is complete."""
        with contextlib.suppress(*_CUT, ValueError):
            return await _next_line(self._stream.reader) == FINISHED
        return False

    def close(self) -> None:
        """Leaves."""
        self._stream.cut()


async def _next_line(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next line that is no mere sign of life.

    Raises:
      EOFError, OSError, asyncio.TimeoutError: the connection broke.
      ValueError: it is no JSON object.
    """
    while True:
        text = await asyncio.wait_for(reader.readline(), _SILENCE)
        if not text.endswith(b"\n"):
            raise EOFError
        if text.strip():
            values = json.loads(text)
            if not isinstance(values, dict):
                raise ValueError("no JSON object")
            return values
