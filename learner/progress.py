"""How far a run is: counters in a checkpoint's header, and what must be true of a checkpoint."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import numpy as np

from bmg.storage.checkpoint import Checkpoint, CheckpointError, check_finite, shown

_RETURNS_KEPT = 100  # training return: mean over this many last episodes
_MOST_SECONDS = 1e10  # three centuries
_MOST_COUNT = 2**53  # up to there JSON's numbers are exact
_LARGEST = float(np.finfo(np.float32).max)


class Progress:
    """Counters of a run that outlive its processes: a checkpoint's header."""

    def __init__(self, header: dict | None = None):
        """Starts at zero, or where a checkpoint's header says."""
        header = header or {}
        self.updates: int = header.get("updates", 0)
        self.seconds: float = header.get("seconds", 0.0)
        self.episodes: int = header.get("episodes", 0)
        self.returns = collections.deque(header.get("returns", []), maxlen=_RETURNS_KEPT)
        self.evaluation: dict | None = header.get("evaluation")

    def header(self) -> dict:
        """JSON values."""
        return {
            "updates": self.updates,
            "seconds": self.seconds,
            "episodes": self.episodes,
            "returns": list(self.returns),
            "evaluation": self.evaluation,
        }


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_COUNT


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST


def _are_seconds(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= _MOST_SECONDS


def _are_returns(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _RETURNS_KEPT
        and all(_is_number(x) for x in value)
    )


# Of an `agents.messages.Evaluation` and its score.
_EVALUATION: dict[str, Callable[[Any], bool]] = {
    "version": _is_count,
    "frames": _is_count,
    "mean_return": _is_number,
    "std_return": _is_number,
    "episodes": _is_count,
    "final": lambda value: type(value) is bool,
    "human_normalized_score": lambda value: value is None or _is_number(value),
}


def _is_evaluation(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and value.keys() == _EVALUATION.keys()
        and all(valid(value[name]) for name, valid in _EVALUATION.items())
    )


_HEADER: dict[str, Callable[[Any], bool]] = {
    "updates": _is_count,
    "frames": _is_count,
    "seconds": _are_seconds,
    "episodes": _is_count,
    "returns": _are_returns,
    "evaluation": _is_evaluation,
}


def check_checkpoint(found: Checkpoint, frames_per_update: int) -> None:
    """Refuses a learner's checkpoint that no learner can have written.

    Args:
      found: the checkpoint of a `guard.LearnerState`.
      frames_per_update: environment frames of an update, in the run that it is to be used for.

    Raises:
      CheckpointError: its header, its name and its state are not of one run, or the state holds
        numbers that are not finite.
    """
    header, state = found.header, found.state
    for name, valid in _HEADER.items():
        if name not in header or not valid(header[name]):
            value = shown(header[name]) if name in header else "missing"
            raise CheckpointError(
                f"is damaged: {name} in its header is {value}; remove it to use an earlier one."
            )
    updates, frames = header["updates"], header["frames"]
    agree = updates == int(state.updates) == found.number and frames == updates * frames_per_update
    if not agree or header["episodes"] > frames:
        raise CheckpointError(
            f"is damaged: {updates} updates, {frames} frames and {header['episodes']} episodes in "
            f"its header and {int(state.updates)} updates in its state do not belong together, or "
            "not to its name; remove it to use an earlier one."
        )
    if not 0 <= int(state.skipped_in_a_row) <= int(state.skipped) <= updates:
        raise CheckpointError(
            f"is damaged: of {updates} updates {int(state.skipped)} were skipped, "
            f"{int(state.skipped_in_a_row)} in a row; remove it to use an earlier one."
        )
    check_finite(state)
