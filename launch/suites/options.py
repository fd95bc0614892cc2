"""The options of `bmg suite minatar` and of the commands below it."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Literal

from bmg.launch.suites.minatar import AGENT, DEFAULT, GAMES, Game, Method
from bmg.storage.fields import (
    Count,
    Environments,
    Positive,
    Seed,
    Steps,
    Weight,
    check_fields,
    check_lists,
    check_seeds,
)


def table_of(root: str, results: str) -> pathlib.Path:
    """The table of finished runs of the suite in a folder, or the one that is named."""
    return pathlib.Path(results or pathlib.Path(root) / "results.csv")


@dataclasses.dataclass(frozen=True)
class RunsOptions:
    """How many seeds run for how long, and where they are kept."""

    games: tuple[Game, ...] = GAMES
    """Of MinAtar."""
    seeds: Environments = 6
    """Of each run, side by side: as many on each of two or three cores."""
    first_seed: Seed = 0
    """The first one; the others follow."""
    steps: Steps = 2_000_000
    """Environment steps of each run."""
    root: str = "runs/minatar"
    """Folder of the run directories."""
    results: str = ""
    """Table of finished runs (.csv): what is in it is not run again, and what is finished is added;
    empty for results.csv in the folder."""

    @property
    def table(self) -> pathlib.Path:
        """Of finished runs."""
        return table_of(self.root, self.results)

    def __post_init__(self):
        check_fields(self)
        check_lists(self, "games")
        check_seeds("first_seed", self.first_seed, self.seeds)


@dataclasses.dataclass(frozen=True)
class CompareOptions(RunsOptions):
    """Train IMPALA, STACX and BMG on MinAtar's games, one after the other, with the same settings
    but for the meta-objective; go on where it was stopped."""

    methods: tuple[Method, ...] = DEFAULT
    """Which of them; BMG's names have the length L of its target and what is matched: the policy
    (kl), the value (v), or both."""

    def __post_init__(self):
        super().__post_init__()
        check_lists(self, "methods")


@dataclasses.dataclass(frozen=True)
class TuneOptions(RunsOptions):
    """Train IMPALA alone with each combination of some settings, and print a table of the scores;
    go on where it was stopped."""

    seeds: Environments = 2
    """Of each run, side by side."""
    steps: Steps = 1_000_000
    """Environment steps of each run."""
    root: str = "runs/minatar-tune"
    """Folder of the run directories."""
    learning_rates: tuple[Positive, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """Of RMSProp."""
    entropy_costs: tuple[Weight, ...] = (3e-3, 1e-2, 3e-2, 1e-1)
    """Weights of the entropy, nats."""
    max_norms: tuple[Positive, ...] = (AGENT.optimizer.max_norm,)
    """Clips of the gradient's global norm."""

    def __post_init__(self):
        super().__post_init__()
        check_lists(self, "learning_rates", "entropy_costs", "max_norms")


@dataclasses.dataclass(frozen=True)
class FiguresOptions:
    """Print what a table of finished runs comes to, and draw it."""

    root: str = "runs/minatar"
    """Folder of the suite."""
    results: str = ""
    """Table of finished runs, as `bmg suite minatar` leaves it; empty for results.csv in the
    folder."""
    output: str = ""
    """Folder for the pictures; empty for figures in the folder."""
    games: tuple[Game, ...] = GAMES
    """Which of them."""
    methods: tuple[Method, ...] = DEFAULT
    """Which of them."""
    score: Literal["late", "evaluation"] = "late"
    """late: the mean return of the episodes that ended in the last tenth of training. evaluation:
    of those played at the end."""
    resamples: Count = 2_000
    """Of the bootstrap."""

    @property
    def table(self) -> pathlib.Path:
        """Of finished runs."""
        return table_of(self.root, self.results)

    @property
    def pictures(self) -> pathlib.Path:
        """Their folder."""
        return pathlib.Path(self.output or pathlib.Path(self.root) / "figures")

    def __post_init__(self):
        check_fields(self)
        check_lists(self, "games", "methods")
