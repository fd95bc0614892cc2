"""The configurations of the multi-step experiments."""

from __future__ import annotations

import dataclasses
from typing import Literal

from bmg.environments.markov_reward import NUM_STATES
from bmg.experiments.config import LifetimesConfig, check_lifetimes
from bmg.meta.objectives import mixture_weights
from bmg.storage.fields import (
    Count,
    Few,
    FieldError,
    Lifetimes,
    Lookahead,
    OpenShare,
    Points,
    Positive,
    Several,
    Share,
    ShareBelowOne,
    Weight,
    check_fields,
)

SIZE = 12  # cells along an edge of Snake's grid, whose module takes a second to load
Objective = Literal["fixed", "n-step", "mixed", "bmg", "mixed-bmg"]


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What the meta-learner looks at, and how far ahead."""

    objective: Objective = "n-step"
    """fixed: nothing is meta-learned. n-step: the outer loss after n updates, differentiated
    through all of them. mixed: the mean of those after 1 ... n, weighted by kappa. bmg: one update,
    matched to a target n updates ahead. mixed-bmg: matched to the targets 1 ... n ahead, weighted
    likewise. Bonnet et al. Eq. 5 and 10; bootstrapped: ours."""
    inner_steps: Lookahead = 3
    """n, updates looked ahead. Bonnet et al. have 1, 3, 5 and 10."""
    kappa: Share | None = None
    """Of mixtures, in [0, 1]; left out: 1 - 1/n. Bonnet et al. section 3.5."""
    accumulative_trace: Share | None = None
    """Mu in [0, 1], whose powers take the place of the Hessians' products of n-step and mixed; left
    out: exact. Bonnet et al. appendix D.1."""

    @property
    def label(self) -> str:
        """As legends and tables have it."""
        n = self.inner_steps
        label = {
            "fixed": "fixed",
            "n-step": f"n = {n}",
            "mixed": f"{n}-mix",
            "bmg": f"BMG, L = {n}",
            "mixed-bmg": f"BMG, {n}-mix",
        }[self.objective]
        if self.kappa is not None and self.objective in ("mixed", "mixed-bmg"):
            label += f", κ = {self.kappa:g}"
        if self.accumulative_trace is not None:
            label += f", µ = {self.accumulative_trace:g}"
        return label

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the n steps, in a mixture."""
        return mixture_weights(self.inner_steps, self.kappa)

    def __post_init__(self):
        check_fields(self)
        if self.accumulative_trace is not None and self.objective not in ("n-step", "mixed"):
            raise ValueError(
                f"--accumulative-trace with --objective {self.objective}; it is for n-step and "
                "mixed, which differentiate several updates."
            )


@dataclasses.dataclass(frozen=True)
class MrpConfig(LifetimesConfig, ObjectiveConfig):
    """Predict values on the Markov reward process; the discount of each state is meta-learned."""

    steps: Count = 640_000
    """Environment steps of each lifetime, 320 an update: 2,000 updates. Ours."""
    record_every: Count = 320
    """Environment steps that a row of the results averages; at least an update."""
    workdir: str = "runs/mrp/n-step-3"
    """Run directory."""
    batch_size: Count = 32
    """Episodes of an update, and of the outer loss. Bonnet et al. Table 2."""
    hidden: tuple[Count, ...] = (10, 10)
    """Hidden layers of the value network. Table 2."""
    activation: Literal["relu", "tanh"] = "relu"
    """Of its hidden layers. Ours."""
    learning_rate: Positive = 1e-3
    """Of the agent's Adam. Table 2."""
    adam_momentum: ShareBelowOne = 0.9
    """Beta_1 of the agent's Adam, the share of earlier gradients in a step. Optax's; the paper does
    not say. With momentum a bootstrapped target goes on along the noise of the update that it is to
    judge: see docs/multistep.md."""
    adam_epsilon_root: Weight = 1e-8
    """Inside the root of the agent's Adam, whose slope at zero is infinite. Ours."""
    meta_learning_rate: Weight = 2e-3
    """Of the meta-learner's Adam. Table 2."""
    discount: OpenShare = 0.5
    """Every state's, at first. Table 2."""
    target: Literal["power", "product"] = "power"
    """power: gamma_j^(j - i + 1) before r_j, as appendix C.1 has it. product: gamma_i ... gamma_j.
    """
    estimates: Several = 256
    """Independent meta-gradients whose mean an update follows. Section 3.3."""

    def __post_init__(self):
        super().__post_init__()
        check_lifetimes(self, self.batch_size * NUM_STATES)


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
class SuiteConfig:
    """Several objectives."""

    n_step: tuple[Lookahead, ...] = (1, 3, 5, 10)
    """n of each n-step meta-gradient. Bonnet et al. table 1."""
    mixed: tuple[Lookahead, ...] = (3, 5)
    """n of each mixture. Table 1."""
    bmg: tuple[Lookahead, ...] = (3, 5)
    """L of each bootstrapped meta-gradient. Ours."""
    mixed_bmg: tuple[Lookahead, ...] = (3, 5)
    """L of each mixture of those. Ours."""


def objectives_of(suite: SuiteConfig) -> list[ObjectiveConfig]:
    """All of them; an oracle, where there is one and it is none of them, comes last."""
    steps = {
        "n-step": suite.n_step, "mixed": suite.mixed, "bmg": suite.bmg, "mixed-bmg": suite.mixed_bmg
    }  # fmt: skip
    found = [ObjectiveConfig(kind, n) for kind, every in steps.items() for n in every]
    oracle = getattr(suite, "oracle", 0)
    return list(dict.fromkeys([*found, *([ObjectiveConfig("n-step", oracle)] if oracle else [])]))


@dataclasses.dataclass(frozen=True)
class EstimatorsConfig(SuiteConfig):
    """Which meta-gradients are measured along a trajectory that is not theirs, and how well."""

    points: Points = 20
    """Where on the trajectory: in the middle of so many equal parts, or rather after the chunk of
    some 2,000 steps that it lies in. Ours."""
    draws: Several = 2_048
    """Meta-gradients of each kind at every point. Bonnet et al. figure 5."""


def milestones(config: EstimatorsConfig, steps: int) -> list[int]:
    """Environment steps of the points, of a trajectory of so many."""
    return [round(steps * (2 * i + 1) / (2 * config.points)) for i in range(config.points)]


def check_estimators(config: EstimatorsConfig) -> None:
    """Refuses what `EstimatorsConfig` does not allow beside its fields.

    Raises:
      ValueError: one line.
    """
    if not objectives_of(config):
        raise ValueError("nothing to measure; give some of --n-step, --mixed, --bmg, --mixed-bmg.")


@dataclasses.dataclass(frozen=True)
class MrpVarianceConfig(EstimatorsConfig, MrpConfig):
    """Measure meta-gradients along the trajectory of the 1-step one (figure 5). --kappa and
    --accumulative-trace are of what is measured."""

    n_step: tuple[Lookahead, ...] = (1, 2, 3, 5, 10)
    """n of each n-step meta-gradient. Figure 5."""
    mixed: tuple[Lookahead, ...] = (2, 3, 5, 10)
    """n of each mixture. Figure 5."""
    oracle: Few = 40
    """n of the meta-gradient that bias is measured against; 0 for none. Figure 5."""
    seeds: Lifetimes = 5
    """How many trajectories."""
    inner_steps: Lookahead = 1
    """n of the trajectory's own meta-gradient. Figure 5."""
    workdir: str = "runs/mrp-variance"
    """Run directory."""

    def __post_init__(self):
        MrpConfig.__post_init__(self)
        check_estimators(self)


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
