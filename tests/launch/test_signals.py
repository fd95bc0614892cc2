"""Ctrl-C, SIGTERM and a hang-up at any moment: one exit code, no traceback, nothing swallowed."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from bmg.launch import signals
from bmg.storage.processes import PARENT, name_of
from tests.launch import commands

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
# In one call that keeps the main thread for minutes, like a compilation.
BUSY = "import hashlib; print('ready', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"


@contextlib.contextmanager
def running(program: str, ignored: str = "", **variables: str):
    """A program that answers signals and has printed `ready`."""
    lines = ["from bmg.launch import signals", "import signal, sys, time", program]
    command = [sys.executable, "-c", "\n".join(lines)]
    if ignored:
        command = ["sh", "-c", f'trap "" {ignored}; exec "$@"', "sh", *command]
    process = subprocess.Popen(
        command, env={**commands.environment(), **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n", process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """(exit code, what it printed since); it prints no error."""
    process.wait(timeout=60)
    # Not by `communicate`: what came together with a line that was read would be lost.
    assert process.stderr.read() == ""
    return process.returncode, process.stdout.read()


@pytest.mark.parametrize("number", ENDING)
def test_who_has_nothing_to_keep_ends_at_once(number):
    with running(f"with signals.handled():\n  {BUSY}") as process:
        process.send_signal(number)
        assert ended(process) == (130, "")


ORDERLY = """
with signals.handled(), signals.orderly(LIMIT, lambda: print("at once", flush=True)) as asked:
  BUSY
  print("ready", flush=True)
  while not asked.is_set(): time.sleep(0.01)
  print("asked", flush=True)
  while ENDLESS: time.sleep(0.01)
print("ended by itself", flush=True)
sys.exit(7)
"""


def orderly(limit=None, busy: str = "", endless: bool = False) -> str:
    program = ORDERLY.replace("LIMIT", str(limit)).replace("BUSY", busy)
    return program.replace("ENDLESS", str(endless))


@pytest.mark.parametrize("number", ENDING)
def test_who_has_something_to_keep_is_asked(number):
    with running(orderly()) as process:
        process.send_signal(number)
        assert ended(process) == (7, "asked\nended by itself\n")


def test_a_second_signal_does_not_wait():
    with running(orderly(endless=True)) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked\n"
        time.sleep(2 * signals._SAME_SIGNAL)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (130, "at once\n")


def test_one_signal_from_two_senders_is_one():
    with running(orderly()) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGHUP)
        assert ended(process) == (7, "asked\nended by itself\n")


def test_who_cannot_look_in_time_is_ended():
    with running(orderly(limit=0.2, busy=BUSY)) as process:
        process.send_signal(signal.SIGINT)
        assert ended(process) == (130, "at once\n")


INTERRUPTING = """
try:
  with signals.handled(), signals.interrupting():
    try:
      print("ready", flush=True)
      while True: time.sleep(60)
    finally:
      print("tidying up", flush=True)
      time.sleep(0.3)
      print("tidied up", flush=True)
except KeyboardInterrupt:
  sys.exit(7)
"""


@pytest.mark.parametrize("number", ENDING)
def test_who_has_to_tidy_up_is_interrupted_once(number):
    with running(INTERRUPTING) as process:
        process.send_signal(number)
        assert process.stdout.readline() == "tidying up\n"
        process.send_signal(number)
        assert ended(process) == (7, "tidied up\n")


SWALLOWING = """
import gc, os, weakref
class Plain: pass
class Thing:
  def __del__(self): callback()
def callback(*_):
  if callback.calls: return
  callback.calls += 1
  print("called", flush=True)
  os.kill(os.getpid(), signal.SIGINT)
  time.sleep(0.01)
callback.calls = 0
print("ready", flush=True)
try:
  with signals.handled(), signals.interrupting():
    START
    time.sleep(60)
except KeyboardInterrupt:
  sys.exit(7)
"""


@pytest.mark.parametrize(
    "start",
    [
        "gc.callbacks.append(callback); gc.collect()",
        "Thing()",
        "things = [Plain()]; reference = weakref.ref(things[0], callback); things.clear()",
    ],
    ids=["collector", "destructor", "reference"],
)
def test_an_interruption_that_a_callback_swallowed_comes_again(start):
    with running(SWALLOWING.replace("START", start)) as process:
        assert ended(process) == (7, "called\n")


CHANGED = """
class Name:
  def __set_name__(self, owner, name):
    print("ready", flush=True)
    time.sleep(60)
try:
  with signals.handled(), signals.interrupting():
    try:
      WITHIN
    except RuntimeError as error:
      raise ValueError("cannot be imported") from error
except KeyboardInterrupt:
  sys.exit(7)
except ValueError:
  sys.exit(8)
"""


@pytest.mark.parametrize(
    "within",
    [
        "type('Owner', (), {'name': Name()})",
        "Name().__set_name__(None, '')",
    ],
    ids=["by Python", "not"],
)
def test_an_interruption_that_became_another_error_is_one_still(within):
    """Python 3.10 gives RuntimeError for whatever is raised while a class is made."""
    with running(CHANGED.replace("WITHIN", within)) as process:
        process.send_signal(signal.SIGINT)
        assert ended(process) == (7, "")


def test_an_error_without_an_interruption_stays():
    program = CHANGED.replace("WITHIN", "print('ready', flush=True); raise RuntimeError")
    with running(program) as process:
        assert ended(process) == (8, "")


@pytest.mark.parametrize("program", ["orderly", "interrupting", "nothing"])
def test_a_command_ends_like_the_one_that_started_it(program):
    program = {
        "orderly": orderly(), "interrupting": INTERRUPTING,
        "nothing": f"with signals.handled():\n  {BUSY}",
    }[program]  # fmt: skip
    with subprocess.Popen(["sleep", "600"]) as starter:
        with running(program, **{PARENT: name_of(starter.pid)}) as process:
            assert process.poll() is None
            starter.kill()
            starter.wait()
            assert ended(process)[0] in (7, 130)


def test_what_is_ignored_stays_ignored():
    """As under nohup, or in the background of a script."""
    with running(orderly(), ignored="HUP INT") as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (7, "asked\nended by itself\n")
    with running(orderly(), ignored="HUP INT") as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None


def test_what_is_ignored_is_also_kept_from_libraries():
    """Launchpad answers Ctrl-C for itself, whatever was there before."""
    program = orderly().replace("  BUSY", "").replace(
        "  print(\"ready\"", "  signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "  signals.take()\n  print(\"ready\"", 1
    )  # fmt: skip
    with running(program, ignored="INT") as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (7, "asked\nended by itself\n")


def test_signals_that_come_between_two_programs_are_not_lost():
    """Blocked in the first, answered in the one that is executed in its place."""
    second = (
        "from bmg.launch import signals, cli; import time\nwith signals.handled(): time.sleep(60)"
    )
    first = (
        "import os; signals.block(); os.kill(os.getpid(), signal.SIGTERM); "
        f"print('ready', flush=True); os.execv(sys.executable, [sys.executable, '-c', {second!r}])"
    )
    with running(first) as process:
        assert ended(process) == (130, "")


def test_handlers_are_left_as_they_were():
    before = [signal.getsignal(number) for number in ENDING]
    with signals.handled():
        assert [signal.getsignal(number) for number in ENDING] != before
        with signals.handled(), signals.orderly() as asked:
            assert not asked.is_set()
    assert [signal.getsignal(number) for number in ENDING] == before


def test_nothing_is_imported_before_signals_are_answered():
    code = (
        "import sys, bmg.launch.cli\n"
        "heavy = {'numpy', 'jax', 'tyro', 'rich', 'psutil', 'bmg.launch.options'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env=commands.environment(), capture_output=True, text=True
    )
    assert found.stdout == "[]\n", found.stderr


def answers_signals(pid: int) -> bool:
    """Whether a process catches SIGTERM, which Python by itself does not."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))
    return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3, 0.6, 1.2])
@pytest.mark.parametrize(
    "arguments",
    [
        "train --game catch --frames 2000000000 --workdir run",
        "two-colors --steps 1000000000 --seeds 1 --workdir run",
        "snake --steps 1000000000 --workdir run",
        "benchmark learner",
        "plot --workdirs nothing",
    ],
    ids=lambda text: text.split()[0],
)
def test_ctrl_c_in_the_first_seconds(tmp_path, arguments, delay):
    """Whatever is imported, compiled or started at that moment."""
    with commands.started(*arguments.split(), cwd=tmp_path) as run:
        while not answers_signals(run.process.pid) and run.process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        number = ENDING[int(10 * delay) % 3]
        over = run.process.poll() is not None
        run.process.send_signal(number)
        code, out, err = run.finish(60)
        assert run.left() == []
    assert "Traceback" not in out + err and "Exception" not in out + err
    if arguments.startswith("plot"):  # may be through
        assert code in (130, 2)
    else:
        assert not over and code == 130, (code, out, err)
