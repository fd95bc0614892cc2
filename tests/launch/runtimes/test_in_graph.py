"""`--runtime in-graph`: the whole command, its seeds, what goes on elsewhere, what is refused."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from bmg.launch.config import TrainConfig
from bmg.launch.presets import PRESETS
from bmg.launch.runtimes.in_graph import of_seeds
from bmg.launch.train import prepare_workdir
from bmg.storage.run_directory import config_file, to_dict
from tests.launch import commands
from tests.launch.commands import json_of

RUN = ["train", "--game", "catch", "--runtime", "in-graph", "--agent.algorithm", "impala"]


@pytest.mark.slow
def test_seeds_side_by_side_learn_catch_and_are_runs_like_others(tmp_path):
    """A random policy gets -0.6; a seed's run goes on under another runtime, and all of them under
    their own."""
    arguments = [*RUN, "--seeds", "2", "--seed", "5", "--learner.online-batch", "16"]
    arguments += ["--learner.replay-batch", "4", "--workdir", "run"]
    code, out, err = commands.bmg(*arguments, "--frames", "200000", cwd=tmp_path, optimized=True)
    assert code == 0, err
    results = json_of(tmp_path / "run/results.json")
    assert results["seeds"] == [5, 6] and results["complete"] is True
    assert min(results["evaluation_return_of_seeds"]) > 0.5
    assert results["evaluation_return"] == sum(results["evaluation_return_of_seeds"]) / 2
    assert re.search(r"complete: [\d,]+ frames x \d seeds in .* evaluation ", out), out
    for seed in (5, 6):
        folder = tmp_path / f"run/seed-{seed}"
        own = json_of(folder / "results.json")
        assert own["protocol"]["seed"] == seed and own["frames"] >= 200_000
        rows = commands.learner_rows(folder)
        assert 100 <= len(rows) <= 200 and rows[-1]["training/return"] > 0.5
        assert {"loss_main/total", "learner/frames_per_second"} <= rows[-1].keys()
        assert list((folder / "tensorboard").glob("events*"))
    code, out, err = commands.bmg(
        "evaluate", "--workdir", "run/seed-6", "--episodes", "50", cwd=tmp_path
    )
    assert code == 0 and json_of(tmp_path / "run/seed-6/evaluation.json")["evaluation_return"] > 0.5
    code, _, err = commands.bmg(
        "train", "--workdir", "run", "--resume", "--frames", "205000", cwd=tmp_path
    )
    assert code == 0, err
    assert json_of(tmp_path / "run/seed-5/results.json")["frames"] >= 205_000
    code, _, err = commands.bmg(
        "train", "--workdir", "run/seed-5", "--resume", "--runtime", "local-threads", "--frames",
        "210000", cwd=tmp_path,
    )  # fmt: skip
    assert code == 0, err
    own = json_of(tmp_path / "run/seed-5/results.json")
    assert own["frames"] >= 210_000 and own["training_return"] > 0.5


@pytest.mark.heavy
def test_what_cannot_be_one_program_is_refused(command):
    for arguments, words in (
        ("train --game pong --runtime in-graph", ["pong", "compiled program", "minatar/breakout"]),
        ("train --game gymnasium:CartPole-v1 --runtime in-graph", ["no part of a compiled"]),
        ("train --game catch --seeds 2", ["seeds is 2", "--runtime in-graph"]),
        ("train --game catch --runtime in-graph --seeds 0", ["seeds", "0", "from 1"]),
        ("train --game minatar/pong --runtime in-graph", ["minatar/pong", "did you mean"]),
        ('train --game snake --game-options {"size":3} --runtime in-graph', ["snake", "size"]),
        (
            "train --game catch --runtime in-graph --hosts.count 2 --hosts.coordinator a:1 "
            "--learner.replay-batch 2",
            ["has no --hosts"],
        ),
        ("train --game catch --runtime in-graph --devices.inference 1", ["--devices.inference"]),
        ("train --game catch --runtime in-graph --devices.learner 99", ["is 99, and there are"]),
        (
            "train --game catch --runtime in-graph --learner.profile-updates 3",
            ["has no --learner.profile-updates"],
        ),
        ("train --game catch --runtime in-graph --learner.platform cuda", ["no 'cuda' device"]),
        (
            "train --game catch --runtime in-graph --seed 2147483647 --seeds 3",
            ["seed is 2147483647", "up to 2147483645"],
        ),
    ):
        line = command.refused(*arguments.split())
        assert all(word in line for word in words), line


def two_seeds(folder) -> TrainConfig:
    config = PRESETS["local"]("catch")
    return dataclasses.replace(config, runtime="in-graph", seed=1, seeds=2, workdir=str(folder))


def save(config: TrainConfig) -> None:
    config.path.mkdir(parents=True, exist_ok=True)
    config_file(config.path).write_text(json.dumps(to_dict(config)))


def test_a_seed_does_not_begin_where_another_run_is(command, tmp_path):
    """As a sweep leaves them; nothing of it is touched."""
    config = two_seeds(tmp_path / "run")
    there = dataclasses.replace(of_seeds(config)[1], runtime="local-threads")
    save(there)
    words = "train --game catch --runtime in-graph --seed 1 --seeds 2 --workdir run".split()
    assert "run/seed-2 holds a run already" in command.refused(*words)
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["seed-2", "config.json"]
    save(config)
    other = dataclasses.replace(there, agent=dataclasses.replace(there.agent, algorithm="stacx"))
    save(other)
    line = command.refused("train", "--workdir", "run", "--resume")
    assert "run/seed-2 holds a run with agent.algorithm = 'stacx'" in line


def test_seeds_of_which_one_has_no_checkpoint_begin_again(tmp_path, capsys):
    config = dataclasses.replace(two_seeds(tmp_path / "run"), resume=True)
    save(config)
    for own, there in zip(of_seeds(config), (True, False)):
        save(own)
        checkpoints = own.path / "checkpoints"
        checkpoints.mkdir()
        if there:
            (checkpoints / "checkpoint_0000000003.npz").write_bytes(b"")
    assert prepare_workdir(config) is False
    out = capsys.readouterr().out
    assert (
        out == f"not a checkpoint of every seed in {config.path}: the run begins at frame 0 again\n"
    )
    (checkpoints / "checkpoint_0000000003.npz").write_bytes(b"")
    assert prepare_workdir(config) is True


@pytest.mark.parametrize("words", ["evaluate", "watch", "diagnose"])
def test_a_command_for_one_run_names_the_seeds(command, tmp_path, words):
    save(two_seeds(tmp_path / "run"))
    line = command.refused(words, "--workdir", "run")
    assert "run holds 2 seeds; give one of them, run/seed-1 to seed-2" in line
