"""Ports of this machine."""

import random
import socket

# Above those that Launchpad draws (portpicker: 15,000 to 24,999), below those that Linux gives to
# whoever asks for any (from 32,768): nobody else takes one before its program opens it.
_OURS = range(25_000, 32_768)
_given: set[int] = set()
_draw = random.SystemRandom()  # each process its own, whatever seeds a test sets


def free_port() -> int:
    """One that nobody has at the moment, and that nobody was given before."""
    while True:
        port = _draw.choice(_OURS)
        with socket.socket(socket.AF_INET6) as one:
            try:
                one.bind(("", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
