"""The gate of a run: who gets through, and that nobody else reaches anything behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import socket
import ssl
import stat
import subprocess
import sys
import threading

import pytest

from bmg.launch.remote import gate as gates
from bmg.launch.remote.gate import RUN, Gate, greeting, listen
from bmg.launch.remote.peer import Peer
from bmg.launch.remote.secret import JOIN, KEY, NAME, TOKEN_LENGTH, Join, keep, read_join
from bmg.launch.remote.streams import keep_alive
from bmg.launch.runtimes.status import ACTOR, LEARNER, REPLAY
from tests.launch.commands import environment
from tests.ports import free_port
from tests.tables import named
from tests.waiting import DEADLINE, eventually, steadily

pytestmark = pytest.mark.launchpad  # and cryptography, which is installed beside it


class Service:
    """Something behind the gate: it gives back what it gets, in capital letters."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.received: list[bytes] = []  # of each connection, in its order
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self.received.append(b"")
                index = len(self.received) - 1
                self._threads.append(threading.Thread(target=self._answer, args=(peer, index)))
                self._threads[-1].start()

    def _answer(self, peer: socket.socket, index: int) -> None:
        with peer, contextlib.suppress(OSError):
            while data := peer.recv(2**16):
                self.received[index] += data
                peer.sendall(data.upper())
                if data == b"bye":
                    return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(DEADLINE)


class Place:
    """A gate with a service behind it."""

    def __init__(self, folder, **told):
        """What is told to those who enter: the service's name, and this."""
        self.service = Service()
        self.counts: list[tuple[int, int]] = []
        self.join, context = keep(folder)
        listener = socket.create_server(("127.0.0.1", 0))
        self.gate = Gate(
            listener, context, self.join.token,
            {REPLAY: self.service.address, LEARNER: ("127.0.0.1", free_port())},
            lambda service: {"service": service, **told},
            lambda *counts: self.counts.append(counts),
        )  # fmt: skip
        self.port = self.gate.port

    def connect(self, join: Join | None = None) -> ssl.SSLSocket:
        """A connection after its handshake, before its greeting."""
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        return (join or self.join).context().wrap_socket(raw, server_hostname=NAME)

    def peer(self, join: Join | None = None) -> Peer:
        return Peer("127.0.0.1", self.port, join or self.join)

    def close(self) -> None:
        self.gate.close(finished=False)
        self.service.close()


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.close()


def rest_of(connection: socket.socket) -> bytes:
    """What still comes, until the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := connection.recv(2**16):
            found += data
    return found


def test_with_the_token_bytes_go_both_ways(place):
    payload = os.urandom(3_000_000)
    with place.connect() as connection:
        connection.sendall(greeting(REPLAY, place.join.token) + b"first")
        assert connection.recv(5) == b"FIRST"
        sender = threading.Thread(target=connection.sendall, args=(payload,))
        sender.start()
        answer = b""
        while len(answer) < len(payload):
            answer += connection.recv(2**16)
        sender.join(DEADLINE)
    assert answer == payload.upper()
    assert place.service.received == [b"first" + payload]


def test_a_service_that_ends_ends_the_connection_too(place):
    with place.connect() as connection:
        connection.sendall(greeting(LEARNER, place.join.token))  # nothing listens there
        assert rest_of(connection) == b""
    with place.connect() as connection:
        connection.sendall(greeting(REPLAY, place.join.token) + b"bye")
        assert rest_of(connection) == b"BYE"
    assert place.service.received == [b"bye"]


def test_who_does_not_greet_as_agreed_reaches_nothing(place):
    token = place.join.token
    wrong = "A" * TOKEN_LENGTH if token[0] != "A" else "B" * TOKEN_LENGTH
    last = token[:-1] + ("x" if token[-1] != "x" else "y")
    for what, bytes_sent in {
        "a wrong token": greeting(REPLAY, wrong),
        "all of it but the last character": greeting(REPLAY, last),
        "an unknown service": greeting("shell", token),
        "much too much": b"GET / HTTP/1.1\r\n" + b"x" * 1_000_000,
        "a token and more": greeting(REPLAY, wrong) + b"pickled" * 1000,
        "no text": b"\x80" * 500,
    }.items():
        with named(what), place.connect() as connection:
            with contextlib.suppress(ConnectionError, ssl.SSLError):  # closed meanwhile
                connection.sendall(bytes_sent)
            assert b"pickled" not in rest_of(connection)
    assert place.service.received == [], "no connection was made, so no byte has come"
    with place.connect() as connection:  # and the gate goes on
        connection.sendall(greeting(REPLAY, token) + b"y")
        assert connection.recv(1) == b"Y"


def test_who_is_not_done_in_time_is_left(place, monkeypatch):
    monkeypatch.setattr(gates, "_GREETING_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", place.port), timeout=DEADLINE) as silent:
        assert rest_of(silent) == b"", "no handshake"
    with place.connect() as connection:
        assert rest_of(connection) == b"", "no greeting"
    with place.connect() as connection:
        connection.sendall(greeting(REPLAY, place.join.token)[:-1])
        assert rest_of(connection) == b"", "the last character is missing"
    with socket.create_connection(("127.0.0.1", place.port), timeout=DEADLINE) as plain:
        plain.sendall(greeting(REPLAY, place.join.token) + b"pickled")
        rest_of(plain)  # an alert of TLS
    assert place.service.received == []


def test_strangers_wait_for_each_other_and_nobody_else_does(tmp_path, monkeypatch):
    monkeypatch.setattr(gates, "_STRANGERS", 2)
    monkeypatch.setattr(gates, "_GREETING_SECONDS", 0.5)
    place = Place(tmp_path)
    try:
        with place.connect() as known, contextlib.ExitStack() as stack:
            known.sendall(greeting(REPLAY, place.join.token) + b"a")
            assert known.recv(1) == b"A"
            address = ("127.0.0.1", place.port)
            for _ in range(6):
                stack.enter_context(socket.create_connection(address, timeout=DEADLINE))
            known.sendall(b"b")
            assert known.recv(1) == b"B"
            with place.connect() as late:  # after the strangers' time is over
                late.sendall(greeting(REPLAY, place.join.token) + b"c")
                assert late.recv(1) == b"C"
    finally:
        place.close()


def test_another_gate_is_not_trusted(place, tmp_path_factory):
    other, _ = keep(tmp_path_factory.mktemp("other"))
    with pytest.raises(ssl.SSLCertVerificationError):
        place.connect(other)
    with pytest.raises(ValueError, match="is not the one of this join file; copy") as caught:
        asyncio.run(place.peer(other).visit(RUN))
    assert "\n" not in str(caught.value)
    mixed = place.join._replace(token=other.token)  # the right certificate alone
    with pytest.raises(ValueError, match="is not the one of this join file; copy"):
        asyncio.run(place.peer(mixed).visit(ACTOR))
    assert place.counts == []


def test_actors_are_counted_while_they_are_there(place):
    async def stay() -> list[bool]:
        peer = place.peer()
        run, first, second = [await peer.visit(name) for name in (RUN, ACTOR, ACTOR)]
        assert (run.welcome, first.welcome) == ({"service": RUN}, {"service": ACTOR})
        assert place.counts[-1] == (2, 0)
        first.close()
        await asyncio.to_thread(eventually, lambda: place.counts[-1] == (1, 1))
        ends = [asyncio.create_task(visit.end()) for visit in (run, second)]
        await asyncio.to_thread(steadily, lambda: not any(end.done() for end in ends))
        await asyncio.to_thread(place.gate.close, finished=True)
        return await asyncio.gather(*ends)

    assert asyncio.run(stay()) == [True, True], "the run is complete, they are told"
    assert place.counts[-1][1] == 1, "who is there at the end is not lost"


def test_a_run_that_ends_otherwise_says_nothing(place):
    async def stay() -> bool:
        visit = await place.peer().visit(ACTOR)
        end = asyncio.create_task(visit.end())
        await asyncio.to_thread(place.gate.close, finished=False)
        return await end

    assert asyncio.run(stay()) is False
    with pytest.raises(OSError):
        asyncio.run(place.peer().visit(ACTOR))


def test_who_leaves_right_after_the_handshake_is_no_more_than_a_broken_connection(place):
    """The transport has forgotten its socket by then."""

    async def connect() -> None:
        stream = await place.peer().open(RUN)
        stream.cut()
        await asyncio.sleep(0.1)
        with pytest.raises(ConnectionResetError):
            keep_alive(stream)

    asyncio.run(connect())


def test_signs_of_life(place, monkeypatch):
    monkeypatch.setattr(gates, "BEAT", 0.05)
    with place.connect() as connection:
        connection.sendall(greeting(ACTOR, place.join.token))
        file = connection.makefile("rb")
        assert json.loads(file.readline()) == {"service": ACTOR}
        assert [file.readline() for _ in range(3)] == [b"\n"] * 3


def test_a_socket_in_the_file_system_leads_to_the_service(place, tmp_path):
    async def talk() -> bytes:
        server = await place.peer().forward(tmp_path / "replay", REPLAY)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "replay")
        writer.write(b"hello")
        answer = await reader.readexactly(5)
        writer.close()
        server.close()
        return answer

    assert asyncio.run(talk()) == b"HELLO"


def test_the_secret_is_its_owners_and_lasts(tmp_path):
    join, _ = keep(tmp_path)
    for name in (JOIN, KEY):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert len(join.token) == TOKEN_LENGTH
    assert "PRIVATE" in (tmp_path / KEY).read_text()
    assert "PRIVATE" not in (tmp_path / JOIN).read_text(), "who joins cannot pose as the gate"
    assert read_join(tmp_path / JOIN) == join
    assert keep(tmp_path)[0] == join, "after a restart"
    (tmp_path / JOIN).chmod(0o644)
    assert keep(tmp_path)[0].token != join.token, "others could have read it"
    assert stat.S_IMODE((tmp_path / JOIN).stat().st_mode) == 0o600
    last = keep(tmp_path)[0]
    (tmp_path / KEY).unlink()
    assert keep(tmp_path)[0].certificate != last.certificate


def test_join_files_that_cannot_be_read(tmp_path):
    join, _ = keep(tmp_path)
    whole = (tmp_path / JOIN).read_text()
    for what, text in {
        "truncated": whole[: len(whole) // 2],
        "no object": "[1, 2]",
        "no token": json.dumps({"certificate": join.certificate}),
        "a number": json.dumps({"certificate": join.certificate, "token": 3}),
        "a short token": json.dumps({"certificate": join.certificate, "token": "abc"}),
        "no certificate": json.dumps({"certificate": "abc", "token": join.token}),
        "large": whole + " " * 2**17,
    }.items():
        with named(what):
            (tmp_path / JOIN).write_text(text)
            with pytest.raises(ValueError, match="cannot be read .*; give the join.json") as caught:
                read_join(tmp_path / JOIN)
            assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="No such file"):
        read_join(tmp_path / "none.json")
    with pytest.raises(ValueError, match="too large"):
        read_join(pathlib.Path("/dev/zero"))  # which has no end


# Opens the socket, goes on as another program in a network of its own, and accepts a connection.
PROGRAM = """
import os, socket, sys
from bmg.launch import isolation
from bmg.launch.remote.gate import listen

listener = listen(0)
why_not = isolation.enter([sys.executable, *sys.orig_argv[1:]])
print(listener.getsockname()[1], os.readlink("/proc/self/ns/net"), why_not, sep="|", flush=True)
listener.accept()[0].sendall(b"hello")
"""


def test_the_socket_stays_where_it_was_opened():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        port, network, why_not = process.stdout.readline().strip().split("|")
        if why_not:
            pytest.skip(why_not)
        assert network != os.readlink("/proc/self/ns/net")
        with socket.create_connection(("127.0.0.1", int(port)), timeout=DEADLINE) as connection:
            assert connection.recv(5) == b"hello"
    finally:
        process.kill()
        process.communicate()


def test_a_port_that_is_taken(monkeypatch):
    monkeypatch.delenv("BMG_GATE", raising=False)
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=rf"^--gate-port {port} cannot be had .*; give another"
        ):
            listen(port)
