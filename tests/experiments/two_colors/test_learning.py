"""Both agents learn to collect the good square while their exploration is meta-learned."""

from __future__ import annotations

import jax
import pytest

from bmg.environments import two_colors
from bmg.experiments.runner import Runner
from bmg.experiments.two_colors.config import ActorCriticConfig, QLambdaConfig, TwoColorsConfig
from bmg.experiments.two_colors.experiment import make_lifetime

PAPERS = two_colors.make_params()


@jax.jit
def random_reward(key) -> jax.Array:
    """Reward per step of uniformly random actions."""
    steps = 50_000
    world_key, action_key, draw_key = jax.random.split(key, 3)
    actions = jax.random.randint(action_key, (steps,), 0, two_colors.NUM_ACTIONS)
    draws = two_colors.draw(PAPERS, draw_key, (steps,))

    def act(world, inputs):
        world, transition = two_colors.step(PAPERS, world, *inputs)
        return world, transition.reward

    return jax.lax.scan(act, two_colors.reset(PAPERS, world_key), (actions, draws))[1].mean()


@pytest.mark.heavy
@pytest.mark.parametrize(
    "config, steps, least",
    [
        # A cycle, from an entropy weight with which the agent learns within it; small networks.
        (
            TwoColorsConfig(
                seeds=2,
                actor_critic=ActorCriticConfig(initial_entropy_weight=0.1, hidden=(64,)),
            ),
            100_000,
            0.15,
        ),
        (
            TwoColorsConfig(
                agent="q-lambda",
                seeds=2,
                target_steps=16,
                q_lambda=QLambdaConfig(hidden=(256,), learning_rate=5e-5),
            ),
            40_000,
            0.1,
        ),
    ],
    ids=["actor-critic", "q-lambda"],
)
def test_bmg_s_reward_rises_well_above_chance(config, steps, least):
    runner = Runner(make_lifetime(config), config.seeds, 0, steps // 10)
    runner.run(steps, lambda done: None)
    reward = runner.records.means(steps)[1]["reward"].mean(0)
    chance = float(random_reward(jax.random.PRNGKey(0)))
    assert -0.06 < chance < 0.0
    assert reward[0] < 0.05, "it knew nothing at first"
    assert reward[-2:].mean() > least > chance + 0.1
