"""Every number of every command has a range, and nothing outside of it is taken."""

from __future__ import annotations

import dataclasses
import math
import re
import typing

import pytest

from bmg.launch.hosts.local_pod import Layout
from bmg.launch.options import option_of
from bmg.launch.presets import PRESETS
from bmg.storage.fields import FieldError, describe, from_dict, range_of, read
from tests.launch.configs import find_configs, get, leaves, make, nested, numbers, required
from tests.tables import named


@pytest.fixture
def configs(command, monkeypatch):
    """Of every command."""
    found = find_configs(command, monkeypatch)
    some = {("train",), ("benchmark", "learner"), ("mrp", "variance"), ("pod", "logs")}
    assert some < found.keys() and len(found) > 25
    return found


def bare_numbers(hint) -> bool:
    """Whether a type has a number without a range somewhere."""
    if range_of(hint):
        return False
    return hint in (int, float) or any(map(bare_numbers, typing.get_args(hint)))


def test_every_number_has_a_range(configs):
    found = 0
    for cls in (*configs.values(), Layout):
        for owner, path, hint in leaves(cls):
            assert not bare_numbers(hint), f"{owner.__name__}.{path}"
        found += len(numbers(cls))
    assert found > 250


def test_defaults_and_presets_are_inside(configs):
    """And both ends of each range are taken."""
    made = [make(cls) for cls in (*configs.values(), Layout)]
    made += [preset(game) for preset in PRESETS.values() for game in ("pong", "catch")]
    for config in made:
        for field in numbers(type(config)):
            value, allowed = get(config, field.path), range_of(field.item)
            for x in value if isinstance(value, tuple) else (value,):
                assert x is None or (type(x) in (int, field.kind) and x in allowed), field
            ends = [(allowed.low, allowed.above), (allowed.high, allowed.below)]
            for end in [field.kind(x) for x, excluded in ends if not excluded]:
                assert read(field.item, end, field.name) == end


def test_whatever_lies_outside_is_refused_by_name(configs):
    """By the dataclass itself, and with the whole path by what reads config.json."""
    refused = 0
    for field in [x for cls in (*configs.values(), Layout) for x in numbers(cls)]:
        wrong = [*field.just_outside(), math.nan, math.inf, -math.inf, "3", True, 10**400, {}]
        wrong += [1.5] if field.kind is int else []
        for value in wrong:
            values = field.wrap(value)
            config = make(field.owner)
            with pytest.raises(FieldError) as caught:
                dataclasses.replace(config, **{field.name: values})
            text = str(caught.value)
            assert text.startswith(f"{field.name} is ") and "; allowed are " in text, field
            assert describe(field.item) in text and text.isprintable() and len(text) < 200
            values = {**required(field.root), **nested(field.path, values)}
            with pytest.raises(FieldError) as caught:
                from_dict(field.root, values)
            assert str(caught.value) == f"{field.path}{text.removeprefix(field.name)}"
            refused += 1
    assert refused > 2_000


TYPED = ("nan", "inf", "1e400", "9" * 400, "", "x", "\u0663", "\x1b[31m1", "1\n2", "y" * 5_000)


@pytest.mark.long
def test_whatever_is_typed_outside_is_refused_by_its_option(configs, command, monkeypatch):
    """One option of every command at a time, each with another wrong value."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    count = 0
    for words, cls in configs.items():
        given = [f"--{name.replace('_', '-')}=a" for name in required(cls)]
        given = [x.replace("=a", "=v4-8") if "accelerator" in x else x for x in given]
        for field in numbers(cls):
            wrong = [*map(str, field.just_outside()), *TYPED]
            option, value = option_of(field.path), wrong[count % len(wrong)]
            line = command.refused(*words, *given, option, value)
            assert line.startswith(f"bmg: {option} is "), line
            assert describe(field.item) in line, line
            assert f"; see bmg {' '.join(words)} --help." in line, line
            assert line.isprintable() and len(line) < 300, line
            count += 1
    assert count > 250


def test_help_says_every_range(configs, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for words, cls in configs.items():
        code, out, _ = command(*words, "--help")
        assert code == 0
        for field in numbers(cls):
            _, row = re.split(rf"^\W+{option_of(field.path)} ", out, maxsplit=1, flags=re.MULTILINE)
            meaning, _, rest = " ".join(row.replace("│", " ").split()).partition(" Allowed: ")
            assert "(default:" not in meaning, f"{field.path} has no range in its help"
            assert rest.startswith(f"{describe(field.hint)}. ("), field.path


X = ["--game", "--hosts.index", "--workdir", "--frames"]


def test_an_option_without_its_value_is_one_line(command):
    for option in X:
        for after in [[], ["--resume"], ["--"]]:
            with named(option, after):
                assert f"{option} has no value" in command.refused("train", option, *after)
