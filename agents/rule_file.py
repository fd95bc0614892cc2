"""A learned update rule as a file: arrays and JSON, which say what it was made from."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax

from bmg.agents.update_rule import Rule, RuleConfig, init_rule
from bmg.storage import checkpoint
from bmg.storage.checkpoint import CheckpointError

_KIND = "update rule"


class RuleFile(NamedTuple):
    """What is in it."""

    rule: Rule  # numpy arrays
    config: RuleConfig
    made_from: dict[str, Any]  # JSON values: of whoever wrote it


def save_rule(
    path: pathlib.Path, rule: Rule, config: RuleConfig, made_from: dict[str, Any]
) -> None:
    """Writes a rule.

    Args:
      path: the file.
      rule: its weights.
      config: what it looks like.
      made_from: JSON values: how it was meta-trained.

    Raises:
      OSError: it could not be written.
    """
    header = {"kind": _KIND, "rule": dataclasses.asdict(config), "made_from": made_from}
    checkpoint.write(path, rule, header)


def load_rule(path: pathlib.Path) -> RuleFile:
    """Reads a rule.

    Raises:
      ValueError: it is not there, damaged, no rule, or its weights are not those of what its header
        says; one line.
    """
    found: list[RuleConfig] = []

    def template(header: dict[str, Any]):
        if header.get("kind") != _KIND:
            raise CheckpointError("is no update rule; give one that `bmg lpg` leaves.")
        try:
            found.append(RuleConfig(**header["rule"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"has a rule that is unknown here: {error}") from error
        return jax.eval_shape(lambda: init_rule(found[0], jax.random.PRNGKey(0)))

    loaded = checkpoint.load(path, template, check=lambda x: checkpoint.check_finite(x.state))
    return RuleFile(loaded.state, found[0], loaded.header.get("made_from", {}))
