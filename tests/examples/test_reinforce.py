"""The example of an agent of one's own, which no file of the package knows of."""

from __future__ import annotations

import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from bmg.agents.agent import Spec
from bmg.agents.config import AgentConfig, LossConfig
from bmg.agents.factory import make_agent
from bmg.agents.trajectory import UpdateBatch
from tests.agents import oracle
from tests.agents.data import NUM_ACTIONS, OBSERVATION_SHAPE, TINY, as_data, random_trajectories
from tests.examples.loading import FOLDER
from tests.launch import commands

OPTIONS = "--game catch --learner.replay-batch 0 --agent.optimizer.learning-rate 2e-3".split()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder, with the file in it and nothing else."""
    shutil.copy(FOLDER / "reinforce.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_loss_is_that_of_a_slow_loop(folder):
    config = AgentConfig("reinforce:make", network=TINY, loss=LossConfig(discount=0.5))
    agent = make_agent(config, Spec(OBSERVATION_SHAPE, NUM_ACTIONS))
    state = agent.init(jax.random.PRNGKey(0))
    online = random_trajectories(0, 3)
    batch = UpdateBatch(online, jax.tree.map(lambda x: x[:0], online))
    new, metrics = jax.jit(agent.update)(state, batch, 0.0, jax.random.PRNGKey(1))

    data = as_data(online, False)
    logits, _ = oracle.predict(agent.acting_params(state), data.s[:, :-1])
    log_pi = np.log(oracle.softmax(logits))
    returns, chosen = np.zeros(online.action.shape), np.zeros(online.action.shape)
    for b, t in np.ndindex(returns.shape):
        weight = 1.0
        for k in range(t, returns.shape[1]):
            returns[b, t] += weight * np.clip(online.reward[b, k], -1, 1)
            weight *= 0.5 * online.discount[b, k]
        chosen[b, t] = log_pi[b, t, online.action[b, t]]
    expected = -np.mean(chosen * (returns - returns.mean()))
    np.testing.assert_allclose(metrics["loss/policy"], expected, rtol=1e-4)
    assert any(np.any(x != y) for x, y in zip(jax.tree.leaves(new[0]), jax.tree.leaves(state[0])))


def test_what_cannot_be_imported_is_refused_in_one_line(command, tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\nVALUE = 3\n")
    (tmp_path / "no_function.py").write_text("make = 3\n")
    (tmp_path / "no_agent.py").write_text(
        "def make(config, spec):\n  return 3\ndef other(config):\n  pass\n"
    )
    for name, words in [
        ("none:make", ["none:make", "No module named 'none'", "in that module's folder"]),
        ("no_agent:make", ["gives a int, not an Agent"]),
        ("no_agent:other", ["cannot be called as make(config, spec)", "too many positional"]),
        ("broken:make", ["broken:make", "nothing_of_this_name"]),
        ("no_function:make", ["no_function:make", "is a int; give a function"]),
        ("no_function:other", ["no_function:other", "'other'"]),
        ("no_function", ["no_function", "impala, stacx, bmg, lpg, package.module:function"]),
        ("a b:make", ["a b:make", "impala, stacx, bmg, lpg, package.module:function"]),
    ]:
        line = command.refused("train", "--game", "catch", "--agent.algorithm", name)
        assert all(word in line for word in words), line


def test_an_agent_that_fails_or_gives_something_else_is_refused_before_a_run(command, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dataclasses, jax, reinforce\n"
        "def changed(**functions):\n"
        "  return lambda config, spec: reinforce.make(config, spec)._replace(**functions)\n"
        "def raises(config, spec):\n"
        "  return config.no_such_field\n"
        "def begin(key):\n"
        "  return {}['key']\n"
        "def act(params, observations, keys):\n"
        "  return observations @ keys\n"
        "begins = changed(init=begin)\n"
        "acts = changed(act=act)\n"
        "alone = changed(act=lambda params, observations, keys: observations)\n"
        "floats = changed(act=lambda params, observations, keys: (\n"
        "  jax.numpy.zeros(2), jax.numpy.zeros((2, 3))))\n"
        "narrow = changed(act=lambda params, observations, keys: (\n"
        "  jax.numpy.zeros(2, int), jax.numpy.zeros((2, 4))))\n"
    )
    shutil.copy(FOLDER / "reinforce.py", tmp_path)
    expected = "allowed are two actions, int32[2], and their logits, float32[2, 3]"
    for name, words in [
        ("raises", ["mine:raises cannot be made: AttributeError", "no_such_field", "(mine.py:5)"]),
        ("begins", ["mine:begins fails in init: KeyError: 'key' (mine.py:7)"]),
        ("acts", ["mine:acts fails in act: TypeError", "(mine.py:9)"]),
        ("alone", ["mine:alone gives uint8[2, 10, 5, 1] in act", expected]),
        ("floats", ["float32[2], float32[2, 3] in act", expected]),
        ("narrow", ["int32[2], float32[2, 4] in act", expected]),
    ]:
        line = command.refused("train", "--game", "catch", "--agent.algorithm", f"mine:{name}")
        assert all(word in line for word in words), line


def test_no_file_of_the_folder_takes_the_place_of_a_library(folder):
    """Nor does a folder that is gone keep the package's own agents from being found."""
    for name in ("haiku", "optax", "rich", "tyro"):
        (folder / f"{name}.py").write_text("raise RuntimeError('not the library')\n")
    code = (
        "import os, sys; sys.path.remove('')\n"
        "from bmg.storage.modules import load_named\n"
        "assert load_named('bmg.agents.impala:make') and os.getcwd() not in sys.path\n"
        "assert load_named('reinforce:make').__module__ == 'reinforce'\n"
        "import shutil; shutil.rmtree(os.getcwd())\n"
        "assert load_named('bmg.agents.stacx:make')\n"
    )
    inside = folder / "inside"
    inside.mkdir()
    for path in [*folder.glob("*.py")]:
        shutil.copy(path, inside)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=inside, env=commands.environment(), capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_whole_program_trains_evaluates_and_resumes_it(folder):
    """In threads. A random policy catches one ball of five: -0.6."""
    arguments = [*OPTIONS, "--agent.algorithm", "reinforce:make", "--runtime", "local-threads"]
    code, _, err = commands.bmg(
        "train", *arguments, "--frames", "300000", "--workdir", "run", cwd=folder, optimized=True
    )
    assert code == 0, err
    assert commands.json_of(folder / "run/results.json")["evaluation_return"] > 0.5
    code, _, err = commands.bmg("evaluate", "--workdir", "run", cwd=folder)
    assert code == 0, err
    assert commands.json_of(folder / "run/evaluation.json")["evaluation_return"] > 0.5
    longer = ["--workdir", "run", "--resume", "--frames", "301000"]
    code, _, err = commands.bmg("train", *longer, cwd=folder)
    assert code == 0, err
    results = commands.json_of(folder / "run/results.json")
    assert results["frames"] >= 301_000 and results["protocol"]["algorithm"] == "reinforce:make"


@pytest.mark.slow
@pytest.mark.launchpad
def test_processes_train_it(folder):
    """Each process imports it anew, from the folder in which the command was given."""
    arguments = [*OPTIONS, "--agent.algorithm", "reinforce:make", "--runtime", "launchpad"]
    code, _, err = commands.bmg("train", *arguments, "--frames", "4000", cwd=folder)
    assert code == 0, err
    rows = commands.learner_rows(folder / "runs/catch")
    assert rows[-1]["learner/frames"] >= 4_000 and "loss/policy" in rows[-1]
