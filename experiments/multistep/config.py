"""The configurations of the multi-step experiments."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Literal

from meta.objectives import mixture_weights

Objective = Literal["fixed", "n-step", "mixed", "bmg", "mixed-bmg"]


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What the meta-learner looks at, and how far ahead."""

    objective: Objective = "n-step"
    """fixed: nothing is meta-learned. n-step: the outer loss after n updates, differentiated
    through all of them. mixed: the mean of those after 1 ... n, weighted by kappa. bmg: one update,
    matched to a target n updates ahead. mixed-bmg: matched to the targets 1 ... n ahead, weighted
    likewise. Bonnet et al. Eq. 5 and 10; bootstrapped: ours."""
    inner_steps: int = 3
    """n, updates looked ahead. Bonnet et al. have 1, 3, 5 and 10."""
    kappa: float | None = None
    """Of mixtures, in [0, 1]; left out: 1 - 1/n. Bonnet et al. section 3.5."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the n steps, in a mixture."""
        return mixture_weights(self.inner_steps, self.kappa)

    def __post_init__(self):
        if self.inner_steps < 1:
            raise ValueError(
                f"--inner-steps is {self.inner_steps}; allowed are integers from 1 "
                "(--objective fixed meta-learns nothing)."
            )
        if self.kappa is not None and not 0 <= self.kappa <= 1:
            raise ValueError(f"--kappa is {self.kappa}; allowed are numbers from 0 to 1.")


@dataclasses.dataclass(frozen=True)
class LifetimesConfig:
    """How many lifetimes run for how long, and where they are kept."""

    seeds: int = 1
    """How many lifetimes, side by side."""
    first_seed: int = 0
    """The first one's seed; the others follow."""
    steps: int = 1_000_000
    """Environment steps of each lifetime."""
    checkpoint_interval: float = 60.0
    """Seconds between checkpoints; one is left at the end and at Ctrl-C as well."""
    workdir: str = ""
    """Run directory."""
    resume: bool = False
    """Go on from the run directory's checkpoint."""

    @property
    def path(self) -> pathlib.Path:
        """The run directory."""
        return pathlib.Path(self.workdir)


@dataclasses.dataclass(frozen=True)
class MrpConfig(LifetimesConfig, ObjectiveConfig):
    """Predict values on the Markov reward process; the discount of each state is meta-learned."""

    steps: int = 640_000
    """Environment steps of each lifetime, 320 an update: 2,000 updates. Ours."""
    record_every: int = 320
    """Environment steps that a row of the results averages; at least an update."""
    workdir: str = "runs/mrp/n-step-3"
    """Run directory."""
    batch_size: int = 32
    """Episodes of an update, and of the outer loss. Bonnet et al. Table 2."""
    hidden: tuple[int, ...] = (10, 10)
    """Hidden layers of the value network. Table 2."""
    activation: Literal["relu", "tanh"] = "relu"
    """Of its hidden layers. Ours."""
    learning_rate: float = 1e-3
    """Of the agent's Adam. Table 2."""
    adam_epsilon_root: float = 1e-8
    """Inside the root of the agent's Adam, whose slope at zero is infinite. Ours."""
    meta_learning_rate: float = 2e-3
    """Of the meta-learner's Adam. Table 2."""
    discount: float = 0.5
    """Every state's, at first. Table 2."""
    target: Literal["power", "product"] = "power"
    """power: gamma_j^(j - i + 1) before r_j, as appendix C.1 has it. product: gamma_i ... gamma_j.
    """
    estimates: int = 256
    """Independent meta-gradients whose mean an update follows. Section 3.3."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.discount < 1:
            raise ValueError(
                f"--discount is {self.discount}; allowed are numbers between 0 and 1, without them."
            )
        if self.estimates < 2:
            raise ValueError(f"--estimates is {self.estimates}; allowed are integers from 2.")
