"""A network of the run's own: what its servers listen on cannot be reached from another machine.

Reverb and Launchpad's courier listen on every interface, without a password, and courier unpickles
what it is sent. Where the kernel allows it, a run therefore lives in a network namespace that has
nothing but a loopback interface. A process of several threads cannot enter a new user namespace, so
this file is also a program: it is executed in the launcher's place, enters, and executes the
launcher again. Files, process ids and signals stay as they are. Linux alone has it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib.util
import os
import socket
import struct
import sys

_STATE = "BMG_NETWORK"  # "private", or why it is not, for the launcher that is executed again
NEW_NETWORK, NEW_HOST_NAME, _NEW_USER = 0x40000000, 0x04000000, 0x10000000  # linux/sched.h
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1  # linux/sockios.h, linux/if.h


def enter(command: list[str]) -> str:  # noqa: RET503 - what is executed does not come back
    """Goes on in a network namespace of its own, by executing the command there; it then comes here
    again.

    Args:
      command: of this process.

    Returns:
      Nothing where the network is private, else why it is not.
    """
    from bmg.launch import signals  # not where this file is the program

    if (state := os.environ.pop(_STATE, None)) is not None:
        signals.unblock()
        return "" if state == "private" else state
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no network namespaces"
    if importlib.util.find_spec("libtpu") is not None:
        return "a TPU's library asks the machine's metadata server"
    sys.stdout.flush()
    sys.stderr.flush()
    signals.block()  # until this program, executed again, answers them
    os.execv(sys.executable, [sys.executable, "-S", "-E", __file__, *command])


def inside() -> bool:
    """Whether a program before this one has entered, and said so."""
    return _STATE in os.environ


def hand_on(why_not: str) -> dict[str, str]:
    """The environment of a program that lives in this one's network, in which `enter` gives this
    answer."""
    return {**os.environ, _STATE: why_not or "private"}


def unshare(namespaces: int) -> None:
    """Moves this process into new namespaces.

    Raises:
      OSError: the kernel does not allow it.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(namespaces):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _enter_namespace() -> None:
    """Moves this process, of one thread, into new namespaces with a loopback interface.

    Raises:
      OSError: the kernel does not allow it.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(NEW_NETWORK)
    except OSError:  # an administrator's right, which everyone has in a user namespace
        unshare(_NEW_USER | NEW_NETWORK)
        # There everyone is who they were.
        for name, text in (
            ("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1"),
        ):  # fmt: skip
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _GET_FLAGS, request))[1]
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def _why_not() -> str:
    """Tries it in a child, as half an entry would leave a process without any network."""
    child = os.fork()
    if not child:
        try:
            _enter_namespace()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        return ""
    return f"the kernel does not allow a network namespace ({errno.errorcode.get(code, code)})"


def _main() -> None:
    why_not = _why_not()
    if not why_not:
        _enter_namespace()
    os.execve(sys.argv[1], sys.argv[1:], hand_on(why_not))


if __name__ == "__main__":
    _main()
