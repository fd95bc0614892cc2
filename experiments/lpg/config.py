"""The configuration of meta-training a learned policy gradient."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal, NamedTuple

from bmg.agents.update_rule import RuleConfig
from bmg.environments.worlds import WORLDS, ChainWorld
from bmg.experiments.config import (
    FiguresOptions,
    LifetimesConfig,
    SuiteOptions,
    check_lifetimes,
)
from bmg.storage.fields import (
    Count,
    FieldError,
    Lifetimes,
    Lookahead,
    Positive,
    Seed,
    Share,
    Weight,
    check_fields,
    check_lists,
)


class Architecture(NamedTuple):
    """Of agents that are no tables."""

    channels: tuple[int, ...]  # of convolutions 3x3
    hidden: int  # units of a dense layer


NETWORKS = {
    "random-dense": Architecture((16,), 32),
    "random-long": Architecture((16,), 32),
    "random-small": Architecture((), 32),
    "random-sparse": Architecture((), 32),
    "random-very-dense": Architecture((32, 16, 16), 256),
    "chain-distractor": Architecture((), 16),
}
"""Of the worlds that are not tabular. Table 3."""
# By whether it is a chain, and tabular. Table 3.
_STEPS_OF_LIFETIMES = {
    (False, True): 3_000_000, (False, False): 30_000_000, (True, True): 1_000_000,
    (True, False): 2_000_000,
}  # fmt: skip
_SEVERAL = (
    "discounts", "policy_entropy_weights", "learning_rates", "network_learning_rates",
    "distractor_learning_rates", "prediction_costs",
)  # fmt: skip


def check_worlds(config, may_be_empty: bool = False) -> None:
    """Refuses worlds that there are not, some that are named twice, and none at all.

    Raises:
      FieldError: one line.
    """
    others = [name for name in config.worlds if name not in WORLDS]
    if others:
        raise FieldError("worlds", f"has {', '.join(others)}; allowed are {', '.join(WORLDS)}")
    if config.worlds or not may_be_empty:
        check_lists(config, "worlds")


@dataclasses.dataclass(frozen=True)
class LpgConfig(LifetimesConfig):
    """Meta-learn an update rule from populations of agents in toy worlds."""

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
    lifetimes: Lifetimes = 4
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
    target_steps: Lookahead = 1
    """L: the last of these updates is A2C's, the others are the rule's and go on; BMG."""
    matched: Literal["policy", "prediction", "both"] = "both"
    """In what agents and target are compared, by KL(target || agents) on the agents' rollouts;
    BMG."""
    lifetime_scale: Positive = 1.0
    """Of table 3's lengths: 3 million steps in tabular grids, 30 in random ones, 1 in chains, 2 in
    chain-distractor."""
    collapse_entropy: Weight = 1e-3
    """A lifetime begins anew where its policy's mean entropy is below, nats, and where its numbers
    are not finite. Ours: the paper says 0."""

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
    """Of the values in these advantages, where agents are tables: how far each goes to the mean of
    its targets in a rollout. Ours: the paper does not say."""
    value_network_learning_rate: Positive = 1e-3
    """Of their Adam, where agents are networks. Ours: the paper does not say."""
    meta_learning_rate: Positive = 1e-4
    """Of the rule's Adam. Table 2."""
    meta_clip: Weight = 2.0
    """The meta-gradient's global norm is clipped to so many times its mean so far, above 1; 0 for
    no clip.
    Ours: norms are mostly about 0.005 and at times 10, after which the rule is another one and
    Adam's steps are small for a thousand updates."""
    start: str = ""
    """The file of a rule to begin with, or the name of one that comes with the project; empty for
    one that knows nothing."""

    bandit: bool = True
    """Whether step sizes are drawn by what they brought so far; otherwise the middle ones are taken
    ('LPG fixed hyper')."""
    learning_rates: tuple[Positive, ...] = (20.0, 40.0, 80.0)
    """Alpha_lr of tables: of SGD, on a mean over 64 x 20 steps. Table 3."""
    network_learning_rates: tuple[Positive, ...] = (5e-4, 1e-3, 2e-3, 5e-3)
    """Alpha_lr of networks in random grids: of Adam. Table 3."""
    distractor_learning_rates: tuple[Positive, ...] = (2e-3, 5e-3, 1e-2)
    """Alpha_lr of networks in chain-distractor: of Adam. Table 3."""
    prediction_costs: tuple[Weight, ...] = (0.1, 0.5, 1.0)
    """Alpha_y. Table 3."""
    bandit_temperature: Positive = 0.1
    """Tau. Table 2."""
    bandit_exploration: Weight = 0.2
    """Rho. Table 2."""

    @property
    def label(self) -> str:
        """What is meta-learned how, as figure 7 names it."""
        kind = self.rule.prediction
        parts = [
            ("LPG-V", kind == "value"),
            ("without softmax", kind == "vector"),
            ("without entropy", kind == "distribution" and not self.prediction_entropy_weight),
            ("without L2", not (self.policy_target_weight or self.prediction_target_weight)),
            ("fixed step sizes", not self.bandit),
            ("without the path", not self.connected),
            (f"bootstrapped, K = {self.inner_steps}, L = {self.target_steps}",
             self.objective == "bmg"),
        ]  # fmt: skip
        return ", ".join(name for name, holds in parts if holds) or "LPG"

    @property
    def most_devices(self) -> int:
        """One for each lifetime, at most."""
        return self.seeds * self.lifetimes * len(self.worlds)

    def arms_of(self, world: str) -> tuple[tuple[float, float], ...]:
        """(alpha_lr, alpha_y) of each arm of a world's bandit."""
        rates = self.learning_rates
        if world in NETWORKS:
            in_chain = isinstance(WORLDS[world], ChainWorld)
            rates = self.distractor_learning_rates if in_chain else self.network_learning_rates
        return tuple((rate, cost) for rate in rates for cost in self.prediction_costs)

    def middle_arm_of(self, world: str) -> int:
        """The arm of all lifetimes where there is no bandit."""
        rates, costs = len(self.arms_of(world)) // len(self.prediction_costs), self.prediction_costs
        return rates // 2 * len(costs) + len(costs) // 2

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
        in_chain, tabular = isinstance(WORLDS[world], ChainWorld), WORLDS[world].tabular
        steps = _STEPS_OF_LIFETIMES[in_chain, tabular]
        windows = steps * self.lifetime_scale / (self.steps_per_update * self.updates_per_window)
        return math.floor(windows) * self.updates_per_window

    def __post_init__(self):
        check_fields(self)
        check_lifetimes(self, 1)
        check_worlds(self)
        check_lists(self, *_SEVERAL)
        for world in self.worlds:
            if not self.updates_of_lifetime(world):
                raise FieldError(
                    "lifetime_scale",
                    f"is {self.lifetime_scale:g}, with which a lifetime in {world} is shorter than "
                    f"the {self.updates_per_window} updates of a meta-update; give more",
                )
        if 0 < self.meta_clip <= 1:
            raise FieldError(
                "meta_clip",
                f"is {self.meta_clip:g}, with which norms can only fall; allowed are 0 and numbers "
                "above 1",
            )
        if self.objective == "bmg" and self.rule.prediction != "distribution":
            raise FieldError(
                "objective",
                "is 'bmg', which compares distributions; give --rule.prediction distribution",
            )


@dataclasses.dataclass(frozen=True)
class LpgEvaluateOptions:
    """Let new agents learn by a run's rule, by the rule that it began with, and by A2C."""

    workdir: str = LpgConfig.workdir
    """Run directory."""
    worlds: tuple[str, ...] = ()
    """Where they learn; empty for those of the run."""
    agents: Count = 4
    """For each pair of step sizes in each world; the best pair is told."""
    lifetime_scale: Positive | None = None
    """Of their lives, as in a run; None for that of the run."""
    entropy_weights: tuple[Weight, ...] = (0.0, 0.01, 0.05)
    """Of A2C's policy, with each step size. Ours: the paper does not say."""
    seed: Seed = 1
    """Of worlds and agents."""

    def __post_init__(self):
        check_fields(self)
        check_worlds(self, may_be_empty=True)
        check_lists(self, "entropy_weights")


Method = Literal[
    "lpg", "lpg-v", "no-softmax", "no-entropy", "no-l2", "fixed", "not-connected",
    "bmg-l1", "bmg-l3", "bmg-l5",
]  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "lpg": {},
    "lpg-v": {"prediction": "value"},
    "no-softmax": {"prediction": "vector"},
    "no-entropy": {"prediction_entropy_weight": 0.0},
    "no-l2": {"policy_target_weight": 0.0, "prediction_target_weight": 0.0},
    "fixed": {"bandit": False},
    "not-connected": {"connected": False},
    "bmg-l1": {"objective": "bmg", "inner_steps": 5, "target_steps": 1},
    "bmg-l3": {"objective": "bmg", "inner_steps": 3, "target_steps": 3},
    "bmg-l5": {"objective": "bmg", "inner_steps": 1, "target_steps": 5},
}
"""What is not as in `LpgConfig`; `prediction` is the rule's. As many updates in a meta-update."""


@dataclasses.dataclass(frozen=True)
class LpgSuiteOptions(SuiteOptions):
    """Meta-train the rule and its variants, one after the other; go on where it was stopped."""

    steps: Count = 1_600
    """Meta-updates of each."""
    root: str = "runs/lpg"
    """Folder of the run directories."""
    methods: tuple[Method, ...] = tuple(METHODS)
    """Which of them: the paper's rule, LPG-V, its ablations (figure 7), without the path through
    what the rule sees, bootstrapped with K + L = 6."""
    worlds: tuple[str, ...] = LpgConfig.worlds
    """What agents live in."""
    lifetimes: Lifetimes = LpgConfig.lifetimes
    """Of each world, side by side."""
    lifetime_scale: Positive = 0.1
    """Of table 3's lengths; the paper's are 1."""
    units: Count = 64
    """Of the rule's LSTM; the paper's has 256."""
    meta_learning_rate: Positive = 1e-3
    """Of the rule's Adam; the paper's is 1e-4, with 960 lifetimes."""

    def __post_init__(self):
        super().__post_init__()
        check_worlds(self)
        check_lists(self, "methods")


@dataclasses.dataclass(frozen=True)
class LpgFiguresOptions(FiguresOptions):
    """Draw the paper's figures from such runs: what agents come to by the rules (3), what
    predictions look like (4), the values in them (5), whether they converge (6), meta-training
    (7), what rules are worth in other environments (9)."""

    root: str = "runs/lpg"
    """Folder of the run directories, as `all` leaves it."""
    figures: tuple[Literal["3", "4", "5", "6", "7", "9"], ...] = ("3", "4", "5", "6", "7")
    """Which of them; 3 lets new agents learn in every world, and takes longest."""
    trained: str = ""
    """Of figure 9: folder of runs of `bmg train` by rules, and by other agents beside them."""
    worlds: tuple[str, ...] = ()
    """Of figure 3; empty for those of the runs, and those that are held out."""
    agents: Count = 4
    """Of figure 3, for each pair of step sizes in each world."""
    lifetime_scale: Positive | None = None
    """Of their lives; None for that of the runs."""
    entropy_weights: tuple[Weight, ...] = LpgEvaluateOptions.entropy_weights
    """Of A2C's policy, with each step size."""
    grid: str = "dense"
    """The tabular grids of figures 4 to 6."""
    grids: Count = 20
    """How many of them in figures 5 and 6; on a quarter of them regressions are tried."""
    updates: Count = 200
    """Of policy evaluation in figures 4 to 6."""
    seed: Seed = 1
    """Of worlds and agents."""

    @property
    def of_runs(self) -> bool:
        """Figure 9 shows others."""
        return set(self.figures) != {"9"}

    def __post_init__(self):
        super().__post_init__()
        check_worlds(self, may_be_empty=True)
        allowed = [
            name for name, world in WORLDS.items()
            if world.tabular and not isinstance(world, ChainWorld)
        ]  # fmt: skip
        if self.grid not in allowed:
            raise FieldError("grid", f"is {self.grid!r}; allowed are {', '.join(allowed)}")
        if self.grids < 4:
            raise FieldError("grids", f"is {self.grids}; allowed are integers from 4")
        if "9" in self.figures and not self.trained:
            raise FieldError(
                "trained",
                "is empty; figure 9 needs a folder of runs of `bmg train --agent.algorithm lpg`",
            )
        check_lists(self, "entropy_weights")
