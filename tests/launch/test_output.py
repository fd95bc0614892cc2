"""Standard output that outlives its reader, its disk and its alphabet."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest
from rich.console import Console

from bmg.launch import output
from tests.launch import commands
from tests.waiting import DEADLINE

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")


def test_a_reader_that_goes_away_is_no_error():
    """`bmg ... --help | head -1`."""
    for arguments in (["--help"], ["train", "--help"], ["benchmark"]):
        with subprocess.Popen(
            [*commands.BMG, *arguments], env=commands.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout.readline().startswith("usage: bmg")
            process.stdout.close()
            assert process.stderr.read() == ""
            assert process.wait(DEADLINE) == 0


def test_a_program_goes_on_without_its_reader(tmp_path):
    code = (
        "from bmg.launch import output; from rich.console import Console\n"
        "with output.unbreakable():\n"
        "  for i in range(20_000): print('line', i)\n"
        "  Console().print('rich')\n"
        "open('done', 'w').close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=commands.environment(), cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(DEADLINE) == 0
    assert (tmp_path / "done").exists()


def test_a_full_disk_loses_lines_and_nothing_else():
    code = (
        "import sys; from bmg.launch import output\n"
        "with output.unbreakable():\n"
        "  for i in range(20_000): print('line', i)\n"
        "  sys.stdout.flush()\n"
        "  print('still here', file=sys.stderr)"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], env=commands.environment(), stdout=full,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "still here\n")


def test_what_an_alphabet_lacks_is_escaped():
    variables = {**commands.environment(), "PYTHONIOENCODING": "ascii"}
    code = "from bmg.launch import output\nwith output.unbreakable(): print('κ = 0.5')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u03ba = 0.5\n", "")


def test_streams_are_what_they_were(capfd):
    before = sys.stdout, sys.stderr
    with output.unbreakable():
        assert sys.stdout.encoding == before[0].encoding
        assert sys.stdout.isatty() == before[0].isatty()
        assert sys.stdout.fileno() == before[0].fileno()
        print("out")
        print("err", file=sys.stderr)
        Console().print("rich")
    assert (sys.stdout, sys.stderr) == before
    assert capfd.readouterr() == ("out\nrich\n", "err\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_no_error(tmp_path, closed):
    """As a service may start it: no file that is opened later is taken for the console."""
    bmg = " ".join(map(shlex.quote, [*commands.BMG, "mrp", "--steps", "320", "--estimates", "2"]))
    done = subprocess.run(
        ["sh", "-c", f"{bmg} --workdir run {closed}"], env=commands.environment(), cwd=tmp_path,
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "run/lock").read_text().strip().isdecimal()
    assert json.loads((tmp_path / "run/results.json").read_text())["complete"] is True
