"""`bmg benchmark meta-learners`: Adam's shares and steps, on gradients whose answer is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bmg.benchmarks import meta_learners
from bmg.experiments.mrp import value_prediction
from bmg.experiments.mrp.config import MrpConfig
from bmg.experiments.two_colors import experiment as two_colors
from bmg.experiments.two_colors.config import ActorCriticConfig, QLambdaConfig, TwoColorsConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_a_constant_gradient_takes_its_share_of_whole_steps():
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    gradient = {"a": jnp.array([1e-4, -3e-4]), "b": jnp.array([1e-6])}
    adam = optax.adam(1.0, eps=1e-4)
    optimizer = optax.chain(optax.ema(0.0), adam)  # a state beside Adam's
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(gradient, state)
    row = meta_learners.sizes(optax.tree.get(state, "ScaleByAdamState"), 1e-4)
    assert row["meta_parameters"] == 3
    expected = {
        "epsilon": 1e-4, "gradient_median": 1e-4, "gradient_largest": 3e-4,
        "share_median": 0.5, "share_largest": 0.75, "step_median": 0.5, "step_largest": 0.75,
    }  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_allclose(row[name], value, rtol=1e-4)
    sizes = np.sort(np.abs(np.concatenate([updates["a"], updates["b"]])))
    np.testing.assert_allclose(row["step_median"], sizes[1], rtol=1e-5)


CRITIC = ActorCriticConfig(hidden=(8,), meta_hidden=(4,), rollout_length=8)
Q = QLambdaConfig(hidden=(8,), meta_hidden=(4,))
SMALL = {
    "two colours, MG, K = 1": lambda: two_colors.make_lifetime(
        TwoColorsConfig(method="mg", actor_critic=CRITIC)
    ),
    "two colours, BMG, L = 7": lambda: two_colors.make_lifetime(
        TwoColorsConfig(actor_critic=CRITIC, target_steps=2)
    ),
    "two colours, Q(lambda), BMG, L = 16": lambda: two_colors.make_lifetime(
        TwoColorsConfig(agent="q-lambda", target_steps=2, q_lambda=Q)
    ),
    "reward process, n-step, n = 3": lambda: value_prediction.make_lifetime(
        MrpConfig(batch_size=2, estimates=2, hidden=(4,))
    ),
}
RATES = {"two colours": TwoColorsConfig.meta_learning_rate, "reward": MrpConfig.meta_learning_rate}


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL)
def test_the_tables_step_is_the_one_that_was_taken(name, doubles):
    """Such that its epsilon, too, is the meta-learner's own."""
    lifetime = SMALL[name]()
    _, epsilon, *_ = meta_learners._CASES[name]
    before = jax.jit(lifetime.init)(jax.random.PRNGKey(0))
    for _ in range(2):
        after, _ = jax.jit(lifetime.window)(before, None)
        moved = jax.tree.map(lambda a, b: np.abs(a - b), after.meta.params, before.meta.params)
        before = after
    row = meta_learners.sizes(optax.tree.get(after.meta.opt_state, "ScaleByAdamState"), epsilon)
    (rate,) = (rate for kind, rate in RATES.items() if name.startswith(kind))
    largest = max(np.max(x) for x in jax.tree.leaves(moved))
    assert largest > 0
    np.testing.assert_allclose(row["step_largest"] * rate, largest, rtol=1e-4)
