"""Ctrl-C, SIGTERM and a hang-up, from the first moment of a command to its last.

An exception, Python's own way, may be raised inside a callback of JAX, which swallows it, or wait
for a compilation of a minute. Here a signal wakes a thread. Where a command has nothing to keep,
the thread ends the process at once; within `orderly` it sets an event that the command looks at;
within `interrupting` the main thread gets a KeyboardInterrupt, and has a time to end by itself; if
a callback swallowed it, it gets another one.

A command that another process started for its own purposes (`storage.processes.child_environment`)
takes the end of that process for a signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from bmg.storage.processes import PARENT, is_running

EXIT_CODE = 130
_SAME_SIGNAL = 0.5  # seconds within which a second signal is the first one, sent by two senders
_AGAIN = 0.05  # seconds until an interruption that was swallowed comes again
_PARENT_INTERVAL = 1.0  # seconds between looks at whether the parent is there
_ENDING = tuple(
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if (number := getattr(signal, name, None)) is not None
)


class _Scope:
    """How signals are answered at present."""

    def __init__(
        self,
        limit: float | None = None,
        at_once: Callable[[], None] = lambda: None,
        raises: bool = False,
    ):
        self.limit, self.at_once, self.raises = limit, at_once, raises
        self.interrupted = False  # whether the main thread has got a KeyboardInterrupt
        self.asked = threading.Event()
        self.first = float("inf")  # when the first signal came
        self.over = threading.Event()


class _Watch:
    """The thread that answers signals, and what it answers them by."""

    def __init__(self):
        self.scope: _Scope | None = None
        self._raised = -float("inf")  # when the main thread was interrupted last
        self._writer, self._reader = socket.socketpair()
        self._writer.setblocking(False)
        self._lock = threading.Lock()  # signals, a parent that is gone: one at a time
        # One that is ignored (nohup, a job in the background of a script) stays so.
        self._before = {number: signal.getsignal(number) for number in _ENDING}
        self._numbers = [n for n in _ENDING if self._before[n] is not signal.SIG_IGN]
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self.take()
        unblock()
        threading.Thread(target=self._serve, name="signals", daemon=True).start()
        if parent := os.environ.get(PARENT, ""):
            threading.Thread(target=self._follow, args=(parent,), daemon=True).start()

    def take(self) -> None:
        for number in _ENDING:
            answered = number in self._numbers
            signal.signal(number, self._in_main_thread if answered else signal.SIG_IGN)

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup_before)
        self._writer.close()

    def _in_main_thread(self, *_) -> None:
        """Python's own handler: the thread has been woken already, or is about to be."""
        scope = self.scope
        if scope is not None and scope.raises and not scope.over.is_set():
            scope.raises, scope.interrupted = False, True
            self._raised = time.monotonic()
            raise KeyboardInterrupt

    def _serve(self) -> None:
        while received := self._reader.recv(1):
            if received[0] in self._numbers:
                self.answer()
        self._reader.close()

    def _follow(self, parent: str) -> None:
        while is_running(parent):
            time.sleep(_PARENT_INTERVAL)
        if (scope := self.scope) is not None and scope.raises:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        self.answer()

    def answer(self) -> None:
        """What is done about one signal."""
        with self._lock:
            scope, now = self.scope, time.monotonic()
            if scope is None:
                # The main thread may have been interrupted, and out of its block, before this one.
                if now - self._raised > _SAME_SIGNAL:
                    os._exit(EXIT_CODE)
                return
            if not scope.asked.is_set():
                scope.first = now
                scope.asked.set()
                if scope.limit is not None:
                    threading.Thread(target=_end_late, args=(scope,), daemon=True).start()
            elif now - scope.first > _SAME_SIGNAL:
                scope.at_once()
                os._exit(EXIT_CODE)


def _end_late(scope: _Scope) -> None:
    """Ends a process that has not ended by itself in time: it is in a compilation, say."""
    if not scope.over.wait(scope.limit):
        scope.at_once()
        os._exit(EXIT_CODE)


_watch: _Watch | None = None


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Answers signals within the block; once in a process at a time, in its main thread."""
    global _watch
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _watch = _Watch()
    try:
        yield
    finally:
        _watch.restore()
        _watch = None


def take() -> None:
    """Takes the signals back from a library that has taken them for itself."""
    if _watch is not None:
        _watch.take()


@contextlib.contextmanager
def orderly(
    limit: float | None = None, at_once: Callable[[], None] = lambda: None
) -> Iterator[threading.Event]:
    """A block that ends by itself when it is asked to: yields the event that says so.

    Args:
      limit: seconds after the first signal at which the process is ended; None for no such end.
      at_once: called before it is, and before a second signal ends it; from another thread.
    """
    with _scoped(_Scope(limit, at_once)) as scope:
        yield scope.asked


@contextlib.contextmanager
def interrupting(limit: float | None = None) -> Iterator[None]:
    """A block into which the first signal raises KeyboardInterrupt, for commands that have to tidy
    up wherever they are; they have so many seconds for it, or as many as they want.

    Whatever other error the block ends by after that stands for the interruption: Python makes a
    RuntimeError of one that comes while a class gets its attributes' names, say.
    """
    with _scoped(_Scope(limit, raises=True)) as scope:
        before = sys.unraisablehook
        sys.unraisablehook = lambda found: _again(scope) if _is_ours(found) else before(found)
        try:
            yield
        except Exception as error:
            if scope.interrupted:
                raise KeyboardInterrupt from error
            raise
        finally:
            sys.unraisablehook = before


def _is_ours(unraisable) -> bool:
    """Whether what Python cannot raise, since a destructor or a callback of C code that gives no
    errors was running, is an interruption."""
    return issubclass(unraisable.exc_type, KeyboardInterrupt)


def _again(scope: _Scope) -> None:
    """Has the main thread interrupted once more, soon: not within the same callback."""

    def interrupt():
        if not scope.over.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    scope.asked.clear()  # what comes is the first signal, no second one that ends the process
    scope.raises = True
    timer = threading.Timer(_AGAIN, interrupt)
    timer.daemon = True
    timer.start()


@contextlib.contextmanager
def _scoped(scope: _Scope) -> Iterator[_Scope]:
    watch = _watch
    if watch is None:  # called as a function, by a test
        yield scope
        return
    before, watch.scope = watch.scope, scope
    try:
        yield scope
    finally:
        scope.over.set()
        watch.scope = before


def ignore() -> None:
    """Ignores signals from now on: the process is ending, with its own exit code."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """Ends the process at once, after what it has printed: no thread is waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def block() -> None:
    """Holds signals back while this process executes another program in its own place, which calls
    `unblock` as soon as it answers them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)


def unblock() -> None:
    """Lets signals through, also those that came meanwhile."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
