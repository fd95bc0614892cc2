"""Checkpoints of older versions are read by the paths of their arrays: these stay as they are."""

from __future__ import annotations

import re

import jax
import pytest

from bmg.experiments.mrp.config import MrpConfig
from bmg.experiments.mrp.value_prediction import make_lifetime as reward_process
from bmg.experiments.snake.a2c import make_lifetime as snake
from bmg.experiments.snake.config import SnakeConfig
from bmg.experiments.two_colors.config import TwoColorsConfig
from bmg.experiments.two_colors.experiment import make_lifetime as two_colors

WORLD = ".agent.world.agent .agent.world.blue .agent.world.red .agent.world.steps"
CRITIC = (
    f".agent.policy .agent.critic {WORLD} .agent.context "
    ".agent.rollout.observation .agent.rollout.action .agent.rollout.reward "
    ".agent.used.observation .agent.used.action .agent.used.reward .key"
)
Q = (
    ".agent.params .agent.trace .agent.opt_state[0].count .agent.opt_state[0].ema "
    ".agent.opt_state[1][0].count .agent.opt_state[1][0].mu .agent.opt_state[1][0].nu "
    f"{WORLD} .agent.context .agent.observation .agent.action .agent.reward .key"
)
ADAM = ".meta.params .meta.opt_state[0].count .meta.opt_state[0].mu .meta.opt_state[0].nu"
SNAKE = (
    ".agent.params .agent.opt_state[1][0].count .agent.opt_state[1][0].mu "
    ".agent.opt_state[1][0].nu .agent.opt_state[1][1].count "
    + " ".join(
        f".agent.games.game.{name}"
        for name in "action_mask body body_state fruit_position.row fruit_position.col "
        "head_position.row head_position.col key length step_count tail".split()
    )
    + " .agent.games.observation "
    + " ".join(
        f".agent.rollout.{name}"
        for name in "observation action reward discount episode_return".split()
    )
    + " .key"
)
HYPER = "discount trace_decay critic_weight entropy_weight".split()
MRP = (
    ".agent.params .agent.opt_state[0].count .agent.opt_state[0].mu .agent.opt_state[0].nu "
    f"{ADAM} .key"
)
LEARNED_Q = (
    ".meta.params .meta.opt_state[0].count .meta.opt_state[0].ema .meta.opt_state[1][0].count "
    ".meta.opt_state[1][0].mu .meta.opt_state[1][0].nu"
)
LEARNED_SNAKE = (
    " ".join(f".meta.params.{name}" for name in HYPER)
    + " .meta.opt_state[1][0].count "
    + " ".join(f".meta.opt_state[1][0].{m}.{name}" for m in ("mu", "nu") for name in HYPER)
)


@pytest.mark.parametrize(
    ("lifetime", "paths"),
    [
        (lambda: two_colors(TwoColorsConfig(method="fixed")), CRITIC),
        (lambda: two_colors(TwoColorsConfig()), f"{CRITIC} {ADAM}"),
        (lambda: two_colors(TwoColorsConfig(agent="q-lambda", method="fixed")), Q),
        (lambda: two_colors(TwoColorsConfig(agent="q-lambda")), f"{Q} {LEARNED_Q}"),
        (lambda: reward_process(MrpConfig()), MRP),
        (lambda: snake(SnakeConfig()), f"{SNAKE} {LEARNED_SNAKE}"),
    ],
    ids=["fixed", "bmg", "q-fixed", "q-bmg", "mrp", "snake"],
)
def test_where_arrays_lie_in_a_checkpoint(lifetime, paths):
    """Those within a network, which Haiku names, aside."""
    state = jax.eval_shape(lifetime().init, jax.random.PRNGKey(0))
    found = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert {re.sub(r"\['.*'\]", "", path) for path in found} == set(paths.split())
