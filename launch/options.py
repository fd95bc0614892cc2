"""Command-line options from a frozen dataclass, with errors in one line."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import difflib
import functools
import io
import os
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal, TypeVar

from bmg.storage.fields import (
    FieldError,
    describe,
    element,
    field_types,
    from_dict,
    number,
    optional,
    range_of,
    shown,
)

Config = TypeVar("Config")
BAD_INPUT = 2  # exit code of an error that the user has to mend: the next try would meet it again


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


def with_first(option: str, arguments: list[str]) -> list[str]:
    """Arguments of a command one of whose options may come first, without its name."""
    named = not arguments or arguments[0].startswith("-")
    return arguments if named else [option, *arguments]


def take(
    arguments: Sequence[str], names: Iterable[str], flags: Iterable[str] = ()
) -> tuple[dict[str, str | bool | None], list[str]]:
    """Some options out of many; of one that is given several times the last counts.

    Args:
      arguments: what was typed.
      names: options with a value, such as `game`.
      flags: options without one, such as `resume`, which `--no-resume` takes back.

    Returns:
      Those that are there: name -> value, None where it was left out; and all other arguments.
    """
    switches = {f"--{name}": (name, True) for name in flags}
    switches |= {f"--no-{name}": (name, False) for name in flags}
    found: dict[str, str | bool | None] = {}
    others, left = [], collections.deque(arguments)
    while left and left[0] != "--":
        token = left.popleft()
        option, equals, value = token.partition("=")
        if token in switches:
            name, found[name] = switches[token]
        elif option[:2] == "--" and option[2:] in names:
            if not equals:
                value = None if not left or _is_option(left[0]) else left.popleft()
            found[option[2:]] = value
        else:
            others.append(token)
    return found, [*others, *left]


def peek(
    arguments: Sequence[str], names: Iterable[str], flags: Iterable[str] = ()
) -> dict[str, str | bool]:
    """What some options will be, before all of them are parsed, which also finds what is wrong with
    them; see `take`. Those without a value are left out."""
    found, _ = take(arguments, names, flags)
    return {name: value for name, value in found.items() if value is not None}


def _is_option(token: str) -> bool:
    return token == "--" or token[:1] == "-" and token.lstrip("-")[:1].isalpha()


def option_of(path: str) -> str:
    """A field's option: `agent.meta.inner_steps` -> `--agent.meta.inner-steps`."""
    # As the parser has it, which leaves a name's last underscore (lambda_) alone.
    return "--" + re.sub(r"_(?=[^_.])", "-", path)


def parse_options(cls: type[Config], prog: str, arguments: list[str], default=None) -> Config:
    """Options of a dataclass: each field's name, meaning, range and default stand in `--help`.

    Args:
      cls: the dataclass.
      prog: the command as the user types it.
      arguments: what follows it.
      default: an instance whose values the options change; None for the class's own defaults.

    Raises:
      ValueError: an option that is unknown or has a value that is not allowed; one line.
    """
    import tyro

    registry = tyro.constructors.ConstructorRegistry()
    registry.struct_rule(functools.partial(_without_checks, []))
    options = {} if default is None else {"default": default}
    errors, problem = io.StringIO(), ""
    try:
        with contextlib.redirect_stderr(errors), _wide_lines(arguments):
            # The parser's own options (--tyro-...) would write files and fail in their own ways.
            fields, unknown = tyro.cli(
                cls, prog=prog, args=[x for x in arguments if not x.startswith("--tyro-")],
                registry=registry, return_unknown_args=True, **options,
            )  # fmt: skip
        unknown = [x for x in arguments if x.startswith("--tyro-")] + unknown
        if not unknown:
            return from_dict(cls, fields)
        problem = _unknown(cls, unknown[0])
    except SystemExit as ended:
        if not ended.code:
            raise  # --help
        problem = _plain(errors.getvalue())
    except FieldError as error:
        problem = f"{option_of(error.path)} {error.problem}"
    except ValueError as error:
        problem = str(error)
    raise ValueError(f"{problem.rstrip('.')}; see {prog} --help.")


@contextlib.contextmanager
def _wide_lines(arguments: list[str]) -> Iterator[None]:
    """Errors come in a box as wide as the terminal, which a narrow one would break words for."""
    before = os.environ.get("COLUMNS")
    if not {"-h", "--help"} & set(arguments):
        os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


def _plain(text: str) -> str:
    """The parser's own error in one line, without its box, colours and advice."""
    text = re.sub(r"\x1b\[[0-9;]*m|[\u2500-\u257f]|-{3,}", " ", text)
    text = " ".join(text.split())
    text = re.sub(r"^Missing argument .* argument '(\S+)'.*", r"\1 has no value", text)
    text = re.sub(r"^Required options Missing from .*?: (\S+) .*", r"\1 is missing", text)
    return re.sub(r"For full helptext.*", "", text).strip()


def _unknown(cls: type, token: str) -> str:
    if not token.startswith("-"):
        return f"{shown(token)} belongs to no option"
    name = token.partition("=")[0][:100]
    if name in (former := dict(_former_options(cls))):
        return f"{name} is called {former[name]} now"
    near = difflib.get_close_matches(name, _options(cls), n=1)
    return f"no option {shown(name)}" + (f"; did you mean {near[0]}" if near else "")


def _options(cls: type, prefix: str = "") -> Iterator[str]:
    for name, hint in field_types(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _options(hint, f"{prefix}{name}.")
        else:
            yield option_of(prefix + name)


def _former_options(cls: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Options that have another name now: (former, present)."""
    for former, present in getattr(cls, "FORMER_NAMES", {}).items():
        yield option_of(prefix + former), option_of(prefix + present)
    for name, hint in field_types(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _former_options(hint, f"{prefix}{name}.")


def _without_checks(asked: list[type], info):
    """The parser's rule for dataclasses: it only takes the words apart, and gives a dict for
    `from_dict`, which knows what is allowed and the option's whole name."""
    from tyro.constructors import ConstructorRegistry

    if not dataclasses.is_dataclass(info.type) or info.type in asked:
        return None
    asked.append(info.type)  # this rule is not asked again: the parser's own answers
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        asked.remove(info.type)
    hints = field_types(info.type)
    fields = [_without_check(field, hints[field.name]) for field in spec.fields]

    def values(**given) -> dict:
        return given

    values.__doc__ = info.type.__doc__  # what --help says of the group
    return dataclasses.replace(spec, instantiate=values, fields=tuple(fields))


def _without_check(field, hint):
    """A field whose numbers and choices are read but not judged; its range is in its help."""
    from tyro.constructors import PrimitiveConstructorSpec

    item = optional(hint) or hint
    several, item = element(item) is not None, element(item) or item
    if typing.get_origin(item) is Literal:
        read, metavar = str, "{" + ",".join(typing.get_args(item)) + "}"
    elif range_of(item):
        read, metavar = number, typing.get_args(item)[0].__name__.upper()
    else:
        return dataclasses.replace(field, helptext=_help_of(field))
    if several:
        metavar = f"[{metavar} [{metavar} ...]]"
    if optional(hint):
        metavar = f"{{None}}|{metavar}"

    def value(words: list[str]):
        if optional(hint) and words == ["None"]:
            return None
        return [read(word) for word in words] if several else read(words[0])

    spec = PrimitiveConstructorSpec(
        nargs="*" if several else 1,
        metavar=metavar,
        instance_from_str=value,
        is_instance=lambda x: True,
        str_from_instance=lambda x: [str(y) for y in (x if isinstance(x, tuple) else (x,))],
    )

    allowed = f" Allowed: {describe(hint)}." if range_of(item) else ""
    return dataclasses.replace(field, type=Annotated[hint, spec], helptext=_help_of(field, allowed))


def _help_of(field, more: str = "") -> Callable[[], str]:
    """A field's meaning in one line, which the terminal breaks where it likes."""

    def helptext() -> str:
        text = field.helptext() if callable(field.helptext) else field.helptext
        return " ".join((text or "").split()) + more

    return helptext
