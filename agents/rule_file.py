"""A learned update rule as a file: arrays and JSON, which say what it was made from."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax

from bmg.agents.update_rule import Rule, RuleConfig, init_rule
from bmg.storage import checkpoint
from bmg.storage.checkpoint import CheckpointError
from bmg.storage.files import whole_file

_KIND = "update rule"
_OWN = pathlib.Path(__file__).parent / "rules"


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


def own_rules() -> dict[str, pathlib.Path]:
    """Those that come with the project, by name."""
    return {path.stem: path for path in sorted(_OWN.glob("*.npz"))}


def rule_path(rule: str) -> pathlib.Path:
    """The file of a rule.

    Args:
      rule: the file itself, or the name of a rule that comes with the project.

    Raises:
      ValueError: there is neither; one line.
    """
    path, own = pathlib.Path(rule), own_rules()
    if rule in own:
        return own[rule]
    if not path.exists():
        raise ValueError(
            f"there is no rule {rule}: give a file that `bmg lpg` left in its run directory, or "
            f"one of {', '.join(own)}, which come with the project."
        )
    return path


def copy_rule(path: pathlib.Path, to: pathlib.Path) -> None:
    """Copies a rule's file, whole or not at all.

    Raises:
      OSError: it could not be read or written.
    """
    with whole_file(to) as file:
        file.write(path.read_bytes())


def load_rule(path: pathlib.Path) -> RuleFile:
    """Reads a rule.

    Raises:
      ValueError: it cannot be opened, is damaged, no rule, or its weights are not those of what
        its header says; one line.
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

    loaded = checkpoint.load(
        path, template, check=lambda x: checkpoint.check_finite(x.state),
        remedy="give a rule that `bmg lpg` left",
    )  # fmt: skip
    return RuleFile(loaded.state, found[0], loaded.header.get("made_from", {}))
