"""LPG: an agent that a learned rule updates; the rule itself was meta-trained elsewhere.

    theta  <-  Adam(theta, grad of  mean_t  -log pi(a_t|s_t) (pi^_t - f(s_t))
                                            + alpha_y KL(y(s_t) || y^_t) + 1/2 (f(s_t) - pi^_t)^2)

The rule makes pi^ and y^ of the rollout as the agent's parameters see it now; f is a baseline that
does not depend on the action (Eq. 7). Rollouts are treated as on-policy: of an update's
data it learns from the fresh ones only.

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020, appendix B.2.
"""

from __future__ import annotations

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from bmg.agents.actor_critic import mean_over_devices
from bmg.agents.agent import Agent, Metrics, Spec
from bmg.agents.config import AgentConfig
from bmg.agents.losses import entropy
from bmg.agents.networks import Heads, acting, make_heads
from bmg.agents.rule_file import load_rule, rule_path
from bmg.agents.trajectory import Sequences, UpdateBatch, prepare
from bmg.agents.update_rule import (
    Outputs,
    Rule,
    RuleConfig,
    Targets,
    agent_loss,
    apply_rule,
    prediction_distance,
    see,
)
from bmg.meta.trees import squared_norm

_POLICY, _PREDICTION, _BASELINE = "policy", "prediction", "baseline"


class LpgState(NamedTuple):
    """The agent's own; the rule is a constant."""

    params: hk.Params  # theta
    opt_state: optax.OptState


def make(config: AgentConfig, spec: Spec) -> Agent:
    """An agent with the rule in `config.lpg.rule`.

    Raises:
      ValueError: there is no such rule; one line.
    """
    found = load_rule(rule_path(config.lpg.rule))
    sizes = {_POLICY: spec.num_actions, _PREDICTION: found.config.outputs, _BASELINE: 1}
    heads = make_heads(config.network, spec.observation_shape, sizes)
    optimizer = optax.adam(config.lpg.learning_rate)

    def init(key) -> LpgState:
        params = heads.init(key)
        return LpgState(params, optimizer.init(params))

    def update(state: LpgState, batch: UpdateBatch, frames, key):
        del frames, key  # the update is deterministic
        sequences = prepare(batch.online, False, config.loss.max_abs_reward)
        targets = make_targets(found.rule, found.config, heads, state.params, sequences, config)
        (_, metrics), gradient = jax.value_and_grad(loss, argnums=4, has_aux=True)(
            config, found.config, heads, sequences, state.params, targets
        )
        gradient, metrics = mean_over_devices((gradient, metrics), spec.axis_name)
        updates, opt_state = optimizer.update(gradient, state.opt_state)
        metrics["learner/gradient_norm"] = jnp.sqrt(squared_norm(gradient))
        return LpgState(optax.apply_updates(state.params, updates), opt_state), metrics

    def acting_params(state: LpgState):
        needed = ("torso/", f"{_POLICY}/")
        return {name: x for name, x in state.params.items() if name.startswith(needed)}

    def policy(params, observation):
        return heads.apply(params, observation, (_POLICY,))[_POLICY]

    return Agent(init, update, acting(policy), acting_params)


def outputs_of(heads: Heads, params: hk.Params, sequences: Sequences) -> tuple[Outputs, jax.Array]:
    """Of B sequences, time first: the rule's inputs [T + 1, B] leading, and f [T, B]."""
    found = heads.apply(params, sequences.observation, (_POLICY, _PREDICTION, _BASELINE))
    found = {name: jnp.swapaxes(x, 0, 1) for name, x in found.items()}
    return Outputs(found[_POLICY], found[_PREDICTION]), found[_BASELINE][:-1, :, 0]


def make_targets(
    rule: Rule,
    rule_config: RuleConfig,
    heads: Heads,
    params: hk.Params,
    sequences: Sequences,
    config: AgentConfig,
) -> Targets:
    """Targets of B sequences, from the rule: [T, B] leading."""
    outputs, _ = outputs_of(heads, params, sequences)
    given = (sequences.action, sequences.reward, sequences.discount, sequences.reset)
    action, reward, discount, reset = (jnp.swapaxes(x, 0, 1) for x in given)
    gamma = jnp.full(action.shape[1], config.loss.discount)
    seen = see(outputs, action, reward, discount, gamma, rule_config, reset)
    return apply_rule(rule, seen, rule_config)


def loss(
    config: AgentConfig,
    rule_config: RuleConfig,
    heads: Heads,
    sequences: Sequences,
    params: hk.Params,
    targets: Targets,
) -> tuple[jax.Array, Metrics]:
    """Eq. 7 as a loss, with the rule's targets as constants."""
    outputs, baseline = outputs_of(heads, params, sequences)
    outputs = jax.tree.map(lambda x: x[:-1], outputs)
    action = jnp.swapaxes(sequences.action, 0, 1)
    counts = 1.0 - jnp.swapaxes(sequences.reset, 0, 1)  # reset steps do not
    baseline_loss = jnp.zeros(())
    policy = targets.policy
    if config.lpg.baseline:
        baseline_loss = 0.5 * jnp.mean(counts * jnp.square(baseline - targets.policy))
        policy -= jax.lax.stop_gradient(baseline)
    relative = targets._replace(policy=counts * policy)
    total = baseline_loss + agent_loss(
        outputs, relative, action, config.lpg.prediction_cost * counts, rule_config
    )
    distance = prediction_distance(outputs.prediction, targets.prediction, rule_config)
    metrics = {
        "loss_main/total": total,
        "loss_main/baseline": baseline_loss,
        "loss_main/prediction": jnp.mean(distance),
        "loss_main/policy_entropy": jnp.mean(entropy(outputs.logits)),
        "lpg/policy_target": jnp.mean(targets.policy),
        "lpg/policy_target_size": jnp.sqrt(jnp.mean(jnp.square(targets.policy))),
    }
    return total, metrics
