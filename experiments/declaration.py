"""What an experiment is to the commands that run it: one declaration, and one module of functions.

    EXPERIMENT = Experiment("two-colors", TwoColorsConfig, "bmg.experiments.two_colors.experiment")

`launch.experiment` does the rest for all experiments: options, run directories, seeds side by side,
checkpoints, resuming, tables, `all`, `variance` and `figures`.
"""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from bmg.experiments.config import FiguresOptions, LifetimesConfig, SuiteOptions
from bmg.experiments.records import Run

if TYPE_CHECKING:
    from bmg.experiments.lifetime import Lifetime, State

# What `draw` tells of: a line, the rows of a table, or a picture that it has written.
Shown = str | list[dict[str, Any]] | pathlib.Path


class Functions(Protocol):
    """What the module of an experiment offers. It is imported only when a command needs it, and
    may import anything."""

    DESCRIPTIONS: Mapping[str, str]
    """May be left out: what TensorBoard's curves are, pattern of their tags -> a sentence."""

    def make_lifetime(self, config: LifetimesConfig) -> Lifetime:
        """The agent and its world."""

    def summarise(
        self, config: LifetimesConfig, steps: np.ndarray, columns: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """JSON values for results.json, of rows that end at `steps` [n]; columns [S, n]."""

    def curves(
        self, steps: np.ndarray, columns: dict[str, np.ndarray]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """May be left out: what TensorBoard draws of that table, tag -> (steps [m], values [S, m]);
        without it, all columns."""

    def keep(self, config: LifetimesConfig) -> None:
        """May be left out: copies what a new run was given from elsewhere into its directory, so
        that the run can be resumed without it.

        Raises:
          OSError: it could not be written.
        """

    def leave(self, config: LifetimesConfig, lifetimes: Sequence[State]) -> None:
        """May be left out: writes into the run directory what was learned, beside the results.

        Raises:
          OSError: it could not be written.
        """

    def suite(self, options: SuiteOptions) -> dict[str, LifetimesConfig]:
        """Where the declaration has a `suite`: a run directory's name -> what runs there."""

    def draw(self, runs: Sequence[Run], options: FiguresOptions) -> Iterable[Shown]:
        """Where the declaration has `figures`: writes them, and yields what to print."""

    def evaluate(
        self, config: LifetimesConfig, options: Any, lifetimes: Sequence[State], data: Any
    ) -> Iterable[Shown]:
        """Where the declaration has an `evaluate`: evaluates what each lifetime has learned, with
        the `Lifetime.data` of the run."""

    def make_estimate(self, config: LifetimesConfig) -> Callable[[Any, Any], Any]:
        """Where the declaration has a `variance`: (state, key) -> one meta-gradient."""


class Experiment(NamedTuple):
    """An experiment's declaration."""

    command: str  # as the user types it after `bmg`
    config: type[LifetimesConfig]  # of a run
    module: str  # "package.module" that offers `Functions`
    suite: SuiteOptions | None = None  # options of `all`, as they are by default
    figures: FiguresOptions | None = None  # likewise of `figures`
    evaluate: Any = None  # likewise of `evaluate`, among them `workdir`
    # Of a run that measures meta-gradients on its way: a `multistep.config.EstimatorsConfig` as
    # well as the experiment's own.
    variance: type[LifetimesConfig] | None = None
    # Whether a run cannot be made longer: something follows a schedule over its steps.
    steps_fixed: bool = False

    @property
    def functions(self) -> Functions:
        """The module, imported now."""
        return importlib.import_module(self.module)
