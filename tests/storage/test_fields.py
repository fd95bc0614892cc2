"""Fields with ranges: what they take, what they refuse and how they say it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import pytest

from bmg.storage.fields import (
    Count,
    Environments,
    FieldError,
    OpenShare,
    Range,
    Seconds,
    Share,
    ShareBelowOne,
    check_fields,
    describe,
    from_dict,
    number,
    read,
    shown,
)
from tests.tables import named


@dataclasses.dataclass(frozen=True)
class Inner:
    steps: Count = 3
    rate: ShareBelowOne = 0.5
    sizes: tuple[Count, ...] = (1, 2)
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        check_fields(self)
        if self.steps == 13:
            raise FieldError("steps", "is 13; allowed are other integers")


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    on: bool = False
    share: Share | None = None
    inner: Inner = Inner()

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Renamed:
    """Its field was `number` once."""

    count: Count = 3

    def __post_init__(self):
        check_fields(self)

    @staticmethod
    def from_older(values: dict) -> dict:
        return {{"number": "count"}.get(name, name): value for name, value in values.items()}


@dataclasses.dataclass(frozen=True)
class WithRenamed:
    inner: Renamed = Renamed()


def test_what_an_older_version_wrote_is_read_in_todays_words():
    assert from_dict(WithRenamed, {"inner": {"number": 5}}) == WithRenamed(Renamed(5))
    assert from_dict(WithRenamed, {"inner": {"count": 4}}) == WithRenamed(Renamed(4))
    with pytest.raises(FieldError, match="inner.count is 0; allowed are integers from 1"):
        from_dict(WithRenamed, {"inner": {"number": 0}})
    with pytest.raises(FieldError, match="inner.'nombre' is no field"):
        from_dict(WithRenamed, {"inner": {"nombre": 5}})


ALLOWED = [
    (Count, "integers from 1"),
    (Environments, "integers from 1 to 1024"),
    (Seconds, "numbers above 0"),
    (Share, "numbers from 0 to 1"),
    (ShareBelowOne, "numbers from 0 and below 1"),
    (OpenShare, "numbers above 0 and below 1"),
    (Annotated[float, Range(0, 2, above=True)], "numbers above 0 and up to 2"),
    (Annotated[float, Range(-1e30, 1e30)], "numbers"),
    (tuple[Count, ...], "lists of integers from 1"),
    (Share | None, "numbers from 0 to 1, or None"),
    (Literal["a", "b"], "a, b"),
    (bool, "true and false"),
]


def test_what_is_allowed_is_said():
    for hint, text in ALLOWED:
        with named(hint):
            assert describe(hint) == text


REFUSED = [
    ({"inner": {"steps": 0}}, "inner.steps is 0; allowed are integers from 1."),
    ({"inner": {"steps": 2**31}},
     "inner.steps is 2147483648; allowed are integers from 1 to 2147483647."),
    ({"inner": {"steps": 2.5}}, "inner.steps is 2.5; allowed are integers from 1."),
    ({"inner": {"steps": 0.0}}, "inner.steps is 0; allowed are integers from 1."),
    ({"inner": {"steps": 1e300}},
     "inner.steps is 1e+300; allowed are integers from 1 to 2147483647."),
    ({"inner": {"steps": True}}, "inner.steps is True; allowed are integers from 1."),
    ({"inner": {"steps": None}}, "inner.steps is None; allowed are integers from 1."),
    ({"inner": {"steps": 10**5000}},
     "inner.steps is an integer of 16610 bits; allowed are integers from 1 to 2147483647."),
    ({"inner": {"steps": 13}}, "inner.steps is 13; allowed are other integers."),
    ({"inner": {"rate": 1}}, "inner.rate is 1; allowed are numbers from 0 and below 1."),
    ({"inner": {"rate": float("nan")}},
     "inner.rate is nan; allowed are numbers from 0 and below 1."),
    ({"inner": {"sizes": [1, 0]}}, "inner.sizes is 0; allowed are integers from 1."),
    ({"inner": {"sizes": 1}}, "inner.sizes is 1; allowed are lists of integers from 1."),
    ({"inner": {"kind": []}}, "inner.kind is a list; allowed are a, b."),
    ({"inner": {"kind": "c"}}, "inner.kind is 'c'; allowed are a, b."),
    ({"inner": []}, "inner is a list; allowed are groups of fields."),
    ({"inner": {"stepz": 1}}, "inner.'stepz' is no field of Inner; did you mean steps."),
    ({"share": float("inf")}, "share is inf; allowed are numbers from 0 to 1."),
    ({"on": 1}, "on is 1; allowed are true and false."),
    ({"name": "a\0b"}, r"name is 'a\x00b'; allowed are texts of UTF-8 without NUL."),
    ({"name": "\ud800"}, r"name is '\ud800'; allowed are texts of UTF-8 without NUL."),
    ({"name": {}}, "name is a group of fields; allowed are texts of UTF-8 without NUL."),
]  # fmt: skip


def test_what_is_refused_is_named():
    for values, error in REFUSED:
        with named(error):
            with pytest.raises(FieldError) as caught:
                from_dict(Outer, {"name": "x", **values})
            assert str(caught.value) == error


def test_a_field_without_a_default_has_to_be_given():
    with pytest.raises(FieldError, match="^name is missing; allowed are texts"):
        from_dict(Outer, {})
    with pytest.raises(FieldError, match="^Outer is a list; allowed are groups of fields"):
        from_dict(Outer, [])


def test_values_become_what_the_fields_are():
    """Tuples from lists, floats from integers; what is missing keeps its default."""
    config = from_dict(Outer, {"name": "x", "share": 1, "inner": {"sizes": [4], "rate": 0}})
    assert config == Outer("x", share=1.0, inner=Inner(rate=0.0, sizes=(4,)))
    assert isinstance(config.share, float) and isinstance(config.inner.sizes, tuple)
    assert from_dict(Outer, {"name": "x", "share": None}).share is None
    assert read(tuple[Count, ...], (), "sizes") == ()


def test_integers_are_taken_from_whole_floats():
    """From JSON and TOML as 2e6, in a list, and by a constructor."""
    inner = from_dict(Outer, {"name": "x", "inner": {"steps": 2e6, "sizes": [4.0, 5]}}).inner
    made = dataclasses.replace(Inner(), steps=2e6, sizes=[4.0, 5], rate=0)
    assert inner.steps == made.steps == 2_000_000 and inner.sizes == made.sizes == (4, 5)
    assert {type(x) for x in (inner.steps, made.steps, *inner.sizes, *made.sizes)} == {int}
    assert type(made.rate) is float
    assert type(read(Count | None, 3.0, "count")) is int


def test_a_group_of_fields_is_of_its_own_class():
    with pytest.raises(FieldError, match="^inner is None; allowed is Inner"):
        Outer("x", inner=None)


TEXTS = [
    ("3", 3), ("-3", -3), ("1_000", 1000), ("2.5", 2.5), ("1e-3", 0.001),
    ("1e6", 10**6), ("2E9", 2 * 10**9), ("-0.0", 0), ("1.5e0", 1.5), ("1e300", 1e300),
    ("1e400", "1e400"), ("nan", "nan"), ("-inf", "-inf"), ("", ""), ("x", "x"),
    ("\u0663", "\u0663"), ("9" * 30, 10**30 - 1),
]  # fmt: skip


def test_numbers_of_text():
    for text, value in TEXTS:
        with named(text):
            assert number(text) == value and type(number(text)) is type(value)


def test_values_are_shown_in_one_short_line():
    assert shown("a\nb\x1b[31m") == r"'a\nb\x1b[31m'"
    for value in ("x" * 10_000, 10**59, 1e300, "\0" * 10_000, 10**9999):
        assert len(shown(value)) < 70 and shown(value).isprintable()
