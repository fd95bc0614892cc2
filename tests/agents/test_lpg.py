"""The agent that a learned rule updates: by hand, and as meta-training updates its own."""

from __future__ import annotations

import dataclasses
import functools
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


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    rule, rng = jax.jit(lambda: init_rule(RULE, KEY))(), np.random.default_rng(0)
    rule = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(x.dtype), rule)
    path = tmp_path_factory.mktemp("rules") / "rule.npz"
    save_rule(path, rule, RULE, {})
    network = NetworkConfig(torso="mlp", features=8, head_hidden=())
    return AgentConfig(
        algorithm="lpg", network=network, loss=LossConfig(discount=0.9),
        lpg=RuleAgentConfig(rule=str(path), learning_rate=0.01, prediction_cost=0.3),
    )  # fmt: skip


@functools.cache
def made(config: AgentConfig):
    """The agent, how it begins, and its update, compiled."""
    agent = make_agent(config, SPEC)
    return agent, jax.jit(agent.init)(KEY), jax.jit(agent.update)


def some_batch(seed: int = 0) -> UpdateBatch:
    rng = np.random.default_rng(seed)
    draw = lambda size: learner.random_trajectories(rng, size, (6, 6, 1))  # noqa: E731
    online = draw(3)
    online.discount[1, 7] = 0
    return UpdateBatch(online, draw(2))


@pytest.mark.parametrize("baseline", [True, False])
def test_an_update_by_hand(config, baseline):
    """Eq. 7 with the network's outputs in numpy, on the fresh data alone."""
    config = dataclasses.replace(config, lpg=dataclasses.replace(config.lpg, baseline=baseline))
    (_, state, update), batch = made(config), some_batch()
    after, metrics = update(state, batch, np.float32(0), KEY)
    heads = make_heads(config.network, SPEC.observation_shape,
                       {"policy": SPEC.num_actions, "prediction": 4, "baseline": 1})  # fmt: skip
    rule = load_rule(pathlib.Path(config.lpg.rule)).rule
    time_first = lambda x: jnp.swapaxes(x, 0, 1)  # noqa: E731

    def of_step(log_pi, log_y, f, action, targets, fixed):
        pi_hat = targets.policy - (fixed if baseline else 0.0)
        log_target = jax.nn.log_softmax(targets.prediction)
        total = -log_pi[action] * pi_hat + 0.3 * jnp.sum(jnp.exp(log_y) * (log_y - log_target))
        return total + (0.5 * (f - targets.policy) ** 2 if baseline else 0.0)

    @jax.jit
    def by_hand(params):
        sequences = prepare(batch.online, False, 1.0)
        action, reward, discount = map(
            time_first, (sequences.action, sequences.reward, sequences.discount)
        )

        def outputs(params):
            names = ("policy", "prediction", "baseline")
            found = heads.apply(params, sequences.observation, names)
            policy, prediction, f = (time_first(found[name]) for name in names)
            return update_rule.Outputs(policy, prediction), f[:-1, :, 0]

        seen, fixed = outputs(params)
        seen = update_rule.see(seen, action, reward, discount, jnp.full(3, 0.9), RULE)
        targets = update_rule.apply_rule(rule, seen, RULE)

        def loss(params):
            found, f = outputs(params)
            log_pi, log_y = (jax.nn.log_softmax(x[:-1]) for x in found)
            return jnp.mean(jax.vmap(jax.vmap(of_step))(log_pi, log_y, f, action, targets, fixed))

        return jax.value_and_grad(loss)(params)

    value, gradient = by_hand(state.params)
    np.testing.assert_allclose(metrics["loss_main/total"], value, rtol=1e-4)
    step = optax.adam(0.01)
    updates, _ = jax.jit(lambda x: step.update(x, step.init(x)))(gradient)
    expected = jax.tree.map(np.add, state.params, updates)
    for name in expected:
        if "baseline" in name and not baseline:
            continue  # its gradient is zero
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), after.params[name],
            expected[name],
        )  # fmt: skip


def test_replayed_data_and_the_next_episode_change_nothing(config):
    (agent, state, update), batch = made(config), some_batch()
    after, _ = update(state, batch, np.float32(0), KEY)
    other, _ = update(state, batch._replace(replay=some_batch(5).replay), np.float32(9), KEY)
    jax.tree.map(np.testing.assert_array_equal, after, other)
    assert not agent.uses_replay


def test_actors_need_the_policy_alone(config):
    agent, state, _ = made(config)
    params = agent.acting_params(state)
    assert {name.split("/")[0] for name in params} == {"torso", "policy"}
    observation = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 4)).astype(np.uint8)
    action, logits = jax.jit(agent.act)(params, observation, jax.random.split(KEY, 5))
    assert action.shape == (5,) and logits.shape == (5, SPEC.num_actions)


def test_the_gradient_is_the_one_of_meta_training():
    """The same outputs, actions and targets: Eq. 2 as `bmg lpg` has it for its tables."""
    rng = np.random.default_rng(3)
    steps, batch = 5, 2
    table = rng.normal(size=(steps * batch, 18 + 4)).astype(np.float32)
    state = np.arange(steps * batch).reshape(steps, batch)
    action = rng.integers(18, size=(steps, batch))
    targets = update_rule.Targets(
        rng.normal(size=(steps, batch)).astype(np.float32),
        rng.normal(size=(steps, batch, 4)).astype(np.float32),
    )
    outputs = update_rule.Outputs(table[state][..., :18], table[state][..., 18:])
    own = jax.jit(jax.grad(update_rule.agent_loss), static_argnums=4)(
        outputs, targets, action, 0.3, RULE
    )
    family = jax.tree.map(lambda x: x[0], worlds.stack_families(["dense"]))
    family = family._replace(grid=family.grid._replace(collects=np.bool_(True)))
    states, zeros = np.concatenate([state, state[:1]]), np.zeros((steps, batch), np.float32)
    rollout = Rollout(states, action, zeros, zeros, zeros)
    meta = LpgConfig(worlds=("dense",), rule=RULE)
    (group,) = make_groups(meta)
    found, _ = jax.jit(make_gradient(group, meta))(
        table, (targets, np.float32(0.3)), (family, rollout)
    )
    joined = np.concatenate([own.logits, own.prediction], axis=-1)
    np.testing.assert_allclose(np.asarray(found)[state], joined, atol=1e-6)


def test_a_rule_is_needed(tmp_path):
    with pytest.raises(FieldError, match="lpg.rule is empty; give a rule's file"):
        AgentConfig(algorithm="lpg", lpg=RuleAgentConfig(rule=""))
    missing = AgentConfig(algorithm="lpg", lpg=RuleAgentConfig(rule=str(tmp_path / "none.npz")))
    with pytest.raises(ValueError, match="there is no rule .*none.npz"):
        make_agent(missing, SPEC)
