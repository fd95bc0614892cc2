"""A learned update rule: an LSTM that reads rollouts and gives an agent's targets (LPG).

    x_t         =  r_t, d_t, gamma, pi(a_t|s_t), e(y(s_t)), e(y(s_t+1))
    pi^_t, y^_t =  LSTM(x_T-1 ... x_t)
    the agent descends  mean_t  -log pi(a_t|s_t) pi^_t + alpha_y KL(y(s_t) || y^_t)

Beside its policy the agent has a prediction y(s), a distribution over 30 values without a given
meaning: the rule learns to use it. d_t is 0 where an episode ended, else 1; there the LSTM's state
is reset, and what follows is not seen. e is a small network. The rule has neither observations nor
actions as inputs, so it fits any environment and any network.

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020, section 3 and
appendix B.1. Not stated there: the initial weights, and whether y(s_t+1) counts where an episode
ended (here: not).
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from bmg.agents import backward_lstm
from bmg.agents.losses import leaky_vtrace, of_actions, policy_gradient_loss
from bmg.storage.fields import Count, Share, check_fields

Prediction = Literal["distribution", "vector", "value"]


@dataclasses.dataclass(frozen=True)
class RuleConfig:
    """The architecture of a rule."""

    units: Count = 256
    """Of the LSTM. Appendix B.1."""
    prediction: Prediction = "distribution"
    """What y is: a distribution; a vector, compared by its squared distance (figure 7, without
    softmax); or the value, learned by TD(lambda) and not by the rule (LPG-V)."""
    prediction_size: Count = 30
    """Numbers of y; of a value there is one. Section 4.1."""
    embedding: Count = 16
    """Hidden units of e, which makes a number of y. Appendix B.1."""
    value_trace_decay: Share = 0.95
    """Lambda of LPG-V's value. Ours: the paper does not say."""

    def __post_init__(self):
        check_fields(self)

    @property
    def outputs(self) -> int:
        """Numbers of y."""
        return 1 if self.prediction == "value" else self.prediction_size


class Layer(NamedTuple):
    """A linear layer."""

    w: jax.Array  # float32 [inputs, outputs]
    b: jax.Array  # float32 [outputs]

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.w + self.b


class Embedding(NamedTuple):
    """e, of y."""

    hidden: Layer
    out: Layer


class Rule(NamedTuple):
    """The meta-parameters eta."""

    embedding: Embedding | None  # None: y is a number already
    lstm: backward_lstm.Weights
    policy: Layer
    prediction: Layer | None  # None: the rule does not say


class Seen(NamedTuple):
    """Inputs of the rule, of N sequences."""

    reward: jax.Array  # float32 [T, N]
    discount: jax.Array  # float32 [T, N], 0 where an episode ended, else 1
    gamma: jax.Array  # float32 [N]
    probability: jax.Array  # float32 [T, N], of the action under the policy
    prediction: jax.Array  # float32 [T + 1, N, m], y: of a distribution the probabilities
    # bool [T, N], steps in which nothing was done, as a time limit had cut the episode before: the
    # steps up to there are a rollout that ends in its last state; None for none.
    reset: jax.Array | None = None


class Targets(NamedTuple):
    """Outputs of the rule."""

    policy: jax.Array  # float32 [T, N], pi^
    prediction: jax.Array  # float32 [T, N, m], y^: of a distribution the logits


class Outputs(NamedTuple):
    """Outputs of an agent's network."""

    logits: jax.Array  # float32 [..., A], of the policy
    prediction: jax.Array  # float32 [..., m]: of a distribution the logits


def init_rule(config: RuleConfig, key: jax.Array) -> Rule:
    """An untrained rule: truncated normal weights, 1 / sqrt(inputs), and biases of 0."""

    def layer(key: jax.Array, inputs: int, outputs: int) -> Layer:
        w = jax.nn.initializers.truncated_normal(inputs**-0.5)(key, (inputs, outputs))
        return Layer(w, jnp.zeros(outputs))

    keys = jax.random.split(key, 5)
    embedding = prediction = None
    if config.prediction != "value":
        hidden = layer(keys[0], config.prediction_size, config.embedding)
        embedding = Embedding(hidden, layer(keys[1], config.embedding, 1))
        prediction = layer(keys[2], config.units, config.prediction_size)
    lstm = backward_lstm.init(keys[3], 6, config.units)
    return Rule(embedding, lstm, layer(keys[4], config.units, 1), prediction)


def see(
    outputs: Outputs,
    action: jax.Array,
    reward: jax.Array,
    discount: jax.Array,
    gamma: jax.Array,
    config: RuleConfig,
    reset: jax.Array | None = None,
) -> Seen:
    """The rule's inputs, of an agent; differentiable in `outputs`.

    Args:
      outputs: in all states, [T + 1, N] leading.
      action: int32 [T, N].
      reward: [T, N].
      discount: [T, N], 0 where an episode ended, else 1.
      gamma: [N].
      config: of the rule.
      reset: as of `Seen`.
    """
    probability = of_actions(jax.nn.softmax(outputs.logits[:-1]), action)
    prediction = predicted(outputs.prediction, config)
    return Seen(reward, discount, gamma, probability, prediction, reset)


def predicted(prediction: jax.Array, config: RuleConfig) -> jax.Array:
    """y itself, from a network's output: [..., m]."""
    return jax.nn.softmax(prediction) if config.prediction == "distribution" else prediction


def apply_rule(rule: Rule, seen: Seen, config: RuleConfig) -> Targets:
    """The targets of all steps; differentiable in the rule and in its inputs."""
    y = seen.prediction
    if rule.embedding is not None:
        y = rule.embedding.out(jax.nn.relu(rule.embedding.hidden(y)))
    now, after = y[:-1, :, 0], y[1:, :, 0] * seen.discount
    gamma = jnp.broadcast_to(seen.gamma, seen.reward.shape)
    x = jnp.stack([seen.reward, seen.discount, gamma, seen.probability, now, after], axis=-1)
    keep = seen.discount
    if seen.reset is not None:  # what comes before one begins with an LSTM that has read nothing
        keep = keep.at[:-1].multiply(1.0 - seen.reset[1:])
    h = backward_lstm.backward_lstm(rule.lstm, x, keep)
    policy = rule.policy(h)[..., 0]
    if rule.prediction is None:
        return Targets(policy, lambda_returns(seen, config.value_trace_decay)[..., None])
    return Targets(policy, rule.prediction(h))


def lambda_returns(seen: Seen, trace_decay: float) -> jax.Array:
    """TD(lambda)'s targets of the values: [T, N]; on-policy V-trace's are the same."""
    accept = jnp.ones_like(seen.reward)
    if seen.reset is not None:
        accept -= seen.reset

    def of_one(value, reward, continues, gamma, accept):
        ones = jnp.ones_like(reward)
        return leaky_vtrace(
            v_tm1=value[:-1], v_t=value[1:], r_t=reward, discount_t=gamma * continues,
            ratio_tm1=ones, accept_tm1=accept, lambda_=trace_decay, alpha=jnp.float32(1),
            rho_clip=1.0, c_clip=1.0,
        ).target_tm1  # fmt: skip

    value = seen.prediction[..., 0]
    mapped = jax.vmap(of_one, in_axes=(1, 1, 1, 0, 1), out_axes=1)
    return mapped(value, seen.reward, seen.discount, seen.gamma, accept)


def agent_loss(
    outputs: Outputs,
    targets: Targets,
    action: jax.Array,
    prediction_cost: jax.Array,
    config: RuleConfig,
) -> jax.Array:
    """What the agent descends (Eq. 2): [], a mean over all steps.

    Args:
      outputs: of the parameters that are updated, [T, N] leading.
      targets: constants of this loss.
      action: int32 [T, N].
      prediction_cost: alpha_y, [] or of each step [T, N].
      config: of the rule.
    """
    log_pi = jax.nn.log_softmax(outputs.logits)
    distance = prediction_distance(outputs.prediction, targets.prediction, config)
    policy_loss = policy_gradient_loss(log_pi, action, targets.policy)
    return policy_loss + jnp.mean(prediction_cost * distance)


def prediction_distance(prediction: jax.Array, target: jax.Array, config: RuleConfig) -> jax.Array:
    """How far y is from y^: [..., m] -> [...]. KL(y || y^) in nats, the squared distance of
    vectors, or half of it of values."""
    if config.prediction == "distribution":
        log_y = jax.nn.log_softmax(prediction)
        return jnp.sum(jnp.exp(log_y) * (log_y - jax.nn.log_softmax(target)), axis=-1)
    square = jnp.sum(jnp.square(prediction - target), axis=-1)
    return 0.5 * square if config.prediction == "value" else square
