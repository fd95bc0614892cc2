"""`bmg suite minatar`: what methods differ in, a small suite that is stopped and goes on, bad
input."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from bmg.experiments.comparison import table
from bmg.launch.config import TrainConfig
from bmg.launch.suites import minatar, runs
from bmg.launch.suites.options import CompareOptions, FiguresOptions
from bmg.storage.files import owned
from bmg.storage.run_directory import config_file, select, to_dict
from tests.experiments.comparison.test_comparison import finished
from tests.launch import commands
from tests.tables import named


def run_of(method: str, **changes) -> TrainConfig:
    arguments = {"game": "breakout", "steps": 3_000, "seeds": 2, "first_seed": 0, **changes}
    return minatar.run_of(minatar.agent_of(method), **arguments)


def differences(one: TrainConfig, other: TrainConfig) -> dict[str, object]:
    """Field -> what the second one has."""
    groups = [field.name for field in dataclasses.fields(TrainConfig)]
    then = select(one, groups)
    return {name: x for name, x in select(other, groups).items() if x != then[name]}


def test_methods_differ_from_impala_in_the_meta_objective_alone():
    """BMG's L and its matching; the default of both stands in the settings of all."""
    impala = run_of("impala")
    assert impala.agent.algorithm == "impala"
    found = {method: differences(impala, run_of(method)) for method in minatar.METHODS}
    assert found.pop("impala") == {}
    assert found.pop("stacx") == {"agent.algorithm": "stacx"}
    for target_steps in (1, 4):
        for name, matching in {"kl": "kl", "v": "value", "kl-v": "kl_value"}.items():
            expected = {"agent.algorithm": "bmg"} | {
                f"agent.meta.{field}": value
                for field, value in (("target_steps", target_steps), ("matching", matching))
                if value != getattr(impala.agent.meta, field)
            }
            assert found.pop(f"bmg-l{target_steps}-{name}") == expected
    assert not found.keys() & set(minatar.DEFAULT)
    assert CompareOptions().methods == FiguresOptions().methods == minatar.DEFAULT
    for method, whole, name, value in (
        ("stacx-fixed", "stacx", "learning_rate", 0.0),
        ("stacx-r", "stacx", "extra_replay_batches", 3),
        ("bmg-l4-kl-r", "bmg-l4-kl", "final_data", "replay"),
        ("bmg-l4-kl-w", "bmg-l4-kl", "final_objective", "learned"),
        ("bmg-l1-kl-ns", "bmg-l1-kl", "continuation", "recomputed"),
        ("bmg-l1-kl-db", "bmg-l1-kl", "continuation", "target"),
        ("bmg-l1-kl-sgd", "bmg-l1-kl", "target_optimizer", "sgd"),
    ):
        assert differences(run_of(whole), run_of(method)) == {f"agent.meta.{name}": value}
        del found[method]
    for low in list(found):
        whole, suffix = low[: -len("-low")], low[-len("-low") :]
        assert suffix == "-low"
        assert differences(run_of(whole), run_of(low)) == {"agent.meta.initial_logit": 2.0}
        del found[low]
    assert not found
    assert {f"{name}-low" for name in minatar.METHODS if "low" not in name} == {
        *(name for name in minatar.METHODS if "low" in name), "impala-low",
    }  # fmt: skip
    assert {name for pair in minatar.ORDERS for name in pair} == minatar.METHODS.keys()
    assert len(set(minatar.ORDERS)) == len(minatar.ORDERS)
    assert minatar.RANDOM_RETURNS.keys() == set(minatar.GAMES)


def test_the_sweep_varies_what_it_says():
    agent = minatar.impala_of(0.5, 0.25, 0.125)
    own = dataclasses.replace(run_of("impala"), agent=agent)
    assert differences(run_of("impala"), own) == {
        "agent.optimizer.learning_rate": 0.5, "agent.loss.entropy_cost": 0.25,
        "agent.optimizer.max_norm": 0.125,
    }  # fmt: skip


def test_a_digest_is_of_what_makes_the_result():
    base = minatar.digest(run_of("stacx"))
    assert base == minatar.digest(run_of("stacx", seeds=3, first_seed=7))
    moved = dataclasses.replace(run_of("stacx"), workdir="x", resume=True)
    assert base == minatar.digest(moved)
    others = {minatar.digest(run_of(method)) for method in minatar.METHODS}
    assert len(others) == len(minatar.METHODS)
    others |= {
        minatar.digest(run_of("stacx", steps=9)),
        minatar.digest(run_of("stacx", game="freeway")),
    }
    config = run_of("stacx")
    loss = dataclasses.replace(config.agent.loss, discount=0.5)
    changed = dataclasses.replace(config, agent=dataclasses.replace(config.agent, loss=loss))
    assert len(others | {minatar.digest(changed)}) == len(minatar.METHODS) + 3


SUITE = "suite minatar --games breakout --methods impala stacx --seeds 2 --steps 3000".split()


@pytest.mark.slow
@pytest.mark.timeout(900)  # four programs, two of which compile STACX
def test_a_suite_is_stopped_goes_on_and_leaves_alone_what_is_complete(tmp_path):
    """Also on another machine, which has the table alone; then its numbers are drawn."""
    with commands.started(*SUITE, cwd=tmp_path) as run:
        folder = tmp_path / "runs/minatar"
        run.wait_for((folder / "breakout/stacx/seed-1/metrics.jsonl").exists)
        run.interrupt()
        code, out, err = run.finish()
    assert code == 130, out + err
    assert f"go on with: bmg {' '.join(SUITE)}" in out + err
    first = table.read_table(folder / "results.csv")
    assert [run.key[:3] for run in first] == [("breakout", "impala", 0), ("breakout", "impala", 1)]
    assert first[0].settings == minatar.digest(run_of("impala"))
    before = (folder / "breakout/impala/results.json").stat().st_mtime_ns

    code, out, err = commands.bmg(*SUITE, cwd=tmp_path)
    assert code == 0, err
    assert "1 of 2: breakout impala is in runs/minatar/results.csv already" in out
    assert (folder / "breakout/impala/results.json").stat().st_mtime_ns == before
    found = table.read_table(folder / "results.csv")
    assert len(found) == 4
    for run in found:
        directory = folder / "breakout" / run.method / f"seed-{run.seed}"
        results = commands.json_of(directory / "results.json")
        assert results["complete"] and results["protocol"]["seed"] == run.seed
        assert run.evaluation_return == pytest.approx(results["evaluation_return"], rel=1e-4)
        late = [row for row in commands.learner_rows(directory) if row["frames"] > 2_700]
        mean = sum(row["training/return"] for row in late) / len(late)
        assert run.late_return == pytest.approx(mean, rel=1e-4)
        assert run.curve[-1] == pytest.approx(late[-1]["training/return"], rel=1e-3)
        assert run.meta.keys() == (set() if run.method == "impala" else table.META_CURVES.keys())
        assert not (directory / "playing").exists()

    other = ["--root", "elsewhere", "--results", "runs/minatar/results.csv"]
    code, out, err = commands.bmg(*SUITE, *other, cwd=tmp_path)
    assert code == 0 and out.count("already") == 2, out + err
    assert not (tmp_path / "elsewhere/breakout").exists()
    figures = ["suite", "minatar", "figures", "--resamples", "50"]
    code, out, err = commands.bmg(*figures, cwd=tmp_path)
    assert code == 0, err
    assert "fewer than 3 seeds" in out and "no run on: asterix, freeway" in out and "stacx" in out
    names = ["aggregates", "improvement", "profiles", "curves", "meta_parameters"]
    assert out.split()[-5:] == [f"runs/minatar/figures/{name}.png" for name in names]


@pytest.fixture
def trained(monkeypatch):
    """The runs that are trained: they fail, or are complete at once, but for what they learn."""
    seen = []

    def train(config, again) -> int:
        seen.append((config.game, config.agent.algorithm))
        if config.agent.algorithm == "stacx":
            return 1
        for directory in runs.directories(config):
            directory.mkdir(parents=True)
            results = {
                "complete": True, "frames": config.frames, "wall_seconds": 60.0,
                "evaluation": {"final": True, "mean_return": 2.0, "episodes": 3},
            }  # fmt: skip
            (directory / "results.json").write_text(json.dumps(results))
            rows = [{"frames": 1_500 * i, "training/return": float(i)} for i in (1, 2)]
            (directory / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
        config_file(config.path).write_text(json.dumps(to_dict(config)))
        return 0

    monkeypatch.setattr(runs, "_train", train)
    return seen


def test_a_run_that_fails_does_not_end_the_suite(command, trained, tmp_path):
    words = "suite minatar --games breakout --seeds 2 --steps 3000 --methods stacx impala".split()
    code, out, err = command(*words)
    assert code == 1 and trained == [("minatar/breakout", "stacx"), ("minatar/breakout", "impala")]
    assert "failed: breakout stacx; try again with: bmg suite minatar --games" in err
    assert "breakout impala: return 2 in the last tenth, 2 in evaluation" in out
    (run, _) = table.read_table(tmp_path / "runs/minatar/results.csv")
    assert (run.late_return, run.curve[19], run.curve[39]) == (2.0, 1.0, 2.0)
    assert (run.evaluation_return, run.evaluation_episodes, run.wall_seconds) == (2.0, 3, 60.0)
    trained.clear()
    (tmp_path / "runs/minatar/results.csv").unlink()
    assert command(*words)[0] == 1 and trained == [("minatar/breakout", "stacx")]
    assert len(table.read_table(tmp_path / "runs/minatar/results.csv")) == 2, "from its folder"


def test_a_table_that_cannot_be_written_is_found_before_anything_is_trained(
    command, trained, tmp_path, monkeypatch
):
    """Later, it costs its own part alone, which is there when the suite goes on."""
    words = "suite minatar --games breakout freeway --methods impala --seeds 2 --steps 3000".split()
    (tmp_path / "file").touch()
    for results in ("file/x.csv", "/proc/x/results.csv", "."):
        with named(results):
            line = command.refused(*words, "--results", results)
            assert f"{results} " in line and trained == []
    assert "/proc/x/results.csv cannot be written" in command.refused(
        *words, "--results", "/proc/x/results.csv"
    )
    add, calls = runs.add_to_table, []

    def full(path, found):
        calls.append(path)
        if len(calls) == 2:  # the first one is only tried
            raise OSError(28, "No space left on device", str(path))
        add(path, found)

    monkeypatch.setattr(runs, "add_to_table", full)
    code, _, err = command(*words)
    assert code == 1 and len(trained) == 2
    assert "bmg: breakout impala is not in the table: runs/minatar/results.csv: No space" in err
    assert "failed: breakout impala; try again with" in err
    found = table.read_table(tmp_path / "runs/minatar/results.csv")
    assert {run.game for run in found} == {"freeway"}
    assert command(*words)[0] == 0 and len(trained) == 2
    assert len(table.read_table(tmp_path / "runs/minatar/results.csv")) == 4


def test_a_suite_without_an_episode_says_so(command, trained, tmp_path):
    words = "suite minatar --games breakout --methods impala --seeds 2 --steps 3000".split()
    assert command(*words)[0] == 0
    for path in tmp_path.glob("runs/minatar/breakout/impala/seed-*/metrics.jsonl"):
        path.write_text('{"frames": 1500, "training/loss": 1.0}\n')
    path = tmp_path / "runs/minatar/results.csv"
    path.unlink()
    code, out, err = command(*words)
    assert code == 0 and "breakout impala: no episode ended, 2 in evaluation" in out, err
    assert all(math.isnan(run.late_return) for run in table.read_table(path))
    line = command.refused("suite", "minatar", "figures")
    assert "no episode ended: breakout impala 0 1; give --score evaluation, or run more" in line


def test_figures_of_a_suite_elsewhere(command, tmp_path, pictures):
    written = [finished("breakout", method, seed, value=seed + 1.0)
               for method in ("impala", "stacx") for seed in range(3)]  # fmt: skip
    table.write_table(tmp_path / "other/results.csv", written)
    code, out, err = command("suite", "minatar", "figures", "--root", "other", "--resamples", "20")
    assert code == 0, err
    assert out.splitlines()[-1] == "other/figures/meta_parameters.png"
    assert "no run on: asterix, freeway, seaquest, space_invaders" in out
    table.write_table(
        tmp_path / "x.csv", [*written, finished("breakout", "stacx", 9, settings="x")]
    )
    line = command.refused("suite", "minatar", "figures", "--results", "x.csv")
    assert "breakout, stacx under two settings, 0123456789ab and x" in line


def test_two_suites_in_a_folder(command, trained, tmp_path):
    (tmp_path / "runs/minatar").mkdir(parents=True)
    with owned(tmp_path / "runs/minatar"):
        code, _, err = command("suite", "minatar", "--seeds", "2")
    assert code == 2 and trained == []
    assert "in use" in err and "give another --root." in err


def test_the_sweep_ends_in_a_table(command, trained):
    words = "suite minatar tune --games breakout freeway --learning-rates 0.1 0.2".split()
    code, out, err = command(*words, "--entropy-costs", "0.01", "--seeds", "1", "--steps", "3000")
    assert code == 0 and len(trained) == 4, err
    lines = [line for line in out.splitlines() if line.startswith("│ 0.")]
    assert [line.split("│")[1].strip() for line in lines] == ["0.1", "0.2"]
    assert [line.split("│")[-2].strip() for line in lines] == ["1", "1"]


def test_bad_input_is_one_line_and_nothing_is_written(command, trained, tmp_path):
    small = ["--seeds", "2", "--steps", "3000", "--games", "breakout", "--methods", "impala"]
    assert command("suite", "minatar", *small)[0] == 0
    trained.clear()
    saved = to_dict(run_of("impala"))
    saved["agent"]["loss"]["entropy_cost"] = 0.5
    for name, config in (("other", saved), ("run", None)):
        folder = tmp_path / name / ("breakout/impala" if config else "")
        folder.mkdir(parents=True)
        config_file(folder).write_text(json.dumps(config or to_dict(TrainConfig())))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/suite.json").write_text("{")
    (tmp_path / "text.csv").write_text("a,b\n")
    table.write_table(tmp_path / "one.csv", [finished("breakout", "impala", 0)])
    for words, expected in (
        ("--games pong", ["--games is 'pong'", "asterix, breakout"]),
        ("--games", ["--games is empty"]),
        ("--methods bmg", ["--methods is 'bmg'", "impala, stacx, bmg-l1-kl"]),
        ("--methods impala impala", ["--methods has impala twice"]),
        ("--seeds 0", ["--seeds is 0", "from 1"]),
        ("--first-seed 2147483647 --seeds 2", ["--first-seed", "2147483646"]),
        ("--seeds 3 --steps 3000", ["runs/minatar holds a suite with seeds = 2, not 3", "--root"]),
        ("--seeds 2", ["steps = 3000, not 2000000", "--root"]),
        ("tune --root runs/minatar", ["suite = 'minatar', not 'minatar tune'", "--root"]),
        (
            "--root other --seeds 2 --steps 3000",
            ["other/breakout/impala", "agent.loss.entropy_cost = 0.5, not 0.03", "--root"],
        ),
        ("--root run", ["run is the directory of a run", "--root"]),
        ("--root broken", ["broken/suite.json cannot be read", "--root"]),
        ("--results text.csv", ["text.csv is no table of finished runs"]),
        ("tune --entropy-costs -1", ["--entropy-costs is -1;", "from 0"]),
        ("tune --max-norms", ["--max-norms is empty"]),
        ("figures --results none.csv", ["no runs in none.csv", "--results"]),
        ("figures --results text.csv", ["text.csv is no table"]),
        ("figures --results one.csv --games freeway", ["no game has finished runs"]),
        ("figures --score best", ["--score is 'best'", "late, evaluation"]),
    ):
        with named(words):
            line = command.refused("suite", "minatar", *words.split())
            assert all(word in line for word in expected), line
    assert trained == []
