"""The configurations of value prediction on the Markov reward process."""

from __future__ import annotations

import dataclasses
from typing import Literal

from bmg.environments.markov_reward import NUM_STATES
from bmg.experiments.config import LifetimesConfig, check_lifetimes
from bmg.experiments.multistep.config import EstimatorsConfig, ObjectiveConfig, check_estimators
from bmg.storage.fields import (
    Count,
    Few,
    Lifetimes,
    Lookahead,
    OpenShare,
    Positive,
    Several,
    ShareBelowOne,
    Weight,
)


@dataclasses.dataclass(frozen=True)
class MrpConfig(LifetimesConfig, ObjectiveConfig):
    """Predict values on the Markov reward process; the discount of each state is meta-learned."""

    steps: Count = 640_000
    """Environment steps of each lifetime: 2000 updates of 320 steps each. Ours."""
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
