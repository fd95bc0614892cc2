"""MinAtar, in the compiled program: five Atari games in small, on 10x10 cells.

Each module of this folder is an environment that keeps the protocol of `in_graph`; `GAMES` has them
by name. The rules are those of Young and Tian's implementation, version 1.0.15; tests compare
every step with it. Settings are in `Params`: sticky actions (0.1) and whether the difficulty rises.

| game | planes | actions |
| --- | --- | --- |
| `asterix` | 4 | none, left, up, right, down |
| `breakout` | 4 | none, left, right |
| `freeway` | 7 | none, up, down |
| `seaquest` | 10 | none, left, up, right, down, fire |
| `space_invaders` | 6 | none, left, right, fire |

Observe before a step, as `in_graph` shows it, and not after it in the same turn of a loop: there
XLA may compute the step anew for each cell of the observation, and is several times slower on CPUs.

These are the minimal action sets. MinAtar's own are six actions in every game, of which those that
are missing here do nothing; published results differ in which set they use.

Reference: Young and Tian, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible
Reinforcement Learning Experiments", 2019, https://arxiv.org/abs/1903.03176.
"""

from bmg.environments.in_graph import GameTransition
from bmg.environments.minatar import asterix, breakout, freeway, seaquest, space_invaders
from bmg.environments.minatar.common import Params, make_params

GAMES = {
    "asterix": asterix,
    "breakout": breakout,
    "freeway": freeway,
    "seaquest": seaquest,
    "space_invaders": space_invaders,
}

__all__ = ["GAMES", "Params", "GameTransition", "make_params"]
