"""What actors, learner and evaluators tell each other, beside trajectories."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

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

    @classmethod
    def of(cls, returns: np.ndarray, version: int, frames: int, final: bool) -> Evaluation | None:
        """Of episodes with these returns [N], as far as they are finite; None where none is."""
        found = np.asarray(returns, np.float64)
        found = found[np.isfinite(found)]
        if not len(found):
            return None
        return cls(version, frames, float(found.mean()), float(found.std()), len(found), final)
