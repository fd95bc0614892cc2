"""The configuration of a two-colours run."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from bmg.environments import two_colors
from bmg.experiments.config import LifetimesConfig, SuiteOptions, check_lifetimes
from bmg.storage.fields import (
    Count,
    Lifetimes,
    Lookahead,
    OpenShare,
    Positive,
    Share,
    ShareBelowOne,
    Weight,
    check_fields,
    check_lists,
)

_RENAMED_MATCHING = {"kl-1": "kl", "kl-2": "reverse_kl", "symmetric": "symmetric_kl"}


@dataclasses.dataclass(frozen=True)
class ActorCriticConfig:
    """The actor-critic and its entropy weight (BMG App. B.2)."""

    learning_rate: Positive = 0.1
    """Step size of SGD on policy and critic, and of the last target step. Table 1."""
    max_gradient_norm: Weight = 1.0
    """The gradients of policy and critic are each scaled down to this norm; 0 for never. Ours:
    without it lifetimes are lost before 10 million steps; see docs/two_colors.md."""
    rollout_length: Count = 16
    """N, environment steps per update; losses are means over them. Table 1."""
    discount: Share = 0.99
    """Gamma. Table 1."""
    hidden: tuple[Count, ...] = (256, 256)
    """Hidden layers of the policy and of the critic. Table 1."""
    entropy_weight: Weight = 0.1
    """Method fixed: the weight of the policy's entropy, which the paper tunes. Ours."""
    meta_hidden: tuple[Count, ...] = (32,)
    """Hidden layers of the network that gives the entropy weight. Table 1."""
    meta_inputs: Count = 10
    """Most recent rollouts whose mean reward it is shown. App. B.2."""
    initial_entropy_weight: OpenShare = 0.5
    """What it gives at first, about. Ours."""
    meta_regularization: Weight = 0.0
    """Weight of the entropy in the meta-objective or the last target step, epsilon_meta; the paper
    has 0 and 0.1. App. B.2."""
    final_objective: Literal["true", "learned"] = "true"
    """BMG's last target step: on the policy gradient with epsilon_meta, or on the learned entropy
    weight as the others, the ablation of figure 9. App. B.2."""
    last_rollout: Literal["next", "same"] = "next"
    """Data of the last target step and of the matching: the rollout that the agent's next update
    uses, or the one its last update has used. The paper says both. Ours."""
    matching_reduction: Literal["mean", "sum"] = "mean"
    """Of the KL over the states of a rollout. Ours: Table 1 averages losses."""
    FORMER_NAMES: ClassVar[dict[str, str]] = {"kl_reduction": "matching_reduction"}

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class QLambdaConfig:
    """Peng's Q(lambda) and its epsilon-greedy exploration (BMG App. B.3)."""

    learning_rate: Positive = 3e-5
    """Of Adam. Table 1."""
    trace_decay: Share = 0.7
    """Lambda. Table 1."""
    discount: Share = 0.99
    """Gamma. Table 1."""
    gradient_decay: ShareBelowOne = 0.9
    """Moving average of the gradients, before Adam; of agent and meta-learner. Table 1."""
    hidden: tuple[Count, ...] = (256, 256)
    """Hidden layers of the action values. Table 1."""
    epsilon: Share = 0.1
    """Method fixed: share of random actions, which the paper tunes. Ours."""
    meta_hidden: tuple[Count, ...] = (32,)
    """Hidden layers of the network that gives epsilon. Table 1."""
    meta_inputs: Count = 50
    """Most recent rewards it is shown. App. B.3."""
    initial_epsilon: OpenShare = 0.5
    """What it gives at first, about. Ours."""
    epsilon_floor: OpenShare = 1e-3
    """Smallest epsilon that can be learned: the KL has no bound where it is 0. Ours."""

    def __post_init__(self):
        check_fields(self)


_MATCHING = {"actor-critic": ("kl", "reverse_kl", "symmetric_kl"), "q-lambda": ("policy", "value")}
_METHODS = {"actor-critic": ("fixed", "mg", "bmg"), "q-lambda": ("fixed", "bmg")}


@dataclasses.dataclass(frozen=True)
class TwoColorsConfig(LifetimesConfig):
    """Run one method on two colours for a range of seeds, side by side in one program."""

    agent: Literal["actor-critic", "q-lambda"] = "actor-critic"
    """The inner learner."""
    method: Literal["fixed", "mg", "bmg"] = "bmg"
    """Nothing is meta-learned; the ordinary meta-gradient (actor-critic only); bootstrapped."""
    inner_steps: Lookahead = 1
    """K, updates that are backpropagated through. Actor-critic only: Q(lambda) needs none."""
    target_steps: Lookahead = 7
    """L, updates to the bootstrapped target. BMG only."""
    matching: Literal["kl", "reverse_kl", "symmetric_kl", "policy", "value"] | None = None
    """BMG's matching function: kl is KL(target, agent); with q-lambda policy or value. Left out:
    kl, with q-lambda value."""
    meta_learning_rate: Weight = 1e-4
    """Of Adam; the paper's candidates are 3e-6, 1e-5, 3e-5, 1e-4 and 3e-4. Table 1."""
    seeds: Lifetimes = 8
    """How many lifetimes."""
    steps: Count = 200_000
    """Environment steps of each lifetime; the paper has 10 million."""
    flip_every: Count = two_colors.FLIP_EVERY
    """Environment steps between flips of the rewards. App. B.1."""
    respawn: two_colors.Respawn = "collected"
    """What is placed anew after a collection: the collected square, or everything. App. B.1."""
    workdir: str = "runs/two_colors/bmg"
    """Run directory."""
    actor_critic: ActorCriticConfig = ActorCriticConfig()
    q_lambda: QLambdaConfig = QLambdaConfig()

    @property
    def matching_name(self) -> str:
        """The matching function, the agent's default where none was given."""
        return self.matching or ("kl" if self.agent == "actor-critic" else "value")

    def __post_init__(self):
        check_fields(self)
        check_lifetimes(self, self.actor_critic.rollout_length)
        for kind, name, allowed in (
            ("--method", self.method, _METHODS[self.agent]),
            ("--matching", self.matching_name, _MATCHING[self.agent]),
        ):
            if name not in allowed:
                raise ValueError(
                    f"{kind} is {name} with --agent {self.agent}; allowed are {', '.join(allowed)}."
                )

    @staticmethod
    def from_older(values: dict) -> dict:
        """What a configuration of an older version says, in today's words."""
        name = values.get("matching")
        known = isinstance(name, str) and name in _RENAMED_MATCHING
        return {**values, "matching": _RENAMED_MATCHING[name]} if known else values


@dataclasses.dataclass(frozen=True)
class MethodsOptions(SuiteOptions):
    """Run every method of the paper's figures, one after the other; go on where it was stopped."""

    steps: Count = 1_000_000
    """Environment steps of each lifetime of the actor-critic; the paper has 10 million."""
    q_lambda_steps: Count = 500_000
    """The same for Q(lambda), which learns at every step and is slower."""
    meta_learning_rates: tuple[Weight, ...] = (1e-4,)
    """Every meta-learned method runs once with each; the figures show the best. The paper's
    candidates are 3e-6, 1e-5, 3e-5, 1e-4 and 3e-4."""
    only: tuple[str, ...] = ("*",)
    """Only the methods of these names, or of patterns such as 'mg-*'."""

    def __post_init__(self):
        super().__post_init__()
        check_lists(self, "meta_learning_rates", "only")
