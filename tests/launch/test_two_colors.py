"""`bmg two-colors`: a run from the command to its table, a stop in between, the figures."""

from __future__ import annotations

import dataclasses
import json
import signal

import numpy as np
import pytest

from bmg.experiments.records import read_csv
from bmg.experiments.two_colors import experiment
from bmg.experiments.two_colors.config import ActorCriticConfig, TwoColorsConfig
from bmg.experiments.two_colors.experiment import methods, score
from bmg.experiments.two_colors.figures import (
    Run,
    best,
    compared_after,
    cycle_ends,
    total_after,
    tuned,
)
from bmg.storage.files import write_json
from bmg.storage.run_directory import config_file, load_config, to_dict
from tests.launch import commands

SMALL = (
    "--actor-critic.hidden 8 --actor-critic.meta-hidden 4 --q-lambda.hidden 8 "
    "--q-lambda.meta-hidden 4 --record-every 160 --flip-every 800 --seeds 2"
).split()


pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation", "kept_programs")]


@pytest.mark.parametrize(
    "before, now", [("kl-1", "kl"), ("kl-2", "reverse_kl"), ("symmetric", "symmetric_kl")]
)
def test_runs_of_older_versions_are_read(tmp_path, before, now):
    values = to_dict(TwoColorsConfig(actor_critic=ActorCriticConfig(matching_reduction="sum")))
    values["matching"] = before
    values["actor_critic"]["kl_reduction"] = values["actor_critic"].pop("matching_reduction")
    write_json(config_file(tmp_path), values)
    config = load_config(tmp_path, TwoColorsConfig)
    assert config.matching_name == now
    assert config.actor_critic.matching_reduction == "sum"


@pytest.mark.parametrize(
    "method, last_column",
    [
        ("--method fixed", "entropy_weight"),
        ("--method mg --inner-steps 2", "entropy_weight"),
        ("--method bmg --target-steps 2", "entropy_weight"),
        ("--agent q-lambda --method fixed", "tie"),
        ("--agent q-lambda --method bmg --target-steps 4", "tie"),
    ],
)
def test_a_run_leaves_its_table(command, tmp_path, method, last_column):
    code, out, _ = command("two-colors", *method.split(), *SMALL, "--steps", 3200, "--workdir", "a")
    assert code == 0
    steps, columns = read_csv(tmp_path / "a" / "results.csv")
    np.testing.assert_array_equal(steps, np.arange(160, 3201, 160))
    assert list(columns)[-1] == last_column
    result = json.loads((tmp_path / "a" / "results.json").read_text())
    assert result == json.loads(out[out.index("{") :])
    assert (result["steps"], result["seeds"], result["complete"]) == (3200, 2, True)
    assert result["method"] == method.split()[method.split().index("--method") + 1]
    total = columns["reward"].mean() * 3200
    np.testing.assert_allclose(result["total_reward_mean"], total, rtol=1e-4)
    np.testing.assert_allclose(result["reward_per_step"], total / 3200, rtol=1e-4)
    assert load_config(tmp_path / "a", TwoColorsConfig).steps == 3200


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("--method bgm", ["bgm", "fixed", "mg", "bmg"]),
        ("--agent q-lambda --method mg", ["--method is mg", "q-lambda", "fixed, bmg"]),
        ("--agent dqn", ["dqn", "actor-critic", "q-lambda"]),
        (
            "--matching value",
            ["--matching is value", "actor-critic", "kl, reverse_kl, symmetric_kl"],
        ),
        ("--agent q-lambda --matching kl", ["--matching is kl", "policy, value"]),
        ("--record-every 5", ["--record-every is 5", "from 16"]),
        ("--first-seed 2147483647", ["--first-seed is 2147483647", "up to 2147483640"]),
        ("--stepz 5", ["--stepz"]),
        ("--resume --workdir nowhere", ["no run to resume in nowhere"]),
        ("figures --root nowhere", ["no runs in nowhere"]),
        ("all --only fixed-0.1 bmg-l8-meta0", ["'bmg-l8-meta0'", "bmg-l7-meta0"]),
    ],
)
def test_bad_input_is_one_line(command, arguments, words):
    line = command.refused("two-colors", *arguments.split())
    assert all(word in line for word in words), line


def test_a_run_is_not_overwritten_nor_resumed_as_another(command, tmp_path):
    assert command("two-colors", *SMALL, "--steps", 500, "--workdir", "a")[0] == 0
    assert "--resume" in command.refused("two-colors", *SMALL, "--steps", "500", "--workdir", "a")
    for change, words in (
        ("--method mg", ["method = 'bmg'", "'mg'"]),
        ("--seeds 3", ["seeds = 2", "3"]),
        ("--target-steps 3", ["target_steps = 7"]),
        ("--actor-critic.discount 0.5", ["actor_critic.discount = 0.99"]),
    ):
        line = command.refused(*f"two-colors --workdir a --resume {change}".split())
        assert all(word in line for word in [*words, "--workdir"]), line
    # Longer is no other run; nor is what a killed process left, or somebody's folder, in its way.
    folder = tmp_path / "a" / "checkpoints"
    left_over = folder / "checkpoint_0000000160.npz.140003.tmp"
    left_over.write_bytes(b"PK")
    (folder / "checkpoint_9999999999.npz").mkdir()
    assert command(*"two-colors --workdir a --resume --steps 900".split())[0] == 0
    assert read_csv(tmp_path / "a" / "results.csv")[0][-1] >= 900
    assert not left_over.exists() and (folder / "checkpoint_9999999999.npz").is_dir()
    config_file(tmp_path / "a").write_text('{"game": "pong"}')
    assert "config.json" in command.refused(*"two-colors --workdir a --resume".split())


def test_a_stopped_run_goes_on_as_if_nothing_had_been(tmp_path):
    """SIGTERM to the real command; the resumed run's table is the uninterrupted one's. Meanwhile
    nobody else gets its directory."""
    workdir = tmp_path / "parts"
    options = (*SMALL, "--checkpoint-interval", "0.5")
    endless = ("two-colors", *options, "--steps", "1000000000", "--workdir", "parts")
    with commands.started(*endless, cwd=tmp_path) as run:
        run.wait_for(lambda: list(workdir.glob("checkpoints/*.npz")))
        code, _, err = commands.bmg("two-colors", "--workdir", "parts", "--resume", cwd=tmp_path)
        assert code == 2 and f"in use by a run that goes on (process {run.process.pid})" in err
        run.process.send_signal(signal.SIGTERM)
        code, out, err = run.finish()
    assert code == 130, err
    assert "go on with: bmg two-colors --workdir parts --resume" in out
    result = json.loads((workdir / "results.json").read_text())
    assert result["complete"] is False and result["steps"] > 0
    steps = str(result["steps"] + 5_000)
    code, _, err = commands.bmg(
        "two-colors", "--workdir", "parts", "--resume", "--steps", steps, cwd=tmp_path
    )
    assert code == 0, err
    code, _, err = commands.bmg(
        "two-colors", *options, "--steps", steps, "--workdir", "whole", cwd=tmp_path
    )
    assert code == 0, err
    parts, whole = ((tmp_path / name / "results.csv").read_bytes() for name in ("parts", "whole"))
    assert parts == whole


def run_of(name: str, config: TwoColorsConfig, seeds: int, rng) -> Run:
    steps = np.arange(2_000, 600_001, 2_000)
    last = "entropy_weight" if config.agent == "actor-critic" else "epsilon"
    columns = {c: rng.uniform(size=(seeds, len(steps))) for c in ("reward", "entropy", last)}
    return Run(name, config, steps, columns)


def test_all_figures_are_drawn_from_the_methods_of_the_paper(command, tmp_path, pictures):
    from bmg.experiments.records import write_csv
    from bmg.storage.run_directory import to_dict

    rng = np.random.default_rng(0)
    for name, config in methods().items():
        run = run_of(name, config, 3, rng)
        (tmp_path / "runs" / name).mkdir(parents=True)
        config_file(tmp_path / "runs" / name).write_text(json.dumps(to_dict(config)))
        write_csv(tmp_path / "runs" / name / "results.csv", 0, run.steps, run.columns)
    code, out, _ = command(*"two-colors figures --root runs --output pictures".split())
    assert code == 0
    names = [f"figure_{i}.png" for i in (2, 3, 7, 8, 9, 10, 11)]
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == sorted(names)
    pictures.assert_full(*names)
    left, right = (panel.colors for panel in pictures["figure_2.png"])
    assert len({*left.values()}) == len(left) == 3
    shared = left.keys() & right.keys()
    assert len(shared) == 2 and all(left[label] == right[label] for label in shared)
    for name in methods():
        assert name in out


def test_figures_of_what_there_is(command, tmp_path):
    assert command("two-colors", *SMALL, "--steps", 3200, "--workdir", "runs/a")[0] == 0
    code, out, _ = command(*"two-colors figures --root runs --output pictures".split())
    assert code == 0 and "figure_2.png" in out and "figure_3.png" not in out
    assert not (tmp_path / "pictures" / "figure_11.png").exists()


def test_legends_tell_methods_apart():
    """Everything that the figures compare has its own name, also where it begins elsewhere."""
    rng = np.random.default_rng(0)
    runs = [run_of(name, config, 1, rng) for name, config in methods().items()]
    for run in runs:
        own = dataclasses.replace(run.config.actor_critic, initial_entropy_weight=0.2)
        low = run._replace(config=dataclasses.replace(run.config, actor_critic=own))
        learned = run.config.agent == "actor-critic" and run.config.method != "fixed"
        assert low.label == run.label + (", from $\\epsilon$=0.2" if learned else "")
    assert len({run.label for run in runs}) == len(runs)


def test_what_the_figures_read_off():
    config = TwoColorsConfig(seeds=1)
    steps = np.arange(2_000, 400_001, 2_000)
    entropy = steps[None] / 1.0
    run = Run("a", config, steps, {"reward": np.ones_like(entropy), "entropy": entropy})
    ends, early, late = cycle_ends(run, "entropy", 3_333)
    np.testing.assert_array_equal(ends, [100_000, 200_000, 300_000, 400_000])
    # 3,333 steps into a cycle lie in its second stretch of 2,000.
    np.testing.assert_array_equal(early[0], ends - 100_000 + 4_000)
    np.testing.assert_array_equal(late[0], ends)
    np.testing.assert_allclose(run.total_reward[0], steps)
    poor = run._replace(columns={"reward": 0.5 * np.ones_like(entropy)})
    assert best([run, poor]) == [run] and best([]) == []
    slower = dataclasses.replace(config, meta_learning_rate=1e-5, workdir="b")
    other = poor._replace(config=dataclasses.replace(config, target_steps=1))
    assert tuned([poor._replace(config=slower), run, other]) == [run, other]
    # A longer run of a poorer method has collected more.
    longer = poor._replace(
        config=dataclasses.replace(config, steps=10, meta_learning_rate=1e-5),
        steps=np.arange(2_000, 1_600_001, 2_000),
        columns={"reward": np.full((1, 800), 0.5)},
    )
    assert best([longer, run]) == [run] and tuned([longer, run]) == [run]
    assert compared_after([longer, run]) == 400_000
    # A method that begins late is the best once it has run for long; step sizes share a length.
    late = longer._replace(columns={"reward": np.repeat([[0.0, 2.0]], [200, 600], axis=1)})
    assert best([late, run]) == [late] and tuned([late, run]) == [run]
    np.testing.assert_allclose(total_after(longer, 400_000), [200_000.0])
    assert score(steps, np.array([[1.0] * 200, [0.0] * 200])) == {
        "total_reward_mean": 200_000.0, "total_reward_std": 200_000.0, "reward_per_step": 0.5,
    }  # fmt: skip


def test_the_whole_experiment_runs_what_is_missing(command, tmp_path, monkeypatch):
    """Two of its methods, stopped after the first."""
    import bmg.launch.lifetimes as module

    def smaller(config):
        own = dataclasses.replace(config.actor_critic, hidden=(8,), meta_hidden=(4,))
        return dataclasses.replace(config, actor_critic=own)

    wanted = {
        name: smaller(config)
        for name, config in methods().items()
        if name in ("fixed-0.1", "bmg-l1-meta0", "q-fixed-0.1")
    }
    monkeypatch.setattr(experiment, "methods", lambda: wanted)
    ran = []
    real = module._run_alone

    def recording(declaration, config):
        ran.append((config.path.name, config.steps, config.seeds, config.resume))
        return real(declaration, config) if config.agent == "actor-critic" else 0

    monkeypatch.setattr(module, "_run_alone", recording)
    command(*"two-colors all --seeds 1 --steps 2000 --q-lambda-steps 100 --only *fixed*".split())
    assert ran == [("fixed-0.1", 2000, 1, False), ("q-fixed-0.1", 100, 1, False)]
    command(*"two-colors all --seeds 1 --steps 2000 --q-lambda-steps 100 --only fixed-0.1".split())
    assert ran[2:] == [("fixed-0.1", 2000, 1, True)]
    rates = "--meta-learning-rates 1e-4 3e-5"
    command(*f"two-colors all --seeds 1 --steps 100 {rates} --only *-l1-*".split())
    names = ["bmg-l1-meta0-rate0.0001", "bmg-l1-meta0-rate3e-05"]
    assert [name for name, *_ in ran[3:]] == names
    for name, rate in zip(names, (1e-4, 3e-5)):
        saved = load_config(tmp_path / "runs" / "two_colors" / name, TwoColorsConfig)
        assert saved.meta_learning_rate == rate
    assert (tmp_path / "runs" / "two_colors" / "fixed-0.1" / "results.csv").exists()
