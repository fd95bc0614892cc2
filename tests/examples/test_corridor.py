"""The example of an environment of one's own, which no file of the package knows of."""

from __future__ import annotations

import shutil

import pytest

from tests.examples.loading import FOLDER
from tests.launch import commands

GAME = ["--game", "corridor:make", "--game-options", '{"length": 12}']


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder, with the file in it and nothing else."""
    shutil.copy(FOLDER / "corridor.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_short(folder):
    text = (folder / "corridor.py").read_text()
    assert len(text.split('"""', 2)[2].strip().splitlines()) <= 35


@pytest.mark.heavy
def test_what_does_not_fit_is_refused_before_anything_starts(command, folder):
    (folder / "own.py").write_text(
        "import corridor, gymnasium\n"
        "def continuous():\n"
        "  made = corridor.make()\n"
        "  made.action_space = gymnasium.spaces.Box(-1, 1, (2,))\n"
        "  return made\n"
        "def leaves():\n"
        "  raise SystemExit(3)\n"
        "class Unseeded(corridor.Corridor):\n"
        "  def reset(self): return super().reset()\n"
        "def unseeded(): return Unseeded(8)\n"
        "def agent(config, spec): raise SystemExit(3)\n"
        "def torso(x, config):\n"
        "  raise ValueError('too deep')\n"
    )
    for arguments, words in (
        ("--game gymnasium:CartPol-v1", ["cannot be made", "CartPole"]),
        ("--game corridor:maze", ["corridor:maze cannot be imported"]),
        ("--game own:continuous", ["own:continuous has actions Box", "discrete"]),
        ("--game own:leaves", ["own:leaves cannot be made: SystemExit: 3"]),
        ("--game own:unseeded", ["own:unseeded fails in reset: TypeError", "seed"]),
        ("--game corridor:make --agent.algorithm own:agent", ["own:agent", "SystemExit: 3"]),
        ("--game corridor:make --game-options {", ["game_options", "no JSON"]),
        (
            '--game corridor:make --game-options {"size":3}',
            ["cannot be made", "size"],
        ),
        ('--game catch --game-options {"size":3}', ["no option 'size'", "rows, columns"]),
        ('--game pong --game-options {"size":3}', ["pong has none"]),
        ("--game corridor:make --agent.network.torso dqn", ["'dqn' needs images", "[2]"]),
        ("--game corridor:make --agent.network.torso own:none", ["own:none", "none"]),
        ("--game corridor:make --agent.network.torso own:torso", ["own:torso", "too deep"]),
        ("--game corridor:make --agent.network.center-frames", ["center_frames needs images"]),
    ):
        line = command.refused("train", *arguments.split())
        assert all(word in line for word in words), line
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_the_whole_program_trains_evaluates_and_resumes_it(folder):
    """In threads. Whoever goes right always gets 0.9 and more."""
    arguments = [*GAME, "--runtime", "local-threads", "--frames", "100000", "--workdir", "run"]
    code, _, err = commands.bmg("train", *arguments, cwd=folder, optimized=True)
    assert code == 0, err
    results = commands.json_of(folder / "run/results.json")
    assert results["evaluation_return"] > 0.8 and results["human_normalized_score"] is None
    assert results["protocol"]["environment"] == {
        "frame_shape": [2], "num_actions": 2, "num_stack": 1, "action_repeat": 1,
        "dtype": "float32", "options": {"length": 12},
    }  # fmt: skip
    code, out, err = commands.bmg("evaluate", "--workdir", "run", cwd=folder)
    assert code == 0 and '"human_normalized_score": null' in out, err
    code, _, err = commands.bmg(
        "train", "--workdir", "run", "--resume", "--frames", "101000", cwd=folder
    )
    assert code == 0, err
    assert commands.json_of(folder / "run/results.json")["frames"] >= 101_000


@pytest.mark.slow
@pytest.mark.launchpad
def test_processes_train_it(folder):
    """Each process makes it anew, from the folder in which the command was given."""
    code, _, err = commands.bmg(
        "train", *GAME, "--runtime", "launchpad", "--frames", "4000", cwd=folder
    )
    assert code == 0, err
    rows = commands.learner_rows(folder / "runs/corridor-make")
    assert rows[-1]["learner/frames"] >= 4_000


@pytest.mark.slow
def test_the_one_of_pure_functions_is_part_of_a_compiled_program(folder):
    """And of threads: the same agent plays it."""
    shutil.copy(FOLDER / "compiled_corridor.py", folder)
    arguments = ["train", "--game", "compiled_corridor:make", "--workdir", "run"]
    arguments += ["--game-options", '{"length": 12}', "--frames", "100000"]
    code, _, err = commands.bmg(
        *arguments, "--runtime", "in-graph", "--seeds", "2", cwd=folder, optimized=True
    )
    assert code == 0, err
    assert commands.json_of(folder / "run/results.json")["evaluation_return"] > 0.8
    code, _, err = commands.bmg(
        "train", "--workdir", "run/seed-1", "--resume", "--runtime", "local-threads", "--frames",
        "102000", cwd=folder,
    )  # fmt: skip
    assert code == 0, err
    assert commands.json_of(folder / "run/seed-1/results.json")["training_return"] > 0.8
