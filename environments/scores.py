"""The 57 Atari games with the scores of random play and of humans.

Source: data/atari57_scores.csv, the table of no-op-start scores of dqn_zoo
(`dqn_zoo/atari_data.py`), as used by the DQN line of papers and Agent57. Other tables differ: the
scores under human starts for many games, the 2015 DQN paper's (49 games) for some.

This module is light: it touches no emulator.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

_CSV = Path(__file__).with_name("data") / "atari57_scores.csv"

CATCH = "catch"


class ReferenceScores(NamedTuple):
    """Episode returns that a score is measured against."""

    random: float  # mean raw return of uniformly random play
    human: float  # mean raw return of a human tester

    def normalise(self, score: float) -> float:
        """(score - random) / (human - random): 0 is random play and 1 is human (not per cent)."""
        return (score - self.random) / (self.human - self.random)


def _read() -> dict[str, ReferenceScores]:
    with _CSV.open(newline="") as file:
        return {
            row["game"]: ReferenceScores(float(row["random"]), float(row["human"]))
            for row in csv.DictReader(file)
        }


_ATARI = _read()

# The 57 Atari games by ROM name, in alphabetical order.
GAMES: tuple[str, ...] = tuple(_ATARI)

# Catch has no human tester: "human" is optimal play. The ball's column is uniform over 5 and
# independent of a random player's paddle, so a random catch has probability 1/5 exactly:
# 1/5 - 4/5 = -0.6.
SCORES: dict[str, ReferenceScores] = {**_ATARI, CATCH: ReferenceScores(-0.6, 1.0)}


def human_normalized_score(game: str, score: float) -> float | None:
    """As of `ReferenceScores.normalise`.

    Args:
        game: one of `GAMES`, or "catch" (where 1 is optimal play).
        score: raw undiscounted return of an episode, or a mean of such.

    Returns:
        None for a game whose reference scores are not known.
    """
    return SCORES[game].normalise(score) if game in SCORES else None
