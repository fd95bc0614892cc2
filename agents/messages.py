"""What actors, learner and evaluators tell each other, beside trajectories."""

from __future__ import annotations

from typing import Any, NamedTuple

PyTree = Any


class VersionedParameters(NamedTuple):
    """Published parameters and where they come from."""

    params: PyTree  # the main task's
    version: int  # learner updates behind them
    frames: int  # environment frames learned from
    final: bool  # nothing newer will come


class Evaluation(NamedTuple):
    """One evaluation and what it belongs to."""

    version: int  # learner updates behind the parameters
    frames: int  # environment frames learned from by then
    mean_return: float  # raw, undiscounted, over episodes
    std_return: float
    episodes: int
    final: bool  # of the run's last parameters
