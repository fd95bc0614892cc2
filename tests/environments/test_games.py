"""Names of games: which kind each is, and what is refused with the nearest match."""

from __future__ import annotations

import pytest

from bmg.environments import games
from tests.tables import named

MISSPELT = [
    ("pogn", "pong"),
    ("Breakout", "breakout"),
    ("MsPacman", "ms_pacman"),
    ("ALE/SpaceInvaders-v5", "space_invaders"),
    ("montezumas_revenge", "montezuma_revenge"),
    ("katch", "catch"),
]


def test_an_unknown_game_names_the_nearest():
    for given, nearest in MISSPELT:
        with named(given):
            with pytest.raises(ValueError) as error:
                games.kind_of(given)
            message = str(error.value)
            assert "\n" not in message
            assert repr(given) in message and f"did you mean {nearest!r}?" in message


def test_an_unknown_game_without_a_near_name():
    for given in ["", "xxxxqqqq", 12345, "gymnasium:"]:
        with named(given):
            with pytest.raises(ValueError, match="57 Atari games") as error:
                games.kind_of(given)
            assert "did you mean" not in str(error.value)


def test_kinds():
    assert games.kind_of("pong") == "atari" and games.kind_of("catch") == "catch"
    assert games.kind_of("gymnasium:CartPole-v1") == "gymnasium"
    assert games.kind_of("gymnasium:minigrid:Maze-v0") == "gymnasium"
    assert games.kind_of("mine.mazes:make") == "own"


def test_options_are_a_json_object():
    assert games.read_options("") == {}
    assert games.read_options('{"size": [9, 7]}') == {"size": [9, 7]}
    for given in ("{", "[1]", "3", "size=9"):
        with pytest.raises(ValueError, match="game_options is .*give an object") as error:
            games.read_options(given)
        assert "\n" not in str(error.value)


def test_folders_have_no_colons_or_slashes():
    assert games.folder_name("gymnasium:ALE/Pong-v5") == "gymnasium-ALE-Pong-v5"
    assert games.folder_name("ms_pacman") == "ms_pacman"
