"""What a configuration's fields may hold, declared where they stand and checked wherever they come
from: a constructor, `config.json`, the command line.

    inner_steps: Count = 1        # typing.Annotated[int, Range(1, MANY)]
    discount: Share = 0.995       # typing.Annotated[float, Range(0, 1)]

Beside numbers with a range, fields are bool, str, Literal, names (`Annotated[str, Names(...)]`),
tuples and options (`X | None`) of such, and dataclasses of fields.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from typing import Annotated, Any, Literal, TypeVar

from bmg.storage.modules import is_qualified

Config = TypeVar("Config")

MOST_NODES = 1000  # processes of a kind in a run: each has a number below it
MANY = 2**31 - 1  # what counts and seeds end at: they are 32-bit integers somewhere
_TOO_LARGE = 10**9  # bounds from here on are named only where they are broken
_SHOWN = 60  # characters of a value in an error
_EXACT = 2**53  # floats of this size and larger are not every integer


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; never NaN or infinite."""

    low: float
    high: float
    above: bool = False
    """Without `low` itself."""
    below: bool = False
    """Without `high` itself."""

    def __contains__(self, value: float) -> bool:
        low, high = self.low, self.high
        return (value > low if self.above else value >= low) and (
            value < high if self.below else value <= high
        )

    def describe(self, kind: str, whole: bool = False) -> str:
        """Such as `integers from 1`; bounds that nobody meets are left out unless `whole`."""
        words = kind
        if whole or self.low > -_TOO_LARGE:
            words += f" above {self.low:g}" if self.above else f" from {self.low:g}"
        if whole or self.high < _TOO_LARGE:
            words += " and below " if self.below else " and up to " if self.above else " to "
            words += f"{self.high}" if isinstance(self.high, int) else f"{self.high:g}"
        return words


@dataclasses.dataclass(frozen=True)
class Names:
    """Known names, and those of a user's own functions."""

    known: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.known or is_qualified(value)

    def describe(self) -> str:
        """All of them."""
        return f"{', '.join(self.known)}, package.module:function"


_LARGEST = 1e30  # finite as a 32-bit float, with room for a product

Count = Annotated[int, Range(1, MANY)]
Several = Annotated[int, Range(2, MANY)]  # for a variance
Natural = Annotated[int, Range(0, MANY)]
Seed = Annotated[int, Range(0, MANY)]
Steps = Annotated[int, Range(1, 10**15)]  # of an environment, or frames
Nodes = Annotated[int, Range(1, MOST_NODES)]
Few = Annotated[int, Range(0, 1000)]
Port = Annotated[int, Range(0, 65535)]  # TCP; 0: none
Depth = Annotated[int, Range(1, 1000)]  # of a queue or a stack
Pixels = Annotated[int, Range(1, 4096)]
Lookahead = Annotated[int, Range(1, 1000)]  # updates that are unrolled
Environments = Annotated[int, Range(1, 1024)]  # of one process: each has a seed of its own
LocalHosts = Annotated[int, Range(1, 250)]  # that fit into one local network
Threads = Annotated[int, Range(1, 1024)]
Devices = Annotated[int, Range(0, 10_000)]  # 0: whatever there is
Lifetimes = Annotated[int, Range(1, 100_000)]  # side by side
Points = Annotated[int, Range(1, 100_000)]

Seconds = Annotated[float, Range(0, 10**9, above=True)]
Pause = Annotated[float, Range(0, 10**9)]  # seconds; 0: none
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]
OpenShare = Annotated[float, Range(0, 1, above=True, below=True)]
Positive = Annotated[float, Range(0, _LARGEST, above=True)]
Weight = Annotated[float, Range(0, _LARGEST)]
Logit = Annotated[float, Range(-50, 50)]  # beyond, a sigmoid is 0 or 1


class Mistake(ValueError):
    """What the user has to mend: whoever tries again meets it again. Other ValueErrors may be a
    library's, which raises them for a lost connection as well."""


class FieldError(Mistake):
    """A field that cannot be what it is, in one line: `str` begins with its dotted path."""

    def __init__(self, path: str, problem: str):
        super().__init__(f"{path} {problem}.")
        self.path, self.problem = path, problem


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The type of each field of a dataclass, with its range."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def range_of(hint: Any) -> Range | None:
    """Of a number's type; None of others."""
    if typing.get_origin(hint) is Annotated:
        return next((x for x in hint.__metadata__ if isinstance(x, Range)), None)
    return None


def names_of(hint: Any) -> Names | None:
    """Of a name's type; None of others."""
    if typing.get_origin(hint) is Annotated:
        return next((x for x in hint.__metadata__ if isinstance(x, Names)), None)
    return None


def optional(hint: Any) -> Any:
    """X of `X | None`; None of others."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (inner,) = (x for x in typing.get_args(hint) if x is not type(None))
        return inner
    return None


def element(hint: Any) -> Any:
    """X of `tuple[X, ...]`; None of others."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None


def describe(hint: Any, whole: bool = False) -> str:
    """What a field of that type may be, such as `integers from 1`; see `Range.describe`."""
    if inner := optional(hint):
        return f"{describe(inner, whole)}, or None"
    if inner := element(hint):
        return f"lists of {describe(inner, whole)}"
    if typing.get_origin(hint) is Literal:
        return ", ".join(map(str, typing.get_args(hint)))
    if names := names_of(hint):
        return names.describe()
    if allowed := range_of(hint):
        kind = "integers" if typing.get_args(hint)[0] is int else "numbers"
        return allowed.describe(kind, whole)
    return {bool: "true and false", str: "texts of UTF-8 without NUL"}.get(hint, "groups of fields")


def check_fields(config) -> None:
    """Makes a dataclass's fields what `read` makes of them, and refuses what is not of its type or
    out of its range; of fields that are dataclasses themselves, another one than declared.

    Raises:
      FieldError: one line, such as `inner_steps is 0; allowed are integers from 1.`
    """
    for name, hint in field_types(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, hint):
                raise FieldError(name, f"is {shown(value)}; allowed is {hint.__name__}")
        else:
            object.__setattr__(config, name, read(hint, value, name))  # it may be frozen


def check_lists(config, *names: str) -> None:
    """Refuses lists among a dataclass's fields that are empty, or have something twice.

    Raises:
      FieldError: one line.
    """
    for name in names:
        values = getattr(config, name)
        if not values:
            raise FieldError(name, "is empty; give at least one")
        if twice := sorted({str(x) for x in values if values.count(x) > 1}):
            raise FieldError(name, f"has {', '.join(twice)} twice; give each once")


def check_seeds(name: str, first: int, seeds: int) -> None:
    """Refuses seeds of which some are too large.

    Args:
      name: of the field that holds the first one.
      first: the first one.
      seeds: how many.

    Raises:
      FieldError: one line.
    """
    if first + seeds - 1 > MANY:
        raise FieldError(
            name,
            f"is {first}; allowed are integers up to {MANY - seeds + 1}, so that none of {seeds} "
            f"seeds lies above {MANY}",
        )


def from_dict(cls: type[Config], values: Any, path: str = "") -> Config:
    """A configuration from JSON values; fields that are missing keep their defaults.

    A dataclass whose fields had other names once has them in `FORMER_NAMES`, former -> present; one
    whose values had another meaning has a static method `from_older(values)`.

    Args:
      cls: a dataclass.
      values: field -> value, of a dataclass the same again.
      path: of these fields in a larger configuration, with a dot at its end.

    Raises:
      FieldError: for a field that is unknown or has no such value, with its path.
      ValueError: fields that do not go together; one line.
    """
    if not isinstance(values, dict):
        problem = f"is {shown(values)}; allowed are groups of fields"
        raise FieldError(path[:-1] or cls.__name__, problem)
    former = getattr(cls, "FORMER_NAMES", {})
    values = {former.get(name, name): value for name, value in values.items()}
    values = getattr(cls, "from_older", dict)(values)
    hints, fields = field_types(cls), {}
    for name, value in values.items():
        if name not in hints:
            near = difflib.get_close_matches(name[:_SHOWN], hints, n=1)
            hint = f"; did you mean {near[0]}" if near else ""
            raise FieldError(f"{path}{shown(name)}", f"is no field of {cls.__name__}{hint}")
        if dataclasses.is_dataclass(hints[name]):
            fields[name] = from_dict(hints[name], value, f"{path}{name}.")
        else:
            fields[name] = read(hints[name], value, path + name)
    for field in dataclasses.fields(cls):
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in fields:
            allowed = describe(hints[field.name])
            raise FieldError(path + field.name, f"is missing; allowed are {allowed}")
    try:
        return cls(**fields)
    except FieldError as error:
        raise FieldError(path + error.path, error.problem) from None


def read(hint: Any, value: Any, path: str) -> Any:
    """A value as a field of that type has it: tuples from lists, floats from integers, integers
    from floats such as 1e6.

    Raises:
      FieldError: it is not of the type, or out of its range.
    """
    if (inner := optional(hint)) is not None:
        return None if value is None else read(inner, value, path)
    if (inner := element(hint)) is not None and isinstance(value, (list, tuple)):
        return tuple(read(inner, x, path) for x in value)
    allowed = range_of(hint)
    if typing.get_origin(hint) is Literal:
        fits = isinstance(value, str) and value in typing.get_args(hint)
    elif allowed is not None:
        kind = typing.get_args(hint)[0]
        value = _whole(value) if kind is int else value
        fits = _is_number(value, kind) and value in allowed
        value = kind(value) if fits else value
    elif (names := names_of(hint)) is not None:
        fits = isinstance(value, str) and value in names
    elif hint is str:
        fits = isinstance(value, str) and _is_text(value)
    else:
        fits = hint is bool and isinstance(value, bool)
    if fits:
        return value
    whole = allowed is not None and isinstance(value, (int, float)) and value > allowed.high
    raise FieldError(path, f"is {shown(value)}; allowed are {describe(hint, whole)}")


def _is_number(value: Any, kind: type) -> bool:
    """Whether it is an integer, where `kind` is int, or any finite number."""
    if isinstance(value, bool):
        return False
    return (
        isinstance(value, int)
        or kind is float
        and isinstance(value, float)
        and (math.isfinite(value))
    )


def _whole(value: Any) -> Any:
    """An integer for a float that is one, such as 1e6; others as they are."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def _is_text(value: str) -> bool:
    """Whether it can be written to any file and name one."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def host_and_port(address: str) -> tuple[str, int] | None:
    """The two of HOST:PORT, the host as it stands there, an IPv6 address in brackets; None where it
    is no such thing."""
    host, _, port = address.rpartition(":")
    if ":" in host and not re.fullmatch(r"\[[^\[\]]*\]", host):
        return None
    if host and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536:
        with contextlib.suppress(UnicodeError):  # a name such as a..b, which cannot be looked up
            host.encode("idna")
            return host, int(port)
    return None


def shown(value: Any) -> str:
    """A value in one line, printable and not too long."""
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return "a group of fields"
    if isinstance(value, str):
        text = repr(value[: 2 * _SHOWN])
    elif isinstance(value, int) and abs(value) >= 10**_SHOWN:  # Python may refuse to print it
        return f"an integer of {value.bit_length()} bits"
    else:
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def number(text: str) -> int | float | str:
    """What is typed or written for a number: an integer, also as 1e6, a finite float, or else the
    text itself, which no field of numbers takes."""
    if text.isascii():
        with contextlib.suppress(ValueError):
            return int(text)
        with contextlib.suppress(ValueError):
            if math.isfinite(float(text)):
                return _whole(float(text))
    return text
