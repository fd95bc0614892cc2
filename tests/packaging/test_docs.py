"""The documents: their lines, links, file names, and every command that they show."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bmg.launch import cli, options
from tests.examples.loading import load

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
WIDTH = 100  # characters of a line of prose
NOT_OURS = {"runs", "build", "dist"}  # folders that commands make
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()} - NOT_OURS
OPTION = re.compile(r"--[a-z][a-z0-9.-]*")


class Line(NamedTuple):
    """One line of a page."""

    number: int
    text: str
    block: int  # of code, numbered from 1; 0 outside


def lines_of(text: str) -> Iterator[Line]:
    """The lines of a page, without the fences of its code."""
    blocks, inside = 0, False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip().startswith("```"):
            inside = not inside
            blocks += inside
        else:
            yield Line(number, line, blocks if inside else 0)


def prose_of(text: str) -> list[Line]:
    """The lines that are neither code nor of a table."""
    return [line for line in lines_of(text) if not line.block and not line.text.startswith("|")]


def inline_code(text: str) -> list[str]:
    """What stands between backticks, outside code blocks; also where a line ends within."""
    outside = "\n".join(line.text for line in lines_of(text) if not line.block)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", outside)]


def shown_commands(text: str) -> list[str]:
    """Every command in the code blocks, without prompts and comments, on one line.

    A block with a prompt ($) is a transcript: its other lines are what was printed.
    """
    blocks: dict[int, list[str]] = {}
    for line in lines_of(text):
        if line.block:
            blocks.setdefault(line.block, []).append(line.text)
    found = []
    for block in blocks.values():
        whole = "\n".join(block).replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in whole):
            whole = [line[2:] for line in whole if line.startswith("$ ")]
        found += [re.sub(r"\s#.*", "", line).strip() for line in whole]
    return [command for command in found if command]


def slug(heading: str) -> str:
    """The anchor of a heading, as the site and code hosts make it."""
    kept = re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading).lower())
    return re.sub(r"\s+", "-", kept.strip())


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a page whose file or heading is not there."""
    wrong = []
    prose = "\n".join(line.text for line in lines_of(text) if not line.block)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match("[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists():
            wrong.append(target)
        elif anchor:
            headings = [line.text for line in prose_of(path.read_text()) if line.text[:1] == "#"]
            if anchor not in {slug(heading.lstrip("#")) for heading in headings}:
                wrong.append(target)
    return wrong


def is_path(code: str) -> bool:
    """Whether inline code names a file or a folder of the repository."""
    first, slash, _ = code.partition("/")
    if not re.fullmatch(r"[\w./-]+", code) or not slash or first in NOT_OURS:
        return False
    suffix = Path(code).suffix
    return suffix == ".py" or first in FOLDERS and (code.endswith("/") or suffix != "")


def test_the_checks_themselves():
    page = (
        "# A `b` (c)\n\n`meta/x.py` and `meta/share`, `runs/a.png`\n[a](#a-b-c)\n"
        "```\nbmg train --game pong \\\n    --frames 8  # comment\nmake lint\n```\n| `bmg x` | y |"
        "\n```\n$ make train\nbmg on catch\n```\n"
    )
    assert shown_commands(page) == [
        "bmg train --game pong      --frames 8", "make lint", "make train"
    ]  # fmt: skip
    assert broken_links(ROOT / "docs" / "x.md", "[](../README.md#limits) [](../README.md#no)") == [
        "../README.md#no"
    ]
    assert list(filter(is_path, inline_code(page))) == ["meta/x.py"]
    assert len(prose_of(page)) == 4
    assert "bmg x" in inline_code(page)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_links_and_names(page):
    text = page.read_text()
    long = [line.number for line in prose_of(text) if len(line.text) > WIDTH]
    assert not long, f"longer than {WIDTH}"
    assert not broken_links(page, text)
    assert not [code for code in inline_code(text) if is_path(code) and not (ROOT / code).exists()]


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        for command in [*shown_commands(text), *inline_code(text)]:
            if command.startswith("make "):
                words = [word for word in command.split()[1:] if "=" not in word]
                assert set(words) <= targets, f"{page.name}: {command}"


class Parsed(Exception):
    """The command line was accepted; what follows would run it."""


class Command(NamedTuple):
    """A `bmg` command that a page shows."""

    page: str
    text: str
    words: list[str]  # after `bmg`, up to `--`
    passed_on: list[str]  # after `--`: options of `bmg train`
    whole: bool  # it can be given as it is

    def path(self, below: dict[str, set[str]]) -> tuple[str, ...]:
        """The names of the command itself, such as ("mrp", "all")."""
        count = 1
        while count < len(self.words) and self.words[count] in below.get(
            " ".join(self.words[:count]), ()
        ):
            count += 1
        return tuple(self.words[:count])


def command_of(page: Path, text: str, in_block: bool) -> Command:
    words = shlex.split(text.partition("|")[0])[1:]
    at = words.index("--") if "--" in words else len(words)
    placeholder = re.search(r"(?<!:)\b[A-Z]{3,}\b|\.\.\.", text)
    # Within a sentence a command may stand for all of its kind: `bmg mrp --objective`.
    complete = in_block or (OPTION.search(text) and not words[-1].startswith("--"))
    whole = bool(complete and not placeholder)
    return Command(page.name, text, words[:at], words[at + 1 :], whole)


def bmg_commands() -> list[Command]:
    """All that the pages show."""
    found = []
    for page in PAGES:
        text = page.read_text()
        shown = [(code, True) for code in shown_commands(text)]
        shown += [(code, False) for code in inline_code(text)]
        found += [command_of(page, code, how) for code, how in shown if code.startswith("bmg ")]
    return found


class Program:
    """The `bmg` program, up to the point where it would do something."""

    def __init__(self, monkeypatch, capsys):
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def help(self, *names: str) -> str:
        """What `--help` prints."""
        self._capsys.readouterr()
        with contextlib.suppress(SystemExit):
            cli.run([*names, "--help"])
        return self._capsys.readouterr().out

    def options(self, *names: str) -> set[str]:
        """The options of a command."""
        more = self.options("train") if names == ("pod", "local") else set()
        return more | set(OPTION.findall(self.help(*names)))

    def below(self, name: str) -> set[str]:
        """The commands below a command."""
        pattern = rf"^(?:  |bmg {name} )([a-z][a-z-]+)  "
        return set(re.findall(pattern, self.help(*name.split()), re.MULTILINE))

    def stop_after_parsing(self) -> None:
        """From now on a command ends where its options are known to be right."""
        parse = options.parse_options

        def parse_only(*arguments, **keywords):
            parse(*arguments, **keywords)
            raise Parsed

        for name, module in list(sys.modules.items()):
            if name.startswith("bmg.") and getattr(module, "parse_options", None) is parse:
                self._monkeypatch.setattr(module, "parse_options", parse_only)

    def error(self, words: list[str]) -> str:
        """The line that refuses a command; "" if it is accepted."""
        self._capsys.readouterr()
        try:
            cli.run(words)
        except Parsed:
            return ""
        return self._capsys.readouterr().err


@pytest.fixture
def program(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")  # no option is broken over two lines
    return Program(monkeypatch, capsys)


def options_in(words: list[str]) -> set[str]:
    return {found.group() for word in words if (found := OPTION.match(word))}


def test_every_bmg_command_can_be_given(program):
    """Commands and options exist; what has no placeholders is also parsed, with its values."""
    load("quadratic")  # it is importable in its folder, for which its command is shown
    names = re.findall(r"^  ([a-z][a-z-]+)  ", program.help(), re.MULTILINE)
    names.append("quadratic:EXPERIMENT")
    below: dict[str, set[str]] = {}
    known: dict[tuple[str, ...], set[str]] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        below[name] = program.below(name)
        known[tuple(name.split())] = program.options(*name.split())
        waiting += [f"{name} {word}" for word in below[name]]
    shown = [command for command in bmg_commands() if command.words != ["--version"]]
    for command in shown:
        path = command.path(below)
        assert path in known, command
        assert options_in(command.words) <= known[path], command
        assert options_in(command.passed_on) <= known["train",], command

    every = {"--version", "--quiet"}.union(*known.values())
    for page in PAGES:
        for name in options_in(inline_code(page.read_text())):
            group = name.endswith(".") and any(x.startswith(name) for x in every)  # --hosts.*
            assert name in every or group, f"{page.name}: {name}"

    whole = [command for command in shown if command.whole]
    assert len(whole) > 40
    program.stop_after_parsing()
    for command in whole:
        # A run to resume is not there.
        assert not program.error([x for x in command.words if x != "--resume"]), command
        assert not program.error(["train", *command.passed_on]), command
