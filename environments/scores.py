"""The 57 Atari games with the scores of random play and of humans.

Source: data/atari57_scores.csv, the table of no-op-start scores of dqn_zoo
(`dqn_zoo/atari_data.py`), as used by the DQN line of papers and Agent57. Other tables differ: the
scores under human starts for many games, the 2015 DQN paper's (49 games) for some.

This module is light: it checks names without touching an emulator.
"""

from __future__ import annotations

import csv
import difflib
from pathlib import Path
from typing import NamedTuple

_CSV = Path(__file__).with_name("data") / "atari57_scores.csv"

CATCH = "catch"


class ReferenceScores(NamedTuple):
    """Episode returns that a score is measured against."""

    random: float  # mean raw return of uniformly random play
    human: float  # mean raw return of a human tester


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


def validate_game(game: str) -> str:
    """The name itself, if it is one of `GAMES` or "catch".

    Raises:
        ValueError: in one line that names the nearest match.
    """
    if game in SCORES:
        return game
    # Compare without case and separators, so that "MsPacman" finds ms_pacman.
    plain = {name.replace("_", ""): name for name in SCORES}
    given = "".join(c for c in str(game).lower() if c.isalnum())
    given = given.removeprefix("ale")  # gymnasium's ALE/Pong-v5
    nearest = difflib.get_close_matches(given, plain, n=1, cutoff=0.5)
    hint = f"did you mean {plain[nearest[0]]!r}?" if nearest else "choose one of those names"
    raise ValueError(
        f"unknown game {game!r}; allowed are {CATCH!r} and the {len(GAMES)} Atari games "
        f"({GAMES[0]}, {GAMES[1]}, ..., {GAMES[-1]}); {hint}"
    )


def human_normalized_score(game: str, score: float) -> float:
    """(score - random) / (human - random): 0 is random play and 1 is human (not per cent).

    Args:
        game: one of `GAMES`, or "catch" (where 1 is optimal play).
        score: raw undiscounted return of an episode, or a mean of such.

    Raises:
        ValueError: for an unknown game.
    """
    random, human = SCORES[validate_game(game)]
    return (score - random) / (human - random)
