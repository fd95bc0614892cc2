"""Every configuration of every command, found through the commands' own help."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import tyro

from bmg.storage.fields import element, field_types, from_dict, optional, range_of

# These have no default.
_REQUIRED = {
    "file": "a",
    "workdir": "a",
    "workdirs": ["a"],
    "accelerator_type": "v4-8",
    "learner": "10.0.0.1:8500",
    "join": "a",
}


def find_configs(command, monkeypatch) -> dict[tuple[str, ...], type]:
    """Words of a command -> the dataclass that its options are made of."""
    found: dict[tuple[str, ...], type] = {}

    def record(cls, prog: str, **_):
        found[tuple(prog.split()[1:])] = cls
        raise SystemExit(0)

    waiting: list[tuple[str, ...]] = [()]
    with monkeypatch.context() as patched:
        patched.setattr(tyro, "cli", record)
        while waiting:
            words = waiting.pop()
            code, out, _ = command(*words, "--help")
            assert code == 0
            prefix = " ".join(["bmg", *words])
            names = re.findall(rf"^(?:  |{prefix} )([a-z][a-z-]*)  +\S", out, re.MULTILINE)
            waiting += [(*words, name) for name in names]
    return found


@dataclasses.dataclass(frozen=True)
class Number:
    """A field that holds a number, or several."""

    root: type
    owner: type  # the dataclass that it stands in
    path: str  # dotted, from the root
    hint: Any

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def item(self) -> Any:
        """The type of the number alone."""
        hint = optional(self.hint) or self.hint
        return element(hint) or hint

    @property
    def kind(self) -> type:
        return self.item.__origin__

    def wrap(self, value):
        """As the field has one such number."""
        return (value,) if element(optional(self.hint) or self.hint) else value

    def just_outside(self) -> list[int | float]:
        """The nearest numbers that are not allowed."""
        allowed = range_of(self.item)
        if self.kind is int:
            return [allowed.low - 1, allowed.high + 1]
        low, high = float(allowed.low), float(allowed.high)
        below = low if allowed.above else math.nextafter(low, -math.inf)
        return [below, high if allowed.below else math.nextafter(high, math.inf)]


def leaves(cls: type, prefix: str = "") -> Iterator[tuple[type, str, Any]]:
    """(dataclass, dotted name, type) of each field that is no group of fields."""
    for name, hint in field_types(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from leaves(hint, f"{prefix}{name}.")
        else:
            yield cls, prefix + name, hint


def numbers(cls: type) -> list[Number]:
    """Its fields with a range."""
    found = [Number(cls, owner, path, hint) for owner, path, hint in leaves(cls)]
    return [field for field in found if range_of(field.item)]


def required(cls: type) -> dict[str, Any]:
    """Values for the fields that have no default."""
    return {
        field.name: _REQUIRED[field.name]
        for field in dataclasses.fields(cls)
        if field.default is field.default_factory is dataclasses.MISSING
    }


def make(cls: type):
    """One with its defaults."""
    return from_dict(cls, required(cls))


def get(config, path: str):
    """The field of that dotted name."""
    for part in path.split("."):
        config = getattr(config, part)
    return config


def nested(path: str, value) -> dict[str, Any]:
    """`{"a": {"b": value}}` of `a.b`."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return value
