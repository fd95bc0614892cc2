"""Actor-critic losses of one task on one sequence, differentiable in their hyper-parameters.

Semi-gradients are taken by argument: every target, ratio and advantage is computed from
`bootstrap`, a second copy of the predictions; the caller differentiates `predictions` alone. No
gradient is stopped inside, so gamma, lambda and alpha stay in the graph of the meta-gradient.

References:
  Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, Eq. 4 and appendix C.
  Zahavy et al., "A Self-Tuning Actor-Critic Algorithm", NeurIPS 2020 (leaky V-trace).
  Schmitt et al., "Off-Policy Actor-Critic with Shared Experience Replay", ICML 2020 (LASER).
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bmg.agents.config import LossConfig
from bmg.agents.networks import Predictions
from bmg.agents.trajectory import Sequences


class Hyperparameters(NamedTuple):
    """What STACX meta-learns of one task's loss, or of n tasks with a leading axis."""

    discount: jax.Array  # gamma
    lambda_: jax.Array  # decay of the traces
    alpha: jax.Array  # weight of the clipped ratios
    policy_cost: jax.Array  # epsilon_PG
    entropy_cost: jax.Array  # epsilon_EN
    value_cost: jax.Array  # epsilon_TD


def outer_hyperparameters(config: LossConfig) -> Hyperparameters:
    """The fixed hyper-parameters p of the outer loss (BMG Table 2)."""
    return Hyperparameters(*(jnp.float32(getattr(config, n)) for n in Hyperparameters._fields))


class VTrace(NamedTuple):
    """Leaky V-trace of one sequence."""

    target_tm1: jax.Array  # [T] G_{t-1}
    error_tm1: jax.Array  # [T] G_{t-1} - v_{t-1}
    one_step_tm1: jax.Array  # [T] r_t + gamma_t G_t, IMPALA's policy-gradient target
    rho_tm1: jax.Array  # [T] leaky importance ratios, zero where not accepted


def leaky_vtrace(
    v_tm1: jax.Array,
    v_t: jax.Array,
    r_t: jax.Array,
    discount_t: jax.Array,
    ratio_tm1: jax.Array,
    accept_tm1: jax.Array,
    lambda_: jax.Array,
    alpha: jax.Array,
    rho_clip: float,
    c_clip: float,
) -> VTrace:
    """Leaky V-trace targets, BMG appendix C.

        rho = alpha min(eta, rho_clip) + (1 - alpha) eta
        c   = lambda (alpha min(eta, c_clip) + (1 - alpha) eta)
        G_{t-1} - v_{t-1} = rho_{t-1} (r_t + gamma_t v_t - v_{t-1})
                            + gamma_t c_{t-1} (G_t - v_t)

    alpha = 1 is V-trace (IMPALA), and on-policy with lambda = 1 it is the n-step return. States
    that LASER rejects have rho = c = 0: their target is v itself, and traces end there.

    Args:
      v_tm1: [T] values of the states acted in.
      v_t: [T] values of the states that followed, the bootstrap value last.
      r_t: [T] rewards.
      discount_t: [T] discounts gamma_t, zero at an episode's end.
      ratio_tm1: [T] eta, the policy's over the behaviour policy's probability of each action.
      accept_tm1: [T] 1 where the state is used, 0 where LASER rejects it.
      lambda_: [] decay of the traces.
      alpha: [] weight of the clipped ratios.
      rho_clip: rho-bar.
      c_clip: c-bar.

    Returns:
      Targets, errors and ratios.
    """
    chex.assert_rank([v_tm1, v_t, r_t, discount_t, ratio_tm1, accept_tm1], 1)
    chex.assert_equal_shape([v_tm1, v_t, r_t, discount_t, ratio_tm1, accept_tm1])

    def leaky(clip):
        return accept_tm1 * (alpha * jnp.minimum(ratio_tm1, clip) + (1.0 - alpha) * ratio_tm1)

    rho_tm1 = leaky(rho_clip)
    c_tm1 = lambda_ * leaky(c_clip)
    td_tm1 = rho_tm1 * (r_t + discount_t * v_t - v_tm1)

    def backwards(error_t, inputs):
        td, trace = inputs
        error = td + trace * error_t
        return error, error

    _, error_tm1 = jax.lax.scan(
        backwards, jnp.zeros_like(td_tm1[0]), (td_tm1, discount_t * c_tm1), reverse=True
    )
    error_next = jnp.append(error_tm1[1:], 0.0)
    return VTrace(
        target_tm1=v_tm1 + error_tm1,
        error_tm1=error_tm1,
        one_step_tm1=r_t + discount_t * (v_t + error_next),
        rho_tm1=rho_tm1,
    )


def behaviour_relevance(
    logits: jax.Array, behaviour_logits: jax.Array, rho_clip: float
) -> jax.Array:
    """LASER's KL(pi || pi_mu), in nats: how far V-trace's implicit policy is from pi.

    V-trace evaluates pi_mu(a) ~ min(rho_clip mu(a), pi(a)), so with Z the sum of these minima
    KL = log Z + sum_a pi(a) log max(1, pi(a) / (rho_clip mu(a))): zero for mu = pi, large where
    the behaviour hardly ever did what the policy does.

    Args:
      logits: [T, A] of the policy.
      behaviour_logits: [T, A] of the behaviour policy.
      rho_clip: rho-bar.

    Returns:
      [T].
    """
    chex.assert_rank([logits, behaviour_logits], 2)
    log_pi = jax.nn.log_softmax(logits)
    log_mu = jax.nn.log_softmax(behaviour_logits) + jnp.log(rho_clip)
    log_z = jax.nn.logsumexp(jnp.minimum(log_pi, log_mu), axis=-1)
    return log_z + jnp.sum(jnp.exp(log_pi) * jnp.maximum(log_pi - log_mu, 0.0), axis=-1)


def entropy(logits: jax.Array) -> jax.Array:
    """Entropy of categorical distributions [..., A] -> [...], in nats."""
    log_pi = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_pi) * log_pi, axis=-1)


class LossTerms(NamedTuple):
    """Losses of one sequence, means over its T steps, before their costs; and diagnostics."""

    total: jax.Array  # [] weighted sum, what is minimised
    policy: jax.Array  # []
    entropy: jax.Array  # [] minus the clipped entropy
    value: jax.Array  # []
    policy_entropy: jax.Array  # [] nats, unclipped, of all states
    rho: jax.Array  # [] mean leaky importance ratio
    clipped_ratio: jax.Array  # [] share of importance ratios above rho_clip
    accepted: jax.Array  # [] share of states that LASER accepts
    advantage: jax.Array  # [] mean G - v


def of_actions(x: jax.Array, action: jax.Array) -> jax.Array:
    """What belongs to the actions taken, as log pi(a); [..., A], [...] -> [...]. A product, not a
    gather: it is differentiated twice, and gathers of gathers are slow."""
    return jnp.sum(x * jax.nn.one_hot(action, x.shape[-1]), axis=-1)


def policy_gradient_loss(
    log_pi: jax.Array, action: jax.Array, advantage: jax.Array, rho: jax.Array | float = 1.0
) -> jax.Array:
    """-rho log pi(a) (G - v), the mean over all steps (BMG Eq. 4).

    Args:
      log_pi: [..., A], log probabilities of all actions.
      action: int32 [...].
      advantage: [...], a constant.
      rho: [...], importance ratios; 1 on-policy.

    Returns:
      [].
    """
    return -jnp.mean(rho * of_actions(log_pi, action) * advantage)


def actor_critic_loss(
    predictions: Predictions,
    bootstrap: Predictions,
    hyper: Hyperparameters,
    sequence: Sequences,
    config: LossConfig,
) -> LossTerms:
    """The actor-critic loss of one task on one sequence (BMG Eq. 4 under leaky V-trace).

    Args:
      predictions: logits [T + 1, A] and values [T + 1] of the parameters being updated.
      bootstrap: the same predictions again, as the constants inside targets and ratios.
      hyper: this task's hyper-parameters, scalars.
      sequence: one sequence (no batch axis); its observation is not used.
      config: what is fixed in every loss.

    Returns:
      The weighted total and its terms.
    """
    num_steps = sequence.action.shape[0]
    chex.assert_rank([predictions.logits, predictions.value], [2, 1])
    chex.assert_equal_shape_prefix([predictions.logits, predictions.value], 1)
    chex.assert_axis_dimension(predictions.value, 0, num_steps + 1)

    logits, logits_bar = predictions.logits[:-1], bootstrap.logits[:-1]
    log_mu = of_actions(jax.nn.log_softmax(sequence.behaviour_logits), sequence.action)
    log_pi_bar = of_actions(jax.nn.log_softmax(logits_bar), sequence.action)
    ratio = jnp.exp(log_pi_bar - log_mu)
    relevance = behaviour_relevance(logits_bar, sequence.behaviour_logits, config.rho_clip)
    accept = jnp.where(sequence.is_replay, relevance < config.laser_threshold, True)
    # As of what LASER rejects: the value is its own target, and traces end there.
    accept = (accept & ~sequence.reset).astype(logits.dtype)

    v_bar = bootstrap.value
    vtrace = leaky_vtrace(
        v_tm1=v_bar[:-1],
        v_t=v_bar[1:],
        r_t=sequence.reward,
        discount_t=hyper.discount * sequence.discount,
        ratio_tm1=ratio,
        accept_tm1=accept,
        lambda_=hyper.lambda_,
        alpha=hyper.alpha,
        rho_clip=config.rho_clip,
        c_clip=config.c_clip,
    )
    advantage = vtrace.error_tm1
    if config.advantage == "one_step":
        advantage = vtrace.one_step_tm1 - v_bar[:-1]

    log_pi = jax.nn.log_softmax(logits)
    policy_loss = policy_gradient_loss(log_pi, sequence.action, advantage, vtrace.rho_tm1)
    value_loss = jnp.mean(accept * 0.5 * jnp.square(vtrace.target_tm1 - predictions.value[:-1]))
    policy_entropy = entropy(logits)
    limit = config.max_entropy * jnp.log(logits.shape[-1])
    entropy_loss = -jnp.mean(accept * jnp.minimum(policy_entropy, limit))
    total = (
        hyper.policy_cost * policy_loss
        + hyper.entropy_cost * entropy_loss
        + hyper.value_cost * value_loss
    )
    return LossTerms(
        total=total,
        policy=policy_loss,
        entropy=entropy_loss,
        value=value_loss,
        policy_entropy=jnp.mean(policy_entropy),
        rho=jnp.mean(vtrace.rho_tm1),
        clipped_ratio=jnp.mean(ratio > config.rho_clip),
        accepted=jnp.mean(accept),
        advantage=jnp.mean(vtrace.error_tm1),
    )
