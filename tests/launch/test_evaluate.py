"""`bmg evaluate` plays with the newest checkpoint that a learner can have written, and no other."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from bmg.actors.rollout import agent_spec
from bmg.agents.factory import make_agent
from bmg.environments.factory import make_spec
from bmg.launch.config import fixed_fields
from bmg.launch.presets import PRESETS
from bmg.learner.guard import guarded
from bmg.learner.progress import Progress
from bmg.learner.update import frames_per_update
from bmg.storage import checkpoint
from bmg.storage.run_directory import config_file, to_dict
from tests.learner import fakes


@pytest.mark.usefixtures("quick_compilation")
def test_the_newest_that_can_be_used_is_evaluated(command, tmp_path):
    config = PRESETS["local"]("catch")
    (tmp_path / "run").mkdir()
    config_file(tmp_path / "run").write_text(json.dumps(to_dict(config)))
    spec = make_spec(config.game, config.atari)
    whole = guarded(make_agent(config.agent, agent_spec(spec)), 1)
    state = jax.tree.map(np.asarray, whole.init(jax.random.PRNGKey(0)))
    folder = tmp_path / "run" / "checkpoints"

    def save(number: int, state, **changes):
        state = state._replace(updates=np.int32(number))
        header = {
            **Progress().header(),
            "updates": number,
            "frames": number * frames_per_update(config.learner, spec.action_repeat),
            "game": "catch",
            "identity": fixed_fields(config),
            **changes,
        }
        return checkpoint.save(folder, number, state, header, keep=9)

    def evaluated() -> tuple[list[str], dict]:
        code, out, err = command("evaluate", "--workdir", "run", "--episodes", "3")
        assert code == 0 and not err
        problems, brace, result = out.partition("{")
        return problems.splitlines(), json.loads(brace + result)

    save(4, state)
    problems, expected = evaluated()
    assert problems == [] and expected["updates"] == 4 and len(expected["returns"]) == 3
    nan = state._replace(agent=jax.tree.map(lambda x: np.full_like(x, np.nan), state.agent))
    lies = [
        save(5, state, frames=7), save(6, nan), save(7, state, updates="\x1b[2J\n" * 999),
        save(8, state, identity={"game": "\x1b]0;pong\x07"}),
    ]  # fmt: skip
    (folder / "checkpoint_0000000009.npz").mkdir()
    problems, result = evaluated()
    assert result == expected
    assert len(problems) == 4 and all(x.isprintable() and len(x) < 500 for x in problems)
    assert all(str(path.name) in problem for path, problem in zip(reversed(lies), problems))

    # A run that cannot be written to has its score as well, and a line about the file.
    (tmp_path / "run/evaluation.json").unlink()
    (tmp_path / "run/evaluation.json").mkdir()
    code, out, err = command("evaluate", "--workdir", "run", "--episodes", "3")
    assert code == 2 and json.loads("{" + out.partition("{")[2]) == expected
    assert len(err.splitlines()) == 1 and "evaluation.json" in err

    for path in folder.glob("*[!9].npz"):
        if path not in lies[:2]:
            path.unlink()
    line = command.refused("evaluate", "--workdir", "run")
    assert lies[1].name in line and "not finite" in line
    fakes.assert_same(checkpoint.load(lies[1], nan).state.agent, nan.agent)
