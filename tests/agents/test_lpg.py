"""The agent that a learned rule updates: by hand, and as meta-training updates its own."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bmg.agents import update_rule
from bmg.agents.agent import Spec
from bmg.agents.config import AgentConfig, LossConfig, NetworkConfig, RuleAgentConfig
from bmg.agents.factory import make_agent
from bmg.agents.networks import make_heads
from bmg.agents.rule_file import load_rule, save_rule
from bmg.agents.trajectory import UpdateBatch, prepare
from bmg.agents.update_rule import RuleConfig, init_rule
from bmg.benchmarks import learner
from bmg.environments import worlds
from bmg.experiments.lpg.config import LpgConfig
from bmg.experiments.lpg.groups import make_groups
from bmg.experiments.lpg.population import Rollout, make_gradient
from bmg.storage.fields import FieldError

KEY = jax.random.PRNGKey(0)
RULE = RuleConfig(units=5, prediction_size=4, embedding=3)
SPEC = Spec((6, 6, 4), learner.ACTIONS)


@pytest.fixture
def config(tmp_path):
    rule = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(KEY, x.shape), init_rule(RULE, KEY))
    save_rule(tmp_path / "rule.npz", rule, RULE, {})
    network = NetworkConfig(torso="mlp", features=8, head_hidden=())
    return AgentConfig(
        algorithm="lpg", network=network, loss=LossConfig(discount=0.9),
        lpg=RuleAgentConfig(
            rule=str(tmp_path / "rule.npz"), learning_rate=0.01, prediction_cost=0.3
        ),
    )  # fmt: skip


def some_batch(seed: int = 0) -> UpdateBatch:
    rng = np.random.default_rng(seed)
    draw = lambda size: learner.random_trajectories(rng, size, (6, 6, 1))  # noqa: E731
    online = draw(3)
    online.discount[1, 7] = 0
    return UpdateBatch(jax.tree.map(jnp.asarray, online), draw(2))


@pytest.mark.parametrize("baseline", [True, False])
def test_an_update_by_hand(config, baseline):
    """Eq. 7 with the network's outputs in numpy, on the fresh data alone."""
    config = dataclasses.replace(config, lpg=dataclasses.replace(config.lpg, baseline=baseline))
    agent, batch = make_agent(config, SPEC), some_batch()
    state = agent.init(KEY)
    after, metrics = jax.jit(agent.update)(state, batch, jnp.float32(0), KEY)
    heads = make_heads(config.network, SPEC.observation_shape,
                       {"policy": SPEC.num_actions, "prediction": 4, "baseline": 1})  # fmt: skip
    rule = load_rule(pathlib.Path(config.lpg.rule)).rule
    sequences = prepare(batch.online, False, 1.0)
    time_first = lambda x: jnp.swapaxes(x, 0, 1)  # noqa: E731
    action = time_first(sequences.action)

    def by_hand(params, constants):
        found = heads.apply(params, sequences.observation, ("policy", "prediction", "baseline"))
        outputs = update_rule.Outputs(*(time_first(found[x]) for x in ("policy", "prediction")))
        if constants is None:
            seen = update_rule.see(
                outputs, action, time_first(sequences.reward), time_first(sequences.discount),
                jnp.full(3, 0.9), RULE,
            )  # fmt: skip
            return update_rule.apply_rule(rule, seen, RULE), time_first(found["baseline"])[
                :-1, :, 0
            ]
        targets, fixed = constants
        log_pi = jax.nn.log_softmax(outputs.logits)[:-1]
        total = 0.0
        for t in range(action.shape[0]):
            for n in range(3):
                pi_hat = targets.policy[t, n] - (fixed[t, n] if baseline else 0.0)
                total -= log_pi[t, n, action[t, n]] * pi_hat
                log_y = jax.nn.log_softmax(outputs.prediction[t, n])
                log_target = jax.nn.log_softmax(targets.prediction[t, n])
                total += 0.3 * jnp.sum(jnp.exp(log_y) * (log_y - log_target))
                if baseline:
                    f = found["baseline"][n, t, 0]
                    total += 0.5 * (f - targets.policy[t, n]) ** 2
        return total / action.size

    constants = by_hand(state.params, None)
    value, gradient = jax.value_and_grad(by_hand)(state.params, constants)
    np.testing.assert_allclose(metrics["loss_main/total"], value, rtol=1e-4)
    step = optax.adam(0.01)
    updates, _ = step.update(gradient, step.init(state.params))
    expected = optax.apply_updates(state.params, updates)
    for name in expected:
        if "baseline" in name and not baseline:
            continue  # its gradient is zero
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), after.params[name],
            expected[name],
        )  # fmt: skip


def test_replayed_data_and_the_next_episode_change_nothing(config):
    agent, batch = make_agent(config, SPEC), some_batch()
    state = agent.init(KEY)
    update = jax.jit(agent.update)
    after, _ = update(state, batch, jnp.float32(0), KEY)
    other, _ = update(state, batch._replace(replay=some_batch(5).replay), jnp.float32(9), KEY)
    jax.tree.map(np.testing.assert_array_equal, after, other)
    assert not agent.uses_replay


def test_actors_need_the_policy_alone(config):
    agent = make_agent(config, SPEC)
    params = agent.acting_params(agent.init(KEY))
    assert {name.split("/")[0] for name in params} == {"torso", "policy"}
    observation = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 4)).astype(np.uint8)
    action, logits = agent.act(params, observation, jax.random.split(KEY, 5))
    assert action.shape == (5,) and logits.shape == (5, SPEC.num_actions)


def test_the_gradient_is_the_one_of_meta_training():
    """The same outputs, actions and targets: Eq. 2 as `bmg lpg` has it for its tables."""
    rng = np.random.default_rng(3)
    steps, batch = 5, 2
    table = jnp.asarray(rng.normal(size=(steps * batch, 18 + 4)), jnp.float32)
    state = jnp.arange(steps * batch).reshape(steps, batch)
    action = jnp.asarray(rng.integers(18, size=(steps, batch)))
    targets = update_rule.Targets(
        jnp.asarray(rng.normal(size=(steps, batch)), jnp.float32),
        jnp.asarray(rng.normal(size=(steps, batch, 4)), jnp.float32),
    )
    outputs = update_rule.Outputs(table[state][..., :18], table[state][..., 18:])
    own = jax.grad(update_rule.agent_loss)(outputs, targets, action, 0.3, RULE)
    family = jax.tree.map(lambda x: x[0], worlds.stack_families(["dense"]))
    family = family._replace(grid=family.grid._replace(collects=jnp.bool_(True)))
    states = jnp.concatenate([state, state[:1]])
    zeros = jnp.zeros((steps, batch))
    rollout = Rollout(states, action, zeros, zeros, zeros)
    meta = LpgConfig(worlds=("dense",), rule=RULE)
    (group,) = make_groups(meta)
    found, _ = make_gradient(group, meta)(table, (targets, jnp.float32(0.3)), (family, rollout))
    joined = jnp.concatenate([own.logits, own.prediction], axis=-1)
    np.testing.assert_allclose(found[state], joined, atol=1e-6)


def test_a_rule_is_needed(tmp_path):
    with pytest.raises(FieldError, match="lpg.rule is empty; give a rule's file"):
        AgentConfig(algorithm="lpg", lpg=RuleAgentConfig(rule=""))
    missing = AgentConfig(algorithm="lpg", lpg=RuleAgentConfig(rule=str(tmp_path / "none.npz")))
    with pytest.raises(ValueError, match="there is no rule .*none.npz"):
        make_agent(missing, SPEC)
