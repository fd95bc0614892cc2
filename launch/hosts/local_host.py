"""A host of `bmg pod local`, before it is one: takes its cores and its network, then executes the
command. `python -m bmg.launch.hosts.local_host INTERFACE ADDRESS CORES COMMAND...`; empty for
none, all."""

from __future__ import annotations

import os
import socket
import sys

from bmg.launch.isolation import NEW_HOST_NAME, NEW_NETWORK, unshare


def main() -> None:
    """Becomes the host."""
    interface, address, cores, *command = sys.argv[1:]
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    if interface:
        try:
            unshare(NEW_NETWORK | NEW_HOST_NAME)
        except OSError as error:
            sys.exit(f"bmg: no network namespace for a host: {error.strerror}")
    sys.stdin.read()  # until the cable is plugged in
    if interface:
        # Gloo, which sums over CPUs, tells the others the address that this host's name has.
        socket.sethostname(address)
        _set_up(interface, address)
    os.execv(command[0], command)


def _set_up(interface: str, address: str) -> None:
    """Brings the loopback up, and the interface at its address."""
    import pyroute2

    with pyroute2.IPRoute() as network:
        for name in ("lo", interface):
            index = network.link_lookup(ifname=name)[0]
            if name == interface:
                network.addr("add", index=index, address=address, prefixlen=24)
            network.link("set", index=index, state="up")


if __name__ == "__main__":
    main()
