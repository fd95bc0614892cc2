"""Command-line options from a frozen dataclass, with errors in one line."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Config = TypeVar("Config")


def check_name(kind: str, name: str, allowed: Iterable[str]) -> None:
    """Refuses a name that is not among `allowed`.

    Raises:
      ValueError: in one line that names the allowed ones and the nearest match.
    """
    allowed = list(allowed)
    if name not in allowed:
        near = difflib.get_close_matches(name, allowed, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"no {kind} {name!r}; there are {', '.join(allowed)}.{hint}")


def choose(
    prog: str, kind: str, meanings: Mapping[str, str], arguments: list[str], more: str = ""
) -> str | None:
    """The first argument, one of several names.

    Args:
      prog: the command before it, as the user types it.
      kind: what the names are.
      meanings: what each of them means.
      arguments: what follows `prog`.
      more: ends the list of names.

    Returns:
      The name; None where there is none, or help is wanted: then the names were printed.

    Raises:
      ValueError: another name; one line.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, meanings))
        print(f"usage: {prog} {kind.upper()} [OPTIONS]\n")
        print("\n".join(f"  {name:<{width}}  {text}" for name, text in meanings.items()))
        if more:
            print(f"\n{more}")
        return None
    check_name(kind, arguments[0], meanings)
    return arguments[0]


def parse_options(cls: type[Config], prog: str, arguments: list[str], default=None) -> Config:
    """Options of a dataclass: each field's name, meaning and default stand in `--help`.

    Args:
      cls: the dataclass.
      prog: the command as the user types it.
      arguments: what follows it.
      default: an instance whose values the options change; None for the class's own defaults.

    Raises:
      ValueError: an option that is unknown or has a value that is not allowed; one line.
    """
    import tyro

    errors = io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(cls, prog=prog, args=arguments, **options)
    except SystemExit as ended:
        if not ended.code:
            raise  # --help
        text = " ".join(re.sub(r"[─-╿]", " ", errors.getvalue()).split())
        text = re.sub(r"(For full helptext|Argument helptext).*", "", text)
        text = re.sub(r"(Perhaps you meant: --\S+).*", r"\1", text)
        titles = r"^(Invalid choice|Value error|Parsing error|Unrecognized options) "
        text = re.sub(titles, "", text)
        raise ValueError(f"{text.strip().rstrip('.')}; see {prog} --help.") from None
