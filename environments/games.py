"""Names of games, and which kind of environment each is; light, without any emulator."""

from __future__ import annotations

import difflib
import json
from typing import Any, Literal

from bmg.environments.scores import CATCH, GAMES
from bmg.storage.modules import is_qualified

Kind = Literal["atari", "catch", "in-graph", "gymnasium", "own"]
_GYMNASIUM = "gymnasium:"
# Environments that are pure functions, and their modules.
IN_GRAPH = {
    CATCH: "in_graph_catch",
    **{
        f"minatar/{name}": f"minatar.{name}"
        for name in ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
    },
    "snake": "snake",
    "grid": "grid_game",
}


def kind_of(game: str) -> Kind:
    """Which kind of environment a game is.

    Raises:
        ValueError: in one line that names the nearest match.
    """
    game = str(game)
    if game == CATCH:
        return "catch"
    if game in GAMES:
        return "atari"
    if game in IN_GRAPH:
        return "in-graph"
    if game.startswith(_GYMNASIUM) and game != _GYMNASIUM:
        return "gymnasium"
    if is_qualified(game):
        return "own"
    # Compare without case and separators, so that "MsPacman" finds ms_pacman.
    plain = {"".join(c for c in name if c.isalnum()): name for name in (*GAMES, *IN_GRAPH)}
    given = "".join(c for c in game.lower() if c.isalnum())
    given = given.removeprefix("ale")  # gymnasium's ALE/Pong-v5
    nearest = difflib.get_close_matches(given, plain, n=1, cutoff=0.5)
    hint = f"did you mean {plain[nearest[0]]!r}?" if nearest else "choose one of those names"
    raise ValueError(
        f"unknown game {game!r}; allowed are {', '.join(IN_GRAPH)}, the {len(GAMES)} "
        f"Atari games ({GAMES[0]}, {GAMES[1]}, ..., {GAMES[-1]}), gymnasium:ID and "
        f"package.module:function; {hint}"
    )


def read_options(options: str) -> dict[str, Any]:
    """Options of a game that were given as JSON.

    Raises:
        ValueError: they are no JSON object; one line.
    """
    if not options:
        return {}
    try:
        found = json.loads(options)
    except ValueError as error:
        raise ValueError(
            f"game_options is {options!r}, which is no JSON ({error}); give an object such as "
            "'{\"size\": 9}'"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"game_options is {options!r}; give an object such as '{{\"size\": 9}}'")
    return found


def folder_name(game: str) -> str:
    """A game's name without characters that folders should not have."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in game)
