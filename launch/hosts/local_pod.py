"""`bmg pod local`: the hosts of a run as processes of this machine, with CPU devices.

    this process ── bridge of a network of its own ──┬── host 0: `bmg train --hosts.index 0 ...`
                                                     ├── host 1: `bmg train --hosts.index 1 ...`
                                                     └── ...

Each host has a network namespace and an address of its own, where the kernel allows it; all of it
is gone with the processes. Elsewhere they share this machine's loopback.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from typing import NamedTuple

from bmg.launch import environment, signals
from bmg.launch.hosts.cluster import PORT
from bmg.launch.options import option_of, take
from bmg.storage.fields import FieldError, LocalHosts, Natural, check_fields, from_dict, number
from bmg.storage.run_directory import host_folder

_LEAVE_SECONDS = 60.0  # that the other hosts have beyond --hosts.timeout when one has ended
_USAGE = """usage: bmg pod local --hosts N [--devices-per-host D] [--cores-per-host C] [OPTIONS]

  --hosts N             hosts, each a `bmg train` of its own with actors, replay and learner
  --devices-per-host D  CPU devices of each host (default 1)
  --cores-per-host C    cores of each host, its own as far as there are any (default: all share all)

OPTIONS are those of bmg train; --actors.* and --replay.* count on each host, batches, frames and
schedules are those of all hosts together."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How this machine is shared between hosts."""

    hosts: LocalHosts = 2
    devices_per_host: LocalHosts = 1
    cores_per_host: Natural = 0
    """0: all share all."""

    def __post_init__(self):
        check_fields(self)


class Networks(NamedTuple):
    """Where the hosts are."""

    addresses: list[str]
    interfaces: list[str]  # of each host in its own namespace; empty, all share one network
    port: int  # of the coordinator
    why_open: str  # why others can reach them, or nothing where they cannot


def main(arguments: list[str]) -> int:
    """Runs `bmg pod local`.

    Returns:
      The exit code: 0 complete, 1 a host failed, 130 stopped.

    Raises:
      ValueError: bad input; one line.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        print(_USAGE)
        return 0
    layout, options = _parse(arguments)
    from bmg.launch import isolation, train

    # Whatever is wrong with the options is said once, before anything starts.
    config = train.parse([*options, *_host_options(0, layout.hosts, f"127.0.0.1:{PORT}")])
    train.check_root(config)  # else the other hosts would wait for the first
    environment.clean()
    if config.network == "private":
        why_open = isolation.enter([sys.executable, *sys.orig_argv[1:]])
    else:
        why_open = "--network host"
    networks = _networks(layout.hosts, why_open)
    with signals.orderly() as asked:
        processes = _start(layout, networks, options, config.root)
        return _wait(processes, config.hosts.timeout + _LEAVE_SECONDS, config.root, asked)


def _parse(arguments: list[str]) -> tuple[Layout, list[str]]:
    """The layout, and the options of `bmg train`."""
    names = [field.name.replace("_", "-") for field in dataclasses.fields(Layout)]
    given, options = take(arguments, names)
    if None in given.values():
        name = next(name for name, text in given.items() if text is None)
        raise ValueError(f"--{name} has no value; see bmg pod local --help.")
    try:
        numbers = {name: number(text) for name, text in given.items()}
        layout = from_dict(Layout, {n.replace("-", "_"): x for n, x in numbers.items()})
    except FieldError as error:
        option = option_of(error.path)
        raise ValueError(f"{option} {error.problem}; see bmg pod local --help.") from None
    return layout, options


def _host_options(index: int, hosts: int, coordinator: str) -> list[str]:
    """What tells a `bmg train` which host it is."""
    options = ["--hosts.count", str(hosts), "--hosts.index", str(index)]
    return options + (["--hosts.coordinator", coordinator] if hosts > 1 else [])


def _networks(hosts: int, why_open: str) -> Networks:
    """A bridge with a cable for each host where this process has a network of its own."""
    if not why_open and hosts > 1:
        try:
            interfaces = _lay_cables(hosts)
            return Networks([f"10.77.0.{i + 1}" for i in range(hosts)], interfaces, PORT, "")
        except Exception as error:  # noqa: BLE001 - netlink's errors are of many kinds
            print(f"hosts share one loopback: no virtual network devices here ({error})")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return Networks(["127.0.0.1"] * hosts, [], one.getsockname()[1], why_open)


def _lay_cables(hosts: int) -> list[str]:
    """A bridge, and for each host a cable with one end in it; names of the other ends."""
    import pyroute2

    ends = [f"host{index}" for index in range(hosts)]
    with pyroute2.IPRoute() as network:
        network.link("add", ifname="bridge", kind="bridge")
        bridge = network.link_lookup(ifname="bridge")[0]
        network.link("set", index=bridge, state="up")
        for index, end in enumerate(ends):
            network.link("add", ifname=f"port{index}", kind="veth", peer={"ifname": end})
            port = network.link_lookup(ifname=f"port{index}")[0]
            network.link("set", index=port, master=bridge, state="up")
    return ends


def _plug_in(interface: str, pid: int) -> None:
    """Gives a cable's end to the namespace of a process."""
    import pyroute2

    with pyroute2.IPRoute() as network:
        network.link("set", index=network.link_lookup(ifname=interface)[0], net_ns_pid=pid)


def _start(
    layout: Layout, networks: Networks, options: list[str], root: pathlib.Path
) -> list[subprocess.Popen]:
    """Starts all hosts; host 0 has this process's console, the others files."""
    from bmg.launch.isolation import hand_on
    from bmg.launch.train import own_command
    from bmg.storage.processes import PARENT, name_of

    flags = f"--xla_force_host_platform_device_count={layout.devices_per_host}"
    variables = environment.expected(
        hand_on(networks.why_open),
        JAX_PLATFORMS="cpu",
        XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
        **{PARENT: name_of(os.getpid())},
    )
    processes: list[subprocess.Popen] = []
    coordinator = f"{networks.addresses[0]}:{networks.port}"
    try:
        for index, address in enumerate(networks.addresses):
            own = [networks.interfaces[index], address] if networks.interfaces else ["", ""]
            command = [sys.executable, "-m", "bmg.launch.hosts.local_host"]
            command += [*own, _cores(layout, index)]
            command += [*own_command(), "train", *options]
            command += _host_options(index, layout.hosts, coordinator)
            output = None
            if index:
                path = _console(root, index)
                path.parent.mkdir(parents=True, exist_ok=True)
                output = open(path, "a")  # noqa: SIM115 - the process has it
            processes.append(
                subprocess.Popen(
                    command, env=variables, stdin=subprocess.PIPE, stdout=output,
                    stderr=subprocess.STDOUT if output else None, start_new_session=True,
                )
            )  # fmt: skip
            if networks.interfaces:
                _await_namespace(processes[-1])
                _plug_in(networks.interfaces[index], processes[-1].pid)
            processes[-1].stdin.close()  # on you go
    except BaseException:
        _end(processes)
        raise
    return processes


def _cores(layout: Layout, index: int) -> str:
    """A host's cores, such as `2,3`; empty for all."""
    if not layout.cores_per_host:
        return ""
    there = sorted(os.sched_getaffinity(0))
    first = index * layout.cores_per_host
    return ",".join(str(there[(first + i) % len(there)]) for i in range(layout.cores_per_host))


def _console(root: pathlib.Path, index: int) -> pathlib.Path:
    """Where a host's console goes; the first one has this process's."""
    return host_folder(root, index) / "console.log"


def _await_namespace(process: subprocess.Popen) -> None:
    """Waits until a host has a network namespace of its own."""
    ours = os.readlink("/proc/self/ns/net")
    deadline = time.monotonic() + 30.0
    while os.readlink(f"/proc/{process.pid}/ns/net") == ours:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ValueError("a host got no network namespace; give --network host.")
        time.sleep(0.02)


def _wait(
    processes: list[subprocess.Popen],
    seconds: float,
    root: pathlib.Path,
    asked: threading.Event,
) -> int:
    """Stays until all hosts have ended; the exit code."""
    stopped, deadline = False, None
    while any(process.poll() is None for process in processes):
        if asked.is_set() and not stopped:
            stopped = True
            for process in processes:
                if process.poll() is None:
                    process.terminate()
        codes = [process.poll() for process in processes]
        if deadline is None and (stopped or any(code is not None for code in codes)):
            deadline = time.monotonic() + seconds  # the others end by themselves
        if deadline is not None and time.monotonic() > deadline:
            print("bmg: some hosts did not end by themselves and are ended", file=sys.stderr)
            _end(processes)
        time.sleep(0.2)
    failed = [index for index, process in enumerate(processes) if process.returncode]
    if stopped:
        return 130
    for index in failed:
        console = f"; its console: {_console(root, index)}" if index else ""
        print(
            f"bmg: host {index} ended with exit code {processes[index].returncode}{console}",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _end(processes: list[subprocess.Popen]) -> None:
    """Ends hosts in order, then at once."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=30.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
