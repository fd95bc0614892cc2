"""The gate of a run: the one port at which actors on other machines reach it.

Reverb and courier trust everyone who reaches their ports, and courier unpickles what it is sent. So
a run lives in a network of its own (`launch.isolation`), and the gate stands in its wall: its
socket was opened outside, where it stays. Who connects speaks TLS 1.3 and begins with a greeting,

    service, 8 bytes | token, 43 bytes

within a few seconds. Without the token the connection ends there, and not a byte of it has reached
the run. With it the gate carries bytes to and from the service, `replay` or `learner`, and looks at
none of them; or it is the service itself: a line of JSON, and empty lines as signs of life until
the run ends. Of these `run` is for whoever wants to know that, and `actor` for as long as a remote
actor lives: the gate counts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from bmg.launch.remote.secret import TOKEN_LENGTH
from bmg.launch.remote.streams import LIMIT, Stream, allow_many_connections, carry, keep_alive
from bmg.launch.runtimes.status import ACTOR
from bmg.storage.processes import name_of

RUN = "run"  # with ACTOR, REPLAY and LEARNER, the services
SERVICE_LENGTH = 8
REFUSED, FINISHED = {"refused": "token"}, {"state": "finished"}  # lines of JSON
BEAT = 10.0  # seconds between signs of life
_GREETING_SECONDS = 5.0  # within which a peer has shaken hands and greeted
_STRANGERS = 64  # connections that have not greeted yet; more wait
_PAUSE = 1.0  # seconds until the next connection where none could be taken
_FAREWELL_SECONDS = 2.0
_LISTENER = "BMG_GATE"  # environment variable: PROCESS:DESCRIPTOR of the open socket


def greeting(service: str, token: str) -> bytes:
    """What a connection to a gate begins with."""
    return service.ljust(SERVICE_LENGTH).encode() + token.encode()


def line(values: Mapping[str, Any]) -> bytes:
    """A line of JSON."""
    return json.dumps(values).encode() + b"\n"


def listen(port: int) -> socket.socket:
    """The gate's socket, on the network in which this process was when it first asked for it.

    It outlives the execution of another program in this process's place, which gets the same one.

    Args:
      port: TCP; 0 for any.

    Raises:
      ValueError: the port cannot be had; one line.
    """
    process, _, descriptor = os.environ.get(_LISTENER, "").partition(":fd:")
    if process == name_of(os.getpid()):
        return socket.socket(fileno=os.dup(int(descriptor)))
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        listener = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise ValueError(
            f"--gate-port {port} cannot be had ({error.strerror}); give another."
        ) from None
    kept = os.dup(listener.fileno())
    os.set_inheritable(kept, True)
    os.environ[_LISTENER] = f"{name_of(os.getpid())}:fd:{kept}"
    return listener


class Gate:
    """A running gate, in a thread of its own."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        token: str,
        services: Mapping[str, tuple[str, int]],
        welcome: Callable[[str], dict[str, Any]],
        counted: Callable[[int, int], None],
    ):
        """Opens it.

        Args:
          listener: a socket that listens; the gate closes it in the end.
          context: of the gate's certificate.
          token: what a greeting needs.
          services: name -> host and port in the run's network.
          welcome: name of another service, run or actor -> what its line says.
          counted: takes the number of remote actors that are there, and of those that were lost,
            whenever one of them changes.
        """
        listener.setblocking(False)
        allow_many_connections()
        self._listener, self._context, self._token = listener, context, token.encode()
        self._services, self._welcome, self._counted = services, welcome, counted
        self._guests: dict[asyncio.StreamWriter, str] = {}  # of the gate's own services
        self._lost = 0
        self._tasks: set[asyncio.Task] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it is."""
        return self._listener.getsockname()[1]

    def close(self, finished: bool) -> None:
        """Closes all connections; those who asked are told whether the run is complete."""
        if self._thread.is_alive():  # not closed before
            self._loop.call_soon_threadsafe(self._start, self._end(finished))
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._start(self._accept())
        self._loop.run_forever()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0.01))  # connections that were cut are closed
        self._loop.close()
        self._listener.close()

    def _start(self, work: Coroutine) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the loop itself does not keep it
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        strangers = asyncio.Semaphore(_STRANGERS)
        while True:
            await strangers.acquire()
            try:
                peer, _ = await self._loop.sock_accept(self._listener)
            except OSError:  # no descriptor is left, or the peer has gone already
                strangers.release()
                await asyncio.sleep(_PAUSE)
                continue
            self._start(self._receive(peer, strangers))

    async def _receive(self, peer: socket.socket, strangers: asyncio.Semaphore) -> None:
        """One connection, from its handshake to its end."""
        try:
            stream, service = await asyncio.wait_for(self._greeted(peer), _GREETING_SECONDS)
        except (OSError, EOFError, asyncio.TimeoutError):
            return  # the connection is closed
        finally:
            strangers.release()
        try:
            if not service:
                stream.writer.write(line(REFUSED))
                stream.cut()  # a stranger's farewell is not waited for
            elif service in self._services:
                host, port = self._services[service]
                inner = await asyncio.open_connection(host, port, limit=LIMIT)
                await carry(stream, Stream(*inner))
            elif service in (RUN, ACTOR):
                await self._accompany(stream, service)
        except OSError:
            pass  # the connection broke, or the service does not listen yet: they try again
        except asyncio.CancelledError:
            stream.cut()
            raise
        finally:
            stream.close()

    async def _greeted(self, peer: socket.socket) -> tuple[Stream, str]:
        """The connection after its greeting, and what it asks for: nothing without the token."""
        reader = asyncio.StreamReader(limit=LIMIT)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: protocol, peer, ssl=self._context, ssl_handshake_timeout=_GREETING_SECONDS
        )
        try:
            writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
            greeting = await reader.readexactly(SERVICE_LENGTH + TOKEN_LENGTH)
            knows = hmac.compare_digest(greeting[SERVICE_LENGTH:], self._token)
            service = greeting[:SERVICE_LENGTH].decode(errors="replace").rstrip()
            return keep_alive(Stream(reader, writer)), service if knows else ""
        except BaseException:
            transport.abort()
            raise

    async def _accompany(self, stream: Stream, service: str) -> None:
        """Stays with a guest until one of both leaves."""
        self._guests[stream.writer] = service
        self._count()  # who is welcomed has been counted
        gone = asyncio.ensure_future(stream.reader.read(1))  # guests say nothing
        try:
            stream.writer.write(line(self._welcome(service)))
            while not (await asyncio.wait({gone}, timeout=BEAT))[0]:
                stream.writer.write(b"\n")
                await stream.writer.drain()
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await gone
            if self._guests.pop(stream.writer, "") == ACTOR:
                self._lost += 1
            self._count()

    def _count(self) -> None:
        actors = sum(service == ACTOR for service in self._guests.values())
        self._counted(actors, self._lost)

    async def _end(self, finished: bool) -> None:
        guests, self._guests = self._guests, {}  # none of them is lost
        for writer in guests:
            if finished:
                writer.write(line(FINISHED))
            writer.close()
        waits = [asyncio.ensure_future(writer.wait_closed()) for writer in guests]
        if waits:
            await asyncio.wait(waits, timeout=_FAREWELL_SECONDS)
        self._loop.stop()
