"""What the configurations of the multi-step experiments share: objectives, and measuring them."""

from __future__ import annotations

import dataclasses
from typing import Literal

from bmg.experiments.config import FiguresOptions, SuiteOptions
from bmg.meta.objectives import mixture_weights
from bmg.storage.fields import (
    Lookahead,
    Points,
    Seed,
    Several,
    Share,
    check_fields,
)

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
class ObjectivesOptions(SuiteConfig, SuiteOptions):
    """Run every objective, one after the other; go on where it was stopped."""

    fixed: bool = True
    """The agent whose hyper-parameters stay as they are as well."""
    first_seed: Seed = 0
    """The first one's seed; the others follow."""

    def __post_init__(self):
        check_fields(self)
        if not (objectives_of(self) or self.fixed):
            raise ValueError(
                "nothing to run; give some of --fixed, --n-step, --mixed, --bmg, --mixed-bmg."
            )


def suite(config: type, options: ObjectivesOptions) -> dict:
    """Run directory -> configuration, of that class, of each objective."""
    objectives = objectives_of(options)
    if options.fixed:
        objectives = [ObjectiveConfig("fixed", 1), *objectives]
    return {
        f"{o.objective}-{o.inner_steps}" if o.objective != "fixed" else "fixed": config(
            objective=o.objective,
            inner_steps=o.inner_steps,
            seeds=options.seeds,
            first_seed=options.first_seed,
            steps=options.steps,
        )
        for o in objectives
    }


@dataclasses.dataclass(frozen=True)
class MeasuredFiguresOptions(FiguresOptions):
    """Redraw the paper's figures and tables from runs, and print what these came to."""

    variance: str = ""
    """Run directory of `variance`; what shows its measurements is left out where it holds nothing.
    """


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
