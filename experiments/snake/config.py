"""The configurations of A2C on Snake."""

from __future__ import annotations

import dataclasses

from bmg.experiments.config import LifetimesConfig, check_lifetimes
from bmg.experiments.multistep.config import EstimatorsConfig, ObjectiveConfig, check_estimators
from bmg.storage.fields import (
    Count,
    FieldError,
    Lookahead,
    OpenShare,
    Points,
    Positive,
    Several,
    Share,
    ShareBelowOne,
    Weight,
)

SIZE = 12  # cells along an edge of Snake's grid, whose module takes a second to load


@dataclasses.dataclass(frozen=True)
class SnakeConfig(LifetimesConfig, ObjectiveConfig):
    """A2C on Snake; its discount, trace decay, critic and entropy weight are meta-learned."""

    steps: Count = 10_000_000
    """Environment steps of each lifetime, 640 an update; the learning rate falls to 0 over them.
    Ours."""
    record_every: Count = 64_000
    """Environment steps that a row of the results averages; at least an update."""
    workdir: str = "runs/snake/n-step-3"
    """Run directory."""
    environments: Count = 32
    """Games side by side; an update learns from a rollout of each. Bonnet et al. Table 2."""
    rollout_length: Count = 20
    """Steps of a rollout. Ours: jumanji's."""
    channels: tuple[Count, ...] = (32, 32)
    """Of the convolutions, each followed by a 2x2 max-pooling. Appendix C.3."""
    features: Count = 40
    """Of the linear layer after them. Appendix C.3."""
    head_hidden: tuple[Count, ...] = (30,)
    """Hidden layers of policy and critic. Appendix C.3."""
    learning_rate: Positive = 6e-4
    """Of the agent's Adam at first; it falls linearly to 0. Table 2."""
    adam_momentum: ShareBelowOne = 0.9
    """Beta_1 of the agent's Adam, the share of earlier gradients in a step. Optax's; the paper does
    not say. With momentum a bootstrapped target goes on along the noise of the update that it is to
    judge: see docs/multistep.md."""
    adam_epsilon_root: Weight = 1e-8
    """Inside the root of the agent's Adam, whose slope at zero is infinite. Ours."""
    max_gradient_norm: Positive = 10.0
    """The agent's gradient is scaled down to this norm. Table 2."""
    discount: OpenShare = 0.99
    """Gamma, at first. Table 2."""
    trace_decay: OpenShare = 0.99
    """Lambda, at first. Table 2."""
    critic_weight: OpenShare = 0.5
    """Of the critic's loss, at first. Table 2."""
    entropy_weight: OpenShare = 0.01
    """Of the policy's entropy, at first. Table 2."""
    outer_discount: Share = 0.99
    """Gamma of the outer loss. Table 2."""
    outer_trace_decay: Share = 0.99
    """Lambda of the outer loss. Table 2."""
    meta_learning_rate: Weight = 1e-3
    """Of the meta-learner's Adam, on the logits of the four. Table 2."""
    max_meta_gradient_norm: Positive = 0.1
    """The meta-gradient is scaled down to this norm. Table 2."""

    @property
    def steps_per_update(self) -> int:
        """Environment steps of an update."""
        return self.environments * self.rollout_length

    def __post_init__(self):
        super().__post_init__()
        check_lifetimes(self, self.steps_per_update)
        if SIZE % 2 ** len(self.channels):
            raise FieldError(
                "channels",
                f"has {len(self.channels)} layers; allowed are up to 2, as each halves the "
                f"{SIZE}x{SIZE} grid",
            )


@dataclasses.dataclass(frozen=True)
class SnakeVarianceConfig(EstimatorsConfig, SnakeConfig):
    """Measure meta-gradients along the trajectory of the 1-step one (for table 1). --kappa and
    --accumulative-trace are of what is measured."""

    points: Points = 300
    """Where on the trajectory: in the middle of so many equal parts. Table 1."""
    draws: Several = 96
    """Meta-gradients of each kind at every point. Table 1."""
    inner_steps: Lookahead = 1
    """n of the trajectory's own meta-gradient. Ours: the paper measures each along its own."""
    workdir: str = "runs/snake-variance"
    """Run directory."""

    def __post_init__(self):
        SnakeConfig.__post_init__(self)
        check_estimators(self)
