"""The console of a run: a few live lines of progress."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import shlex
import time
from collections.abc import Iterable, Mapping
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from bmg.storage.rows import METRICS, Row, parse_row

_SLOW_START = 10.0  # seconds after which it is said what a run waits for
_PLAIN_INTERVAL = 30.0  # seconds between lines where the output is no terminal


class LiveText:
    """Lines that are updated in place; where the output is no terminal, one comes now and then."""

    def __init__(self):
        """Opens the live lines; there is nothing in them yet."""
        self._console = Console(highlight=False)
        self._printed = time.monotonic() - _PLAIN_INTERVAL + 5.0
        self._live = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=2, transient=True)
            self._live.start()

    @property
    def ascii_only(self) -> bool:
        """Whether other characters cannot be shown."""
        return self._console.options.ascii_only

    def print(self, message: str) -> None:
        """Prints a line above the live ones."""
        self._console.print(Text(message), soft_wrap=True)

    def show(self, lines: str, plain: str) -> None:
        """Replaces the live lines, each of which is cut where the terminal ends.

        Args:
          lines: for a terminal.
          plain: one line that says the same elsewhere.
        """
        if self._live is not None:
            self._live.update(Text(lines, overflow="ellipsis", no_wrap=True))
        elif time.monotonic() - self._printed >= _PLAIN_INTERVAL:
            self._printed = time.monotonic()
            self.print(plain)

    def restore(self) -> None:
        """Gives the terminal its cursor back, from wherever the program is."""
        if self._live is not None:
            self._console.show_cursor(True)

    def close(self) -> None:
        """Takes the live lines off the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class RunConsole:
    """Shows a distributed run's progress, from the newest line of metrics.jsonl."""

    def __init__(self, workdir: pathlib.Path, total_frames: int, seeds: int = 1):
        """Opens the live lines; nothing that an earlier stretch of the run wrote is shown.

        Args:
          workdir: of the run, or of its first seed.
          total_frames: of the run.
          seeds: that run side by side.
        """
        self._new_lines = _NewLines(workdir / METRICS)
        self._total, self._seeds = total_frames, seeds
        self._latest: Row = {}
        self._started = time.monotonic()
        self._text = LiveText()

    def print(self, message: str) -> None:
        """Prints a line above the live ones."""
        self._text.print(message)

    def refresh(self, awaited: str = "") -> None:
        """Reads new metrics and redraws; plain lines come now and then where no terminal is.

        Args:
          awaited: what keeps the run from its first line of metrics.
        """
        self._read()
        now = self._latest, self._total, time.monotonic() - self._started, self._seeds, awaited
        self._text.show(live_lines(*now), progress_line(*now))

    def _read(self) -> None:
        try:
            anew, lines = self._new_lines.read()
        except OSError:  # it may be back at the next look
            return
        if anew:
            self._latest = {}
        for row in filter(None, map(parse_row, lines)):  # what precedes a session is not of it
            self._latest = {} if "session" in row else self._latest | row

    def restore(self) -> None:
        """Gives the terminal its cursor back, from wherever the program is."""
        self._text.restore()

    def close(self, last_line: bool = True) -> None:
        """Ends the live lines; the last state stays on screen, unless another line will say it."""
        self._read()
        self._text.close()
        if self._latest and last_line:
            elapsed = time.monotonic() - self._started
            self.print(progress_line(self._latest, self._total, elapsed, self._seeds))


class _NewLines:
    """Lines that are added to a file, which may be replaced, removed or cut meanwhile."""

    def __init__(self, path: pathlib.Path):
        """What stands in it now is not new."""
        self._path = path
        self._file: IO[bytes] | None = None  # open, so that no other file can get its number
        self._position = 0
        with contextlib.suppress(OSError):
            self._file = open(path, "rb")  # noqa: SIM115
            self._position = sum(len(line) for line in self._file if line.endswith(b"\n"))

    def read(self) -> tuple[bool, list[bytes]]:
        """Whether the file is not what it was, and its whole lines since the last look: then all.

        Raises:
          OSError: there is no file, or it cannot be read.
        """
        anew = self._is_another()
        if anew:
            file = open(self._path, "rb")  # noqa: SIM115
            if self._file is not None:
                self._file.close()
            self._file, self._position = file, 0
        self._file.seek(self._position)
        lines = [line for line in self._file if line.endswith(b"\n")]
        self._position += sum(map(len, lines))
        return anew, lines

    def _is_another(self) -> bool:
        found = os.stat(self._path)
        if self._file is None:
            return True
        opened = os.fstat(self._file.fileno())
        return not os.path.samestat(opened, found) or found.st_size < self._position


def progress_line(
    latest: Row, total: int, elapsed: float, seeds: int = 1, awaited: str = ""
) -> str:
    """One line: frames, rates, lag, what is wrong, scores, time left.

    Args:
      latest: the newest value of each metric.
      total: environment frames of the whole run.
      elapsed: seconds since this stretch of the run began.
      seeds: that run side by side, of which this is the first one.
      awaited: what keeps the run from its first line of metrics.
    """
    if not _has_begun(latest):
        return _starting(elapsed, awaited)
    parts = [_frames(latest, total), _rate(latest, seeds)]
    if "learner/updates_per_second" in latest:
        parts.append(f"{latest['learner/updates_per_second']:.2f} updates/s")
    if "policy_lag/mean" in latest:
        parts.append(f"lag {latest['policy_lag/mean']:.1f}")
    if "nodes/remote_actors" in latest:
        parts.append(f"actors elsewhere {latest['nodes/remote_actors']:.0f}")
    parts += [*_problems(latest), *_returns(latest), _left(latest, total)]
    return " | ".join(parts)


def live_lines(latest: Row, total: int, elapsed: float, seeds: int = 1, awaited: str = "") -> str:
    """Two lines for a terminal of 80 columns: how far the run is, and what comes of it; arguments
    as of `progress_line`."""
    if not _has_begun(latest):
        return _starting(elapsed, awaited)
    first = " | ".join([_frames(latest, total), _rate(latest, seeds), _left(latest, total)])
    second = " | ".join([*_returns(latest), *_problems(latest)])
    return f"{first}\n{second or 'no episode has ended yet'}"


def closing_lines(results: Mapping[str, Any], seeds: list[pathlib.Path]) -> str:
    """What a complete run came to, and what can be done with it.

    Args:
      results: of the run, as in results.json.
      seeds: the folder of the run, or of each of its seeds.
    """
    several = f" x {len(seeds)} seeds" if len(seeds) > 1 else ""
    parts = [
        f"complete: {results['frames']:,} frames{several} in {duration(results['wall_seconds'])}",
        *_returns({
            name: results[key] for name, key in _CLOSING.items() if results.get(key) is not None
        }),
    ]  # fmt: skip
    whole = seeds[0].parent if several else seeds[0]
    first, folder = shlex.quote(str(seeds[0])), shlex.quote(str(whole))
    return (
        f"{' | '.join(parts)}\n{whole / 'results.json'} | bmg plot {folder} | "
        f"bmg evaluate --workdir {first} --video play.gif"
    )


_CLOSING = {
    "training/return": "training_return",
    "evaluation/return": "evaluation_return",
    "evaluation/human_normalized_score": "human_normalized_score",
}


def _has_begun(latest: Row) -> bool:
    return {"learner/frames", "learner/frames_per_second"} <= latest.keys()


def _starting(elapsed: float, awaited: str) -> str:
    if awaited and elapsed > _SLOW_START:
        return f"starting for {elapsed:.0f} s: {awaited}"
    return f"starting: environments and the first compilation, {elapsed:.0f} s so far"


def _frames_done(latest: Row, total: int) -> int:
    return min(max(int(latest["learner/frames"]), 0), total)


def _frames(latest: Row, total: int) -> str:
    done = _frames_done(latest, total)
    return f"{done:,} of {total:,} frames ({100 * done / total:.0f} %)"


def _rate(latest: Row, seeds: int) -> str:
    each = f" x {seeds} seeds" if seeds > 1 else ""
    return f"{latest['learner/frames_per_second']:,.0f} frames/s{each}"


def _left(latest: Row, total: int) -> str:
    done = _frames_done(latest, total)
    if done == total:
        return "last evaluation"
    return f"{duration((total - done) / max(latest['learner/frames_per_second'], 1e-9))} left"


def _returns(latest: Row) -> list[str]:
    parts = []
    if "training/return" in latest:
        parts.append(f"training {_number(latest['training/return'])}")
    if "evaluation/return" in latest:
        score = latest.get("evaluation/human_normalized_score")
        human = f" ({100.0 * score:.0f} % human)" if score is not None else ""
        parts.append(f"evaluation {_number(latest['evaluation/return'])}{human}")
    return parts


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 1_000 else f"{value:,.0f}"


_PROBLEMS = {
    "learner/skipped_updates": "updates skipped (not finite)",
    "actors/not_finite_rewards": "rewards not finite",
    "learner/stalls": "stalls",
    "nodes/restarts": "restarts of nodes",
}


def _problems(latest: Row) -> list[str]:
    return [f"{latest[name]:.0f} {text}" for name, text in _PROBLEMS.items() if latest.get(name)]


class StepsConsole:
    """A progress bar over the steps of lifetimes that run side by side."""

    def __init__(self, total: int, seeds: int, title: str, counted: str):
        """Args: `total` steps of each of `seeds` lifetimes, which are called `counted`; `title`
        stands before the bar."""
        self._total, self._seeds, self._title, self._counted = total, seeds, title, counted
        self._console = Console(highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=self._console,
            disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=total, rate="compiling")
        self._first: tuple[float, int] | None = None
        self._printed = time.monotonic() - _PLAIN_INTERVAL + 5.0

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *exception):
        self._bar.stop()

    def update(self, steps: int) -> None:
        """Says how far each lifetime is; plain lines come now and then where no terminal is."""
        now = time.monotonic()
        if self._first is None:  # after compilation
            self._first = (now, steps)
            self._bar.update(self._task, completed=min(steps, self._total), rate="")
            return
        rate = (steps - self._first[1]) / max(now - self._first[0], 1e-9)
        text = f"{self._seeds * rate:,.0f} {self._counted}/s"
        self._bar.update(self._task, completed=min(steps, self._total), rate=text)
        if not self._console.is_terminal and now - self._printed >= _PLAIN_INTERVAL:
            self._printed = now
            several = f" x {self._seeds} seeds" if self._seeds > 1 else ""
            left = duration(max(self._total - steps, 0) / max(rate, 1e-9))
            self._console.print(
                f"{self._title}: {min(steps, self._total):,} of {self._total:,} "
                f"{self._counted}{several} | {text} | {left} left",
                soft_wrap=True,
            )


def sparkline(values: Iterable[float], low: float, high: float, ascii_only: bool = False) -> str:
    """A character for each value, from the lowest to the highest; a blank for NaN."""
    levels = "_.-:=+*#" if ascii_only else "▁▂▃▄▅▆▇█"
    width = max(high - low, 1e-9)

    def level(value: float) -> str:
        return levels[min(max(int((value - low) / width * len(levels)), 0), len(levels) - 1)]

    return "".join(" " if math.isnan(value) else level(value) for value in values)


def duration(seconds: float) -> str:
    """Hours and minutes, or seconds."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
