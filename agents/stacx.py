"""STACX: an actor-critic that tunes all its losses' hyper-parameters by meta-gradients.

Main task and auxiliary tasks share a torso and differ in their heads and in six meta-parameters
each; the agent descends the sum of all tasks' losses, and the meta-parameters descend the outer
(IMPALA) loss of the main task at the updated parameters (BMG appendix C).

References:
  Zahavy et al., "A Self-Tuning Actor-Critic Algorithm", NeurIPS 2020.
  Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, appendix C and Table 2.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bmg.agents.actor_critic import ActorCritic, AgentState, reduction_scale, total_loss
from bmg.agents.config import LossConfig
from bmg.agents.impala import fixed_hyperparameters
from bmg.agents.losses import Hyperparameters, outer_hyperparameters
from bmg.agents.trajectory import Sequences
from bmg.meta.core import Objective
from bmg.meta.matching import kl_divergence
from bmg.meta.objectives import final_value

MetaParameters = Hyperparameters  # the same six names, before their sigmoids: logits [n]


def initial_meta_parameters(num_tasks: int, logit: float) -> MetaParameters:
    """All meta-parameters at one logit; 4.6 gives 0.990 (STACX)."""
    return MetaParameters(*(jnp.full([num_tasks], logit) for _ in MetaParameters._fields))


def hyperparameters(meta_params: MetaParameters, config: LossConfig) -> Hyperparameters:
    """Sigmoid of each logit; costs are scaled by the outer loss's, so they stay within (0, p).

    Args:
      meta_params: logits [n] of each.
      config: the outer loss.

    Returns:
      Hyper-parameters [n] of each.
    """
    share = jax.tree.map(jax.nn.sigmoid, meta_params)
    outer = outer_hyperparameters(config)
    return share._replace(
        policy_cost=share.policy_cost * outer.policy_cost,
        entropy_cost=share.entropy_cost * outer.entropy_cost,
        value_cost=share.value_cost * outer.value_cost,
    )


def outer_loss(own: ActorCritic) -> Callable:
    """f(u; p): the IMPALA loss of the main task, as a function of the parameters.

    Returns:
      (state, sequences) -> (loss [], its terms [1]). Its gradient in the parameters is the
      semi-gradient of `loss_gradient`.
    """
    fixed = fixed_hyperparameters(own.loss)(None)

    def loss(state: AgentState, sequences: Sequences):
        predictions = own.network.apply(state.params, sequences.observation, 1)
        # Targets and ratios are constants of the outer loss, as in any actor-critic loss. This
        # cuts the meta-gradient through the targets alone: it is grad_u f(u; p) du/dw.
        bootstrap = jax.lax.stop_gradient(predictions)
        value, terms = total_loss(predictions, bootstrap, fixed, sequences, own.loss)
        return value * reduction_scale(own.loss, sequences, own.axis_name), terms

    return loss


def stacx_objective(own: ActorCritic, kl_weight: float, previous: AgentState) -> Objective:
    """STACX's meta-objective: the outer loss at the updated parameters.

    Args:
      own: what the agent's steps share.
      kl_weight: weight of KL(updated || previous policy); 1 in the original STACX, 0 in BMG's.
      previous: the agent before its update, which that term refers to.

    Returns:
      An objective over `Sequences`; the agent goes on from its updated parameters.
    """
    loss = outer_loss(own)

    def objective_loss(state: AgentState, sequences: Sequences, key):
        del key
        value, terms = loss(state, sequences)
        if kl_weight:
            observation = sequences.observation
            updated = own.network.exact(state.params, observation, 1).logits
            divergence = kl_divergence(
                updated, own.network.exact(previous.params, observation, 1).logits
            )
            value += kl_weight * divergence * reduction_scale(own.loss, sequences, own.axis_name)
        return value, {"outer_loss": value, "outer_entropy": terms.policy_entropy[0]}

    return final_value(objective_loss)
