"""Statistics over games and seeds, with stratified bootstrap intervals.

Scores of a method are a matrix [N, G] of N seeds and G games. Seeds are drawn anew for each game
on its own; the games stay what they are.

Reference: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
NeurIPS 2021 (arXiv:2108.13264).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

Scores = Mapping[str, np.ndarray]  # method -> [N, G]
_SEED = 0  # of the bootstrap: the same table gives the same intervals


class Estimate(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def normalise(returns: Scores, random: np.ndarray) -> dict[str, np.ndarray]:
    """Scores that games have in common: 0 is a random policy's mean return, 1 the best mean over
    seeds of any method.

    Args:
      returns: method -> [N, G].
      random: [G] of a random policy.
    """
    best = np.max([scores.mean(0) for scores in returns.values()], axis=0)
    # Where nothing is better than chance, a unit of return is a unit of score.
    scale = np.where(best > random, best - random, 1.0)
    return {name: (scores - random) / scale for name, scores in returns.items()}


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> float:
    """How often a seed of the first method beats one of the second, in the mean over games; a draw
    counts half.

    Args:
      x: [N, G] of the first.
      y: [M, G] of the second.
    """
    more, same = x[:, None] > y[None], x[:, None] == y[None]  # [N, M, G]
    return float(np.mean(more + 0.5 * same))


def aggregates(scores: Scores, resamples: int) -> dict[str, dict[str, Estimate]]:
    """Interquartile mean, median (over games, of means over seeds) and mean of each method."""
    from rliable import metrics

    functions = {
        "IQM": metrics.aggregate_iqm,
        "median": metrics.aggregate_median,
        "mean": metrics.aggregate_mean,
    }
    values, intervals = _estimate(
        dict(scores), lambda x: np.array([f(x) for f in functions.values()]), resamples
    )
    return {
        method: {
            name: Estimate(*map(float, (values[method][i], *intervals[method][:, i])))
            for i, name in enumerate(functions)
        }
        for method in scores
    }


def improvements(
    scores: Scores, pairs: list[tuple[str, str]], resamples: int
) -> dict[tuple[str, str], Estimate]:
    """The probability that the first method of each pair is better than the second."""
    # A list of arrays: seeds of both are drawn independently.
    given = {f"{a},{b}": [scores[a], scores[b]] for a, b in pairs}
    values, intervals = _estimate(
        given, lambda x, y: np.array([probability_of_improvement(x, y)]), resamples
    )
    return {
        (a, b): Estimate(float(values[key][0]), *map(float, intervals[key][:, 0]))
        for key, (a, b) in zip(given, pairs)
    }


def profiles(
    scores: Scores, thresholds: np.ndarray, resamples: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The share of runs with a score above each threshold.

    Returns:
      method -> shares [n], and their intervals [2, n].
    """
    values, intervals = _estimate(
        dict(scores), lambda x: (x[..., None] > thresholds).mean((0, 1)), resamples
    )
    return {method: (values[method], intervals[method]) for method in scores}


def _estimate(given: dict, function: Callable, resamples: int) -> tuple[dict, dict]:
    from rliable import library

    with _own_random_numbers():
        return library.get_interval_estimates(given, function, reps=resamples)


@contextlib.contextmanager
def _own_random_numbers() -> Iterator[None]:
    """rliable draws from numpy's global generator, whatever `random_state` it is given."""
    before = np.random.get_state()
    np.random.seed(_SEED)
    try:
        yield
    finally:
        np.random.set_state(before)
