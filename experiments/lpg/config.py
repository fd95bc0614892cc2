"""The configuration of meta-training a learned policy gradient."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal

from bmg.agents.update_rule import RuleConfig
from bmg.environments.worlds import WORLDS, GridWorld
from bmg.experiments.config import LifetimesConfig, check_lifetimes
from bmg.storage.fields import (
    Count,
    FieldError,
    Lookahead,
    Positive,
    Seed,
    Share,
    Weight,
    check_fields,
)

TABULAR = tuple(name for name, world in WORLDS.items() if world.tabular)
_GRID_STEPS, _CHAIN_STEPS = 3_000_000, 1_000_000  # of a lifetime, table 3


def check_tabular(names: tuple[str, ...]) -> None:
    """Refuses worlds that there are not, or whose agents are no tables.

    Raises:
      FieldError: one line.
    """
    others = [name for name in names if name not in TABULAR]
    if others:
        raise FieldError("worlds", f"has {', '.join(others)}; allowed are {', '.join(TABULAR)}")


@dataclasses.dataclass(frozen=True)
class LpgConfig(LifetimesConfig):
    """Meta-learn an update rule from populations of agents in tabular worlds."""

    counted: ClassVar[str] = "meta-updates"

    steps: Count = 1_600
    """Meta-updates; the paper's 10^10 environment steps are 1,628 of 960 lifetimes."""
    record_every: Count = 10
    """Meta-updates that a row of the results averages. Ours."""
    workdir: str = "runs/lpg/rule"
    """Run directory."""

    worlds: tuple[str, ...] = (
        "dense", "sparse", "long", "longer", "long-dense",
        "chain-short", "chain-short-noisy", "chain-long", "chain-long-noisy",
    )  # fmt: skip
    """What agents live in. Appendix A: its nine tabular worlds."""
    lifetimes: Count = 4
    """Of each world, side by side; the paper draws 960 from all of its 15."""
    environments: Count = 64
    """Of each lifetime, side by side. Table 2."""
    rollout_length: Count = 20
    """Steps of a rollout, after which the agent is updated. Table 2."""
    inner_steps: Lookahead = 5
    """K, updates that the meta-gradient goes through. Table 2."""
    objective: Literal["a2c", "bmg"] = "a2c"
    """What the rule descends: A2C's loss of agents after K updates, the paper's; or their distance
    to a bootstrapped target, the agents L updates later. Ours."""
    target_steps: Lookahead = 5
    """L: the last of these updates is A2C's, the others are the rule's and go on; BMG."""
    matched: Literal["policy", "prediction", "both"] = "both"
    """In what agents and target are compared, by KL(target || agents) on the agents' rollouts;
    BMG."""
    lifetime_scale: Positive = 1.0
    """Of table 3's lengths: 3 million steps in grids, 1 million in chains."""
    collapse_entropy: Weight = 1e-3
    """A lifetime begins anew where its policy's mean entropy is below, nats. Ours: the paper says
    0."""

    rule: RuleConfig = RuleConfig()
    connected: bool = True
    """Whether the meta-gradient goes through what the rule sees of the agent. Eq. 3 read as it
    stands; a public re-implementation cuts it."""
    discounts: tuple[Share, ...] = (0.995, 0.99)
    """Gamma: one is drawn for each lifetime. Table 2."""
    policy_entropy_weights: tuple[Weight, ...] = (0.01, 0.02)
    """Beta_0: one is drawn for each lifetime. Table 2."""
    prediction_entropy_weight: Weight = 1e-3
    """Beta_1. Table 2."""
    policy_target_weight: Weight = 1e-3
    """Beta_2, of the squares of pi^. Table 2."""
    prediction_target_weight: Weight = 1e-3
    """Beta_3, of the squares of y^. Table 2."""
    trace_decay: Share = 0.95
    """Lambda of the meta-gradient's advantages. Ours: the paper does not say."""
    value_learning_rate: Share = 0.5
    """Of the values in these advantages: how far each goes to the mean of its targets in a rollout.
    Ours: the paper does not say."""
    meta_learning_rate: Positive = 1e-4
    """Of the rule's Adam. Table 2."""

    bandit: bool = True
    """Whether step sizes are drawn by what they brought so far; otherwise the middle ones are taken
    ('LPG fixed hyper')."""
    learning_rates: tuple[Positive, ...] = (20.0, 40.0, 80.0)
    """Alpha_lr of SGD, on a mean over 64 x 20 steps. Table 3."""
    prediction_costs: tuple[Weight, ...] = (0.1, 0.5, 1.0)
    """Alpha_y. Table 3."""
    bandit_temperature: Positive = 0.1
    """Tau. Table 2."""
    bandit_exploration: Weight = 0.2
    """Rho. Table 2."""

    @property
    def most_devices(self) -> int:
        """One for each lifetime."""
        return self.seeds * self.lifetimes * len(self.worlds)

    @property
    def arms(self) -> tuple[tuple[float, float], ...]:
        """(alpha_lr, alpha_y) of each arm of a bandit."""
        return tuple((rate, cost) for rate in self.learning_rates for cost in self.prediction_costs)

    @property
    def steps_per_update(self) -> int:
        """Environment steps of an agent's update."""
        return self.environments * self.rollout_length

    @property
    def updates_per_window(self) -> int:
        """The agent's updates in a meta-update."""
        further = self.target_steps - 1 if self.objective == "bmg" else 0
        return self.inner_steps + further

    def updates_of_lifetime(self, world: str) -> int:
        """The agent's updates in a lifetime: whole meta-updates."""
        steps = _GRID_STEPS if isinstance(WORLDS[world], GridWorld) else _CHAIN_STEPS
        windows = steps * self.lifetime_scale / (self.steps_per_update * self.updates_per_window)
        return math.floor(windows) * self.updates_per_window

    def __post_init__(self):
        check_fields(self)
        check_lifetimes(self, 1)
        check_tabular(self.worlds)
        if not self.worlds:
            raise FieldError("worlds", f"is empty; allowed are {', '.join(TABULAR)}")
        for world in self.worlds:
            if not self.updates_of_lifetime(world):
                raise FieldError(
                    "lifetime_scale",
                    f"is {self.lifetime_scale:g}, with which a lifetime in {world} is shorter than "
                    f"the {self.updates_per_window} updates of a meta-update; give more",
                )
        if self.objective == "bmg" and self.rule.prediction != "distribution":
            raise FieldError(
                "objective",
                "is 'bmg', which compares distributions; give --rule.prediction distribution",
            )
        for name in ("discounts", "policy_entropy_weights", "learning_rates", "prediction_costs"):
            if not getattr(self, name):
                raise FieldError(name, "is empty; give at least one number")


@dataclasses.dataclass(frozen=True)
class LpgEvaluateOptions:
    """Let new agents learn by a run's rule, by the rule that it began with, and by A2C; or by a
    rule in a file."""

    workdir: str = LpgConfig.workdir
    """Run directory."""
    worlds: tuple[str, ...] = ()
    """Where they learn; empty for those of the run."""
    agents: Count = 4
    """For each pair of step sizes in each world; the best pair is told."""
    lifetime_scale: Positive | None = None
    """Of their lives, as in a run; None for that of the run."""
    seed: Seed = 1
    """Of worlds and agents."""
    save: str = ""
    """File for the rule of the first seed; empty for none."""

    def __post_init__(self):
        check_fields(self)
        check_tabular(self.worlds)
