"""Rules as files: what comes back, and what is refused in one line."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bmg.agents.rule_file import load_rule, own_rules, rule_path, save_rule
from bmg.agents.update_rule import RuleConfig, init_rule
from bmg.storage import checkpoint

SMALL = RuleConfig(units=4, prediction_size=3, embedding=2)


def made(path, config=SMALL):
    rule = init_rule(config, jax.random.PRNGKey(0))
    save_rule(path, rule, config, {"worlds": ["dense"]})
    return rule


@pytest.mark.parametrize("prediction", ["distribution", "vector", "value"])
def test_a_rule_comes_back_with_what_it_was_made_from(tmp_path, prediction):
    config = RuleConfig(units=4, prediction=prediction, prediction_size=3)
    rule = made(tmp_path / "folder" / "rule.npz", config)
    found = load_rule(tmp_path / "folder" / "rule.npz")
    jax.tree.map(np.testing.assert_array_equal, found.rule, rule)
    assert found.config == config and found.made_from == {"worlds": ["dense"]}


def test_what_is_no_rule_is_refused(tmp_path):
    """Not there; another file; cut short; a checkpoint; another width; not finite; a newer one."""
    path = tmp_path / "rule.npz"
    rule = made(path)
    whole = path.read_bytes()
    (tmp_path / "text").write_text("not an archive")
    (tmp_path / "short").write_bytes(whole[: len(whole) // 2])
    checkpoint.write(tmp_path / "checkpoint", rule, {"seed": 1})
    header = {"kind": "update rule", "made_from": {}}
    fields = {"units": 4, "prediction_size": 3, "embedding": 2}
    checkpoint.write(tmp_path / "wider", rule, {**header, "rule": {**fields, "units": 5}})
    checkpoint.write(tmp_path / "newer", rule, {**header, "rule": {**fields, "layers": 2}})
    broken = rule._replace(policy=jax.tree.map(lambda x: x * np.nan, rule.policy))
    checkpoint.write(tmp_path / "broken", broken, {**header, "rule": fields})
    for name, words in {
        "nowhere": "No such file", "text": "truncated, damaged", "short": "truncated, damaged",
        "checkpoint": "no update rule", "wider": "arrays differ", "newer": "unknown here",
        "broken": "not finite",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=words) as caught:
            load_rule(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_rule_is_a_file_or_one_that_comes_with_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "mine.npz")
    assert load_rule(rule_path("mine.npz")).config == SMALL
    assert "tabular" in own_rules()
    for name in own_rules():
        found = load_rule(rule_path(name))
        assert found.made_from["meta_updates"] > 0 and found.made_from["worlds"]
    with pytest.raises(ValueError, match="there is no rule other: give .* or one of tabular") as e:
        rule_path("other")
    assert "\n" not in str(e.value)
