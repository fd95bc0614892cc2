"""Another library's program, which takes its turns in a benchmark when it is asked to.

It reads a request from each line of its input and answers with a line, both JSON objects, after a
first line of its own with its versions. Such programs are in `benchmarks/peers/`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Sequence


class Peer:
    """A running program; once it has failed, it is left out."""

    def __init__(self, command: Sequence[str]):
        """Starts it.

        Raises:
          OSError: there is no such program.
        """
        self.note = ""
        """Its versions, or why it has failed, in one line."""
        self.failed = False
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        # Out of reach of Ctrl-C: who started it ends it. Its input ends with that process at last.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            start_new_session=True,
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        """Until it has imported what it needs."""
        self.note = self._answer("versions") or self.note

    def ask(self, **request) -> float | None:
        """The seconds that it has measured; None where it has failed."""
        if self.failed:
            return None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer("seconds")

    def _answer(self, name: str):
        """A value of the next line; None where it has failed."""
        line = self._process.stdout.readline()
        try:
            return json.loads(line)[name]
        except (ValueError, KeyError, TypeError):
            self.failed = True
            self.note = f"answered {line.strip()[:80]!r}" if line else self._reason()
            return None

    def _reason(self) -> str:
        """Why it has ended: the last line that it wrote to its errors."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().split("\n")
        return next((x for x in reversed(lines) if x.strip()), f"ended with exit code {code}")

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(BrokenPipeError), self._process:
            self._process.kill()
        self._errors.close()
