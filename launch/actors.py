"""`bmg actors`: actors of a run on another machine, which they join through its gate.

    actor processes ──► sockets in a folder ──► this process ──► TLS ──► gate ──► replay, learner
                        that is the user's alone

The run's configuration comes through the gate. The processes choose their actions themselves, and
pull parameters as the run's own do.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import math
import os
import pathlib
import re
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from typing import Any

from bmg import __version__
from bmg.agents.config import ALGORITHMS
from bmg.launch import environment, signals
from bmg.launch.config import TrainConfig
from bmg.launch.options import parse_options
from bmg.launch.remote.gate import RUN
from bmg.launch.remote.peer import Peer, Visit
from bmg.launch.remote.secret import Join, read_join, why_exposed
from bmg.launch.remote.streams import allow_many_connections
from bmg.launch.runtimes.choice import why_no_launchpad
from bmg.launch.runtimes.processes.remote import COMMAND, task
from bmg.launch.runtimes.restarts import Restarts
from bmg.launch.runtimes.status import ACTOR, LEARNER, REPLAY
from bmg.storage.fields import (
    Environments,
    Nodes,
    Pause,
    Seconds,
    Threads,
    check_fields,
    from_dict,
    host_and_port,
    shown,
)

_SELF_CONTAINED = set(ALGORITHMS) - {"lpg"}  # the others need a file of this machine
_LONGEST_PAUSE = 5.0  # seconds between attempts to reach the run
_LOOK = 0.1  # seconds between looks at whether to stop
_LONGEST_SOCKET = 107  # bytes of a path that a socket can have on Linux
_ERRNO = re.compile(r"\[Errno (\d+)\]")
_SAME_CAUSE = 2.0  # seconds within which a process dies of the connection that is about to be lost


@dataclasses.dataclass(frozen=True)
class ActorsConfig:
    """Join a run with actors of this machine; the run was started with --gate-port."""

    learner: str
    """HOST:PORT of the run's gate."""
    join: str
    """The run's join.json, or a copy of it that its owner alone can read."""
    actors: Nodes = 1
    """Actor processes."""
    envs_per_actor: Environments | None = None
    """Environments of each, stepped as one vector; None for as many as the run's own have."""
    env_threads: Threads | None = None
    """Threads that step them; None for the run's."""
    parameter_interval: Pause | None = None
    """Seconds between a process's looks for newer parameters, each of which carries all of them
    over the network; None for the run's."""
    rule: str | None = None
    """File of an lpg agent's rule, a copy of the run's rule.npz; None for the path that the run
    has, on this machine."""
    patience: Seconds = 600.0
    """Seconds without a connection to the run, before the first one or between two, after which
    this gives up."""

    def __post_init__(self):
        check_fields(self)
        if host_and_port(self.learner) is None or not self.host:
            raise ValueError(
                f"learner is {shown(self.learner)}; give HOST:PORT, the port as of --gate-port, an "
                "IPv6 address in brackets."
            )

    @property
    def host(self) -> str:
        """Where the run is; an IPv6 address without its brackets."""
        return host_and_port(self.learner)[0].removeprefix("[").removesuffix("]")

    @property
    def port(self) -> int:
        """Of its gate."""
        return host_and_port(self.learner)[1]

    def changed(self, config: dict[str, Any]) -> dict[str, Any]:
        """The run's configuration with what is another one here."""
        names = ("envs_per_actor", "env_threads", "parameter_interval")
        given = {name: x for name in names if (x := getattr(self, name)) is not None}
        changed = {**config, "actors": {**config["actors"], **given}}
        if self.rule is not None:
            agent = config["agent"]
            changed["agent"] = {**agent, "lpg": {**agent["lpg"], "rule": self.rule}}
        return changed


class _Ended(Exception):
    """Why there is no going on: a line."""


def main(arguments: list[str]) -> int:
    """Runs `bmg actors`.

    Returns:
      The exit code: 0 the run is complete, 1 it is out of reach or actors keep dying, 130 stopped.

    Raises:
      ValueError: bad input, or another run; one line.
    """
    config = parse_options(ActorsConfig, "bmg actors", arguments)
    environment.clean()
    if why := why_no_launchpad():
        raise ValueError(f"bmg actors: {why}.")
    path = pathlib.Path(config.join)
    join = read_join(path)
    if why := why_exposed(path):
        print(f"bmg: {why}", file=sys.stderr, flush=True)
    return _act(config, join)


def _act(config: ActorsConfig, join: Join) -> int:
    with signals.orderly() as asked:
        return asyncio.run(_run_and_leave(config, join, asked))


async def _run_and_leave(config: ActorsConfig, join: Join, asked: threading.Event) -> int:
    """The same as `_run`; who asked it to stop does not wait for a name server, as asyncio would
    for its thread that looks up the run's name."""
    code = await _run(config, join, asked)
    if asked.is_set():
        signals.leave(code)
    return code


async def _run(config: ActorsConfig, join: Join, asked: threading.Event) -> int:
    allow_many_connections()
    peer = Peer(config.host, config.port, join)
    # Whoever can open these sockets reaches the run: the folder is for this user alone.
    with tempfile.TemporaryDirectory(prefix="bmg-") as private:
        folder = pathlib.Path(private)
        if len(os.fsencode(folder / LEARNER)) > _LONGEST_SOCKET:
            raise ValueError(
                f"TMPDIR is {shown(tempfile.gettempdir())}, too long for a socket's path; give a "
                "shorter one, such as TMPDIR=/tmp."
            )
        servers = [await peer.forward(folder / name, name) for name in (REPLAY, LEARNER)]
        host = _Host(config, peer, folder)
        work = asyncio.create_task(host.run())
        try:
            while not work.done() and not asked.is_set():
                await asyncio.wait({work}, timeout=_LOOK)
            if not work.done():
                print("stopped", flush=True)
                return signals.EXIT_CODE
            await work
            print("the run is complete", flush=True)
            return 0
        except _Ended as error:
            print(f"bmg: {error}", file=sys.stderr, flush=True)
            return 1
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            for server in servers:
                server.close()


class _Host:
    """This machine's actors, while the run goes on."""

    def __init__(self, config: ActorsConfig, peer: Peer, folder: pathlib.Path):
        # Which imports Launchpad.
        from bmg.launch.runtimes.processes.program import acting_environment

        self._config, self._peer, self._folder = config, peer, folder
        self._environment = {**os.environ, **acting_environment()}

    async def run(self) -> None:
        """Stays until the run is complete.

        Raises:
          ValueError, _Ended: it cannot go on; one line.
        """
        from bmg.environments.factory import make_spec

        visit = await self._visit(RUN, self._config.patience)
        try:
            run = from_dict(TrainConfig, self._config.changed(visit.welcome["config"]))
            if self._config.rule is not None and run.agent.algorithm != "lpg":
                raise ValueError(
                    f"--rule is for a run of the agent lpg, and this one's is "
                    f"{run.agent.algorithm}; leave it out."
                )
            spec = make_spec(run.game, run.atari, run.game_options)  # a game that is not here
            if run.agent.algorithm not in _SELF_CONTAINED:  # an agent that is not
                from bmg.launch.runtimes.assembly import acting

                acting(run.agent, spec)
        except BaseException:
            visit.close()
            raise
        print(
            f"actors: {self._config.actors}, for {run.agent.algorithm} on {run.game} at "
            f"{self._peer.address}", flush=True,
        )  # fmt: skip
        tasks = {asyncio.create_task(self._watch(visit))}
        tasks |= {asyncio.create_task(self._keep(i)) for i in range(self._config.actors)}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _visit(self, service: str, patience: float = math.inf) -> Visit:
        """A connection to the gate, tried again and again for so many seconds."""
        started, pause = time.monotonic(), 1.0
        while True:
            try:
                visit = await self._peer.visit(service)
                break
            except OSError as error:
                problem = f"no connection to {self._peer.address} ({_reason(error)})"
            if time.monotonic() - started > patience:
                raise _Ended(
                    f"{problem} for {patience:g} s; start the run with --gate-port "
                    f"{self._config.port}, let firewalls pass that port, or give another --learner."
                )
            if pause == 1.0 and patience < math.inf:
                print(
                    f"{problem}; is the run there, with --gate-port {self._config.port}? tries for "
                    f"{patience:g} s", flush=True,
                )  # fmt: skip
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        there = visit.welcome.get("version")
        if there != __version__:
            visit.close()
            raise ValueError(
                f"the run at {self._peer.address} is of bmg {there}, and this is {__version__}; "
                "install the same on both machines."
            )
        return visit

    async def _watch(self, visit: Visit) -> None:
        """Stays until the run is complete, over connections that break."""
        try:
            while not await visit.end():
                visit.close()
                print(f"the connection to {self._peer.address} is lost", flush=True)
                visit = await self._visit(RUN, self._config.patience)
                print(f"connected to {self._peer.address} again", flush=True)
        finally:
            visit.close()

    async def _keep(self, index: int) -> None:
        """Keeps an actor alive until the run is complete; while the connection is lost there is
        none."""
        name, restarts = f"actor {index}", None
        while True:
            with contextlib.closing(await self._visit(ACTOR)) as visit:
                run = self._config.changed(visit.welcome["config"])
                restarts = restarts or Restarts(run["node_restarts"])
                complete, death = await self._one_life(visit, run)
            if complete:
                return
            if death is None:  # the connection is lost
                continue
            again = restarts.died(name)
            if not again:
                raise _Ended(restarts.describe(name, death))
            print(restarts.describe(name, death), flush=True)
            while not restarts.due():
                await asyncio.sleep(_LOOK)

    async def _one_life(self, visit: Visit, run: dict[str, Any]) -> tuple[bool, str | None]:
        """An actor from its start to its end: whether the run is complete, and what the actor died
        of, which may be nothing that is known; None where it was only cut off."""
        process = await self._start(run, visit.welcome["number"])
        died = asyncio.ensure_future(_last_sign(process, run["silence_timeout"]))
        ended = asyncio.ensure_future(visit.end())
        try:
            await asyncio.wait({died, ended}, return_when=asyncio.FIRST_COMPLETED)
            if died.done():
                await asyncio.wait({ended}, timeout=_SAME_CAUSE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it has nothing to save
            code = await process.wait()
            cut_off = ended.done() and not ended.cancelled()
            ended.cancel()
            died.cancel()
        if cut_off:
            return ended.result(), None
        return False, died.result() or (f"exit code {code}" if code > 0 else "")

    async def _start(self, run: dict[str, Any], number: int) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others
        )  # fmt: skip
        process.stdin.write(task(run, number, self._folder))
        process.stdin.close()
        return process


def _reason(error: OSError) -> str:
    """Why there is no connection, in our own words as far as there are some."""
    if isinstance(error, socket.gaierror):
        return error.strerror
    if isinstance(error, ssl.SSLError):
        return "what answers there is not a run's gate"
    # A name with several addresses has several errors, of which asyncio joins the texts.
    found = {error.errno} if error.errno else {int(x) for x in _ERRNO.findall(str(error))}
    if errno.ECONNREFUSED in found:
        return "refused: nothing listens there"
    reasons = sorted(map(os.strerror, found))
    return ", ".join(reasons) or str(error) or type(error).__name__


async def _last_sign(process: asyncio.subprocess.Process, seconds: float) -> str:
    """Waits until the process has ended, or has given no sign of life for so long: why it is to be
    killed then."""
    try:
        while await asyncio.wait_for(process.stdout.read(64), seconds):
            pass
    except asyncio.TimeoutError:
        return f"no sign of life for {seconds:g} s"
    return ""
