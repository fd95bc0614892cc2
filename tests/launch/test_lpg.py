"""`bmg lpg`: a run, going on, evaluation, the rule's file, and what is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bmg.agents.rule_file import load_rule, save_rule
from bmg.agents.update_rule import RuleConfig, init_rule
from bmg.experiments.records import read_csv
from tests.experiments.lpg.test_figures import trained
from tests.launch import commands
from tests.launch.commands import files, json_of

SMALL = (
    "lpg --worlds cliff chain-short --lifetimes 1 --environments 4 --rollout-length 8 "
    "--inner-steps 1 --lifetime-scale 0.0001 --record-every 1 --rule.units 4 "
    "--rule.prediction-size 3 --rule.embedding 2 --learning-rates 4 --prediction-costs 0.5"
).split()


@pytest.mark.heavy
@pytest.mark.usefixtures("quick_compilation", "kept_programs")
def test_a_run_going_on_and_evaluation(command, tmp_path):
    assert command(*SMALL, "--workdir", "run", "--steps", 2)[0] == 0
    assert command("lpg", "--resume", "--workdir", "run", "--steps", 4)[0] == 0
    assert command(*SMALL, "--workdir", "whole", "--steps", 4)[0] == 0
    (steps, resumed), (_, whole) = (
        read_csv(tmp_path / name / "results.csv") for name in ("run", "whole")
    )
    np.testing.assert_array_equal(steps, [1, 2, 3, 4])
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)
    results = json_of(tmp_path / "run" / "results.json")
    assert set(results["returns"]) == {"cliff", "chain-short"}
    assert results["counted"] == "meta-updates" and results["complete"] is True
    assert list((tmp_path / "run" / "tensorboard").glob("seed-0/*"))

    saved = load_rule(tmp_path / "run" / "rule-0.npz")
    assert saved.config.units == 4 and saved.made_from["meta_updates"] == 4
    other = load_rule(tmp_path / "whole" / "rule-0.npz")
    jax.tree.map(np.testing.assert_array_equal, saved.rule, other.rule)
    code, out, _ = command("lpg", "evaluate", "--workdir", "run", "--agents", 1, "--worlds",
                           "chain-short")  # fmt: skip
    assert code == 0 and "chain-short" in out and "cliff" not in out
    for method in ("A2C", "the rule", "the rule as it began"):
        assert f"chain-short: {method}, " in out
    assert "step sizes" in out and "arm" not in out


@pytest.mark.heavy
@pytest.mark.usefixtures("quick_compilation", "kept_programs")
def test_a_run_keeps_the_rule_that_it_began_with(command, tmp_path):
    """It goes on, and is evaluated, without the file."""
    kind = RuleConfig(units=4, prediction_size=3, embedding=2)
    rule = init_rule(kind, jax.random.PRNGKey(5))
    save_rule(tmp_path / "first.npz", rule, kind, {"meta_updates": 7})
    small = (*SMALL, "--start", "first.npz", "--workdir", "run")
    assert command(*small, "--steps", 1)[0] == 0
    (tmp_path / "first.npz").unlink()
    assert command("lpg", "--resume", "--workdir", "run", "--steps", 2)[0] == 0
    saved = load_rule(tmp_path / "run/rule-0.npz")
    assert saved.made_from["meta_updates"] == 2
    assert saved.made_from["start"] == {"meta_updates": 7}
    (tmp_path / "picture.png").write_bytes(b"no rule")
    line = command.refused("lpg", "--start", "picture.png", "--workdir", "other")
    assert "picture.png" in line and "give a rule that" in line
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation", "kept_programs")
def test_all_goes_on_and_is_drawn(command, tmp_path):
    """Two methods; what is complete is left alone. The picture of meta-training needs no rule."""
    small = ("--root suite --worlds chain-short --lifetimes 1 --units 4 --lifetime-scale 0.007 "
             "--methods lpg fixed --steps").split()  # fmt: skip
    assert command("lpg", "all", *small, 1)[0] == 0
    assert (tmp_path / "suite/lpg/rule-0.npz").exists()
    before = (tmp_path / "suite/fixed/results.csv").stat().st_mtime_ns
    assert command("lpg", "all", *small, 1)[0] == 0
    assert (tmp_path / "suite/fixed/results.csv").stat().st_mtime_ns == before
    code, out, _ = command("lpg", "figures", "--root", "suite", "--output", "drawn",
                           "--figures", 7)  # fmt: skip
    assert code == 0 and "fixed step sizes" in out and (tmp_path / "drawn/figure_7.png").exists()
    assert "grid" in command.refused("lpg", "figures", "--root", "suite", "--grid", "chain-short")
    assert "methods" in command.refused("lpg", "all", "--root", "other", "--methods", "ppo")


def test_figure_9_needs_no_meta_training(command, tmp_path):
    """In the folder of runs that other figures are of."""
    trained(tmp_path / "agents" / "a", "catch", 0.25, ("cliff",))
    code, out, err = command("lpg", "figures", "--figures", 9, "--trained", "agents")
    assert code == 0 and "0.25 (-)" in out, err
    assert (tmp_path / "runs/lpg/figures/figure_9.png").exists()
    assert "no runs in runs/lpg" in command.refused(
        "lpg", "figures", "--figures", 7, 9, "--trained", "agents"
    )


@pytest.mark.heavy
@pytest.mark.usefixtures("quick_compilation", "kept_programs")
def test_what_is_refused_leaves_nothing_behind(command, tmp_path):
    before = files(tmp_path)
    for arguments, words in (
        ("--worlds dense labyrinth", ["labyrinth", "allowed are dense"]),
        ("--worlds dense dense", ["dense twice"]),
        ("--inner-steps 0", ["inner", "0"]),
        ("--rule.units 0", ["units", "0"]),
        ("--rule.prediction table", ["prediction", "table"]),
        ("--lifetimes 0", ["lifetimes", "0"]),
    ):
        line = command.refused("lpg", "--workdir", "run", *arguments.split())
        assert all(word in line for word in words), line
        assert files(tmp_path) == before, arguments
    assert "no run in run" in command.refused("lpg", "evaluate", "--workdir", "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "runtime", ["local-threads", pytest.param("launchpad", marks=pytest.mark.launchpad)]
)
def test_the_whole_program_updates_an_agent_by_a_rule(tmp_path, runtime):
    """It trains, goes on, and is evaluated; with a rule that is not there, or a file that holds
    none, nothing starts."""
    rule = RuleConfig(units=8)
    save_rule(tmp_path / "rule.npz", init_rule(rule, jax.random.PRNGKey(0)), rule, {})
    (tmp_path / "text.npz").write_text("no rule")
    train = ["train", "--game", "catch", "--agent.algorithm", "lpg", "--runtime", runtime]
    train += ["--workdir", "run"]
    before = files(tmp_path)
    for name, words in (("text.npz", "text.npz"), ("labyrinth", "no rule labyrinth"), ("", "rule")):
        code, _, err = commands.bmg(*train, "--agent.lpg.rule", name, cwd=tmp_path)
        assert code == 2 and words in err and err.count("\n") == 1, err
        assert files(tmp_path) == before
    code, _, err = commands.bmg(
        *train, "--agent.lpg.rule", "rule.npz", "--frames", "4000", cwd=tmp_path
    )
    assert code == 0, err
    rows = commands.learner_rows(tmp_path / "run")
    assert rows[-1]["learner/frames"] >= 4_000
    assert rows[-1]["lpg/policy_target_size"] > 0 and "loss_main/prediction" in rows[-1]
    # The run has a rule of its own by now: it goes on by that, wherever it lies.
    save_rule(tmp_path / "rule.npz", init_rule(rule, jax.random.PRNGKey(1)), rule, {})
    (tmp_path / "run").rename(tmp_path / "moved")
    more = ["train", "--workdir", "moved", "--resume", "--frames", "6000"]
    code, _, err = commands.bmg(*more, "--agent.lpg.rule", "rule.npz", cwd=tmp_path)
    assert code == 2 and "another rule than rule.npz" in err, err
    (tmp_path / "rule.npz").unlink()
    code, _, err = commands.bmg(*more, cwd=tmp_path)
    assert code == 0, err
    results = json_of(tmp_path / "moved/results.json")
    assert results["frames"] >= 6_000 and results["protocol"]["algorithm"] == "lpg"
    assert commands.bmg("evaluate", "--workdir", "moved", "--episodes", "5", cwd=tmp_path)[0] == 0
