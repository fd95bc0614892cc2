"""Ports of this machine."""

import socket


def free_port() -> int:
    """One that nobody has at the moment."""
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]
