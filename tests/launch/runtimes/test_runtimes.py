"""Which runtime a run takes, and that the learner learns the same in both."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform

import jax
import numpy as np
import pytest

from bmg.actors.rollout import agent_spec
from bmg.agents.factory import make_agent
from bmg.environments.factory import make, make_spec
from bmg.launch import preflight, supervise, train
from bmg.launch.presets import PRESETS
from bmg.launch.runtimes import assembly
from bmg.launch.runtimes.board import Board
from bmg.launch.runtimes.choice import choose_runtime, why_no_launchpad
from bmg.launch.runtimes.status import Node
from bmg.learner.guard import guarded
from bmg.learner.placement import Devices
from bmg.replay.memory import MemoryReplay
from bmg.storage import checkpoint
from tests.actors.fakes import Newest, make_rollout, never
from tests.learner.fakes import assert_same
from tests.waiting import Call

NUM_UPDATES, LENGTH = 12, 5


@pytest.fixture
def no_launchpad(monkeypatch):
    """As where Launchpad has no wheel."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "launchpad" else find(name)
    )
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")


@pytest.mark.launchpad
def test_the_launchpad_program_is_the_default_where_it_is_installed():
    assert why_no_launchpad() == ""
    assert choose_runtime("auto") == ("launchpad", "")
    assert choose_runtime("local-threads") == ("local-threads", "")


def test_threads_are_chosen_where_launchpad_is_not(no_launchpad):
    runtime, why = choose_runtime("auto")
    assert runtime == "local-threads"
    assert "dm-launchpad" in why and "Darwin arm64" in why and platform.python_version() in why
    assert choose_runtime("local-threads") == ("local-threads", "")


def test_launchpad_is_refused_where_it_is_not(no_launchpad, command):
    line = command.refused("train", "--game", "catch", "--runtime", "launchpad")
    for words in ("dm-launchpad", "Python 3.10 on Linux x86_64", "--runtime local-threads"):
        assert words in line


def test_the_console_says_which_and_why(no_launchpad, command, monkeypatch, capsys):
    started = []

    class Ended:
        failed = []
        board = Board.make(["learner"])

        def __init__(self, runtime, config, spec, resume, notify):
            started.append(runtime)

        def poll(self):
            return "finished"

        def stop(self):
            return True

    monkeypatch.undo()  # the command's own stand-in for launching
    monkeypatch.delenv("XLA_FLAGS")
    for module in (train, preflight, supervise):
        choose = lambda _: ("local-threads", "runtime because")  # noqa: E731
        monkeypatch.setattr(module, "choose_runtime", choose)
    monkeypatch.setattr(supervise, "_start", Ended)
    monkeypatch.chdir(command.folder)
    assert train.main(["--game", "catch"]) == 0
    assert started == ["local-threads"]
    assert "runtime because" in capsys.readouterr().out.splitlines()


def test_a_replay_that_cannot_fit_is_refused_before_anything_starts(command):
    arguments = "train --preset paper --game pong --runtime local-threads".split()
    line = command.refused(*arguments, "--replay.replay-capacity", "100000000")
    assert "replay_capacity 100,000,000 needs" in line
    fits = int(line.split("--replay.replay-capacity ")[1].split()[0])
    config = command.config(*arguments, "--replay.replay-capacity", str(fits // 2))
    assert config.replay.replay_capacity == fits // 2


def config_of(workdir, algorithm: str, replay_batch: int):
    """A short run of Catch on one device."""
    config = PRESETS["local"]("catch")
    meta = dataclasses.replace(config.agent.meta, target_steps=2)
    learner = dataclasses.replace(
        config.learner, unroll_length=LENGTH, online_batch=3, replay_batch=replay_batch,
        log_interval=0.0,
    )  # fmt: skip
    return dataclasses.replace(
        config,
        workdir=str(workdir),
        frames=NUM_UPDATES * 3 * LENGTH,
        seed=5,
        agent=dataclasses.replace(config.agent, algorithm=algorithm, meta=meta),
        learner=learner,
        evaluator=dataclasses.replace(config.evaluator, num_evaluators=0),
    )


def recorded(config, spec, number: int):
    """So many unrolls of a random policy, one after the other."""
    agent = make_agent(config.agent, agent_spec(spec))
    params = agent.acting_params(agent.init(jax.random.PRNGKey(1)))
    environment = make("catch", number, 3, 0, config.atari, 1)
    rollout = make_rollout(
        environment, assembly.acting(config.agent, spec), LENGTH, 2, Newest(params)
    )
    unrolls = rollout.collect(0, lambda: 0.0)
    environment.close()
    return [jax.tree.map(lambda x: x[i], unrolls) for i in range(number)]


def learned(config, spec, unrolls, writer, reader):
    """The state and the metrics after learning from those unrolls."""
    for folder in ("checkpoints", "nodes", "tensorboard"):
        (config.path / folder).mkdir(parents=True)
    devices = Devices(jax.devices()[:1], [])
    node = Node(config, "learner", Board.make(["learner"]))
    learner = assembly.make_learner(config, spec, devices, resume=False, node=node)
    writing = Call(lambda: [writer.append(unroll) for unroll in unrolls])
    assert assembly.learn(learner, config, spec, reader, dict, never) is True
    assert all(writing.result())
    whole = guarded(make_agent(config.agent, agent_spec(spec)), 1)
    template = jax.eval_shape(whole.init, jax.random.PRNGKey(0))
    return checkpoint.load_newest(config.path / "checkpoints", template)[0].state


@pytest.mark.reverb
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(("algorithm", "replay_batch"), [("impala", 0), ("bmg", 4)])
def test_the_same_trajectories_teach_the_same(tmp_path, algorithm, replay_batch):
    """Bit for bit: through replay in memory and through a Reverb server.

    Without replay the unrolls are all different. With it they are all the same, so that each draw
    is what the other runtime drew.
    """
    from bmg.replay.remote import RemoteReplay
    from bmg.replay.server import Server

    configs = [config_of(tmp_path / name, algorithm, replay_batch) for name in "ab"]
    spec = make_spec("catch", configs[0].atari)
    if replay_batch:
        unrolls = recorded(configs[0], spec, 1) * (3 * NUM_UPDATES)
    else:
        unrolls = recorded(configs[0], spec, 3 * NUM_UPDATES)
    signature, sizes = assembly.signature(configs[0], spec), configs[0].replay

    memory = MemoryReplay(signature, sizes, never, seed=0)
    in_memory = learned(configs[0], spec, unrolls, memory, memory)
    memory.close()

    server = Server(signature, sizes)
    address = f"localhost:{server.port}"
    handles = [RemoteReplay(address, signature, sizes, never) for _ in range(2)]
    over_reverb = learned(configs[1], spec, unrolls, *handles)
    for handle in handles:
        handle.close()
    server.stop()

    assert int(in_memory.updates) == NUM_UPDATES
    assert_same(in_memory, over_reverb)
    agent = make_agent(configs[0].agent, agent_spec(spec))
    start = agent.init(jax.random.split(jax.random.PRNGKey(configs[0].seed))[0])
    start, end = (jax.tree.leaves(agent.acting_params(x)) for x in (start, in_memory.agent))
    assert max(np.abs(a - b).max() for a, b in zip(start, end)) > 1e-3, "something was learned"
