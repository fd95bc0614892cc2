"""The comparison on MinAtar: games, settings and methods.

What all methods share is the preset for MinAtar, which was chosen for IMPALA alone and is frozen,
but for where meta-parameters begin.
A method's entry in `METHODS` is its whole difference from IMPALA.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Literal

from bmg.actors.config import EvaluatorConfig
from bmg.agents.config import AgentConfig
from bmg.launch.config import FIXED, TrainConfig
from bmg.launch.presets import PRESETS
from bmg.storage.run_directory import select

Game = Literal["asterix", "breakout", "freeway", "seaquest", "space_invaders"]
GAMES: tuple[Game, ...] = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
RANDOM_RETURNS = {
    "asterix": 0.49, "breakout": 0.39, "freeway": 0.38, "seaquest": 0.10, "space_invaders": 4.09,
}  # fmt: skip
"""Mean return of a policy that draws actions uniformly, over 1.28 million steps of each game."""

_PRESET = PRESETS["local"]("minatar/breakout")
AGENT = dataclasses.replace(
    _PRESET.agent,
    algorithm="impala",
    lpg=AgentConfig().lpg,
    meta=dataclasses.replace(_PRESET.agent.meta, initial_logit=AgentConfig().meta.initial_logit),
    # As on CPUs, also where there is an accelerator.
    network=dataclasses.replace(_PRESET.agent.network, precision="float32"),
)
"""What agents share. IMPALA reads nothing of `meta`, and none anything of `lpg`."""
EVALUATOR = EvaluatorConfig(episodes=32, interval=1e9)  # at the end alone

_MATCHING = {"kl": "kl", "v": "value", "kl-v": "kl_value"}
_MAIN: dict[str, dict[str, Any]] = {
    "impala": {},
    "stacx": {"algorithm": "stacx"},
    **{
        f"bmg-l{steps}-{name}": {
            "algorithm": "bmg",
            "meta": {"target_steps": steps, "matching": matching},
        }
        for steps in (1, 4)
        for name, matching in _MATCHING.items()
    },
}


def _changed(method: str, **meta: Any) -> dict[str, Any]:
    """A method with something else in its meta-learning."""
    own = _MAIN[method]
    return {**own, "meta": {**own.get("meta", {}), **meta}}


_ABLATIONS = {
    "stacx-fixed": _changed("stacx", learning_rate=0.0),
    "stacx-r": _changed("stacx", extra_replay_batches=3),
    "bmg-l4-kl-r": _changed("bmg-l4-kl", final_data="replay"),
    "bmg-l4-kl-w": _changed("bmg-l4-kl", final_objective="learned"),
    "bmg-l1-kl-ns": _changed("bmg-l1-kl", continuation="recomputed"),
    "bmg-l1-kl-db": _changed("bmg-l1-kl", continuation="target"),
    "bmg-l1-kl-sgd": _changed("bmg-l1-kl", target_optimizer="sgd"),
}
"""Figures 13, 14 and 17; and, first, the auxiliary tasks without any meta-learning."""
_LOW = {
    f"{method}-low": {**own, "meta": {**own.get("meta", {}), "initial_logit": 2.0}}
    for method, own in (_MAIN | _ABLATIONS).items()
    if method != "impala"
}
"""Poor initial values: each meta-parameter at 0.88 of its range in place of 0.99."""
METHODS = {**_MAIN, **_ABLATIONS, **_LOW}
"""What is not as in `AGENT`."""
Method = Literal[tuple(METHODS)]
DEFAULT: tuple[Method, ...] = tuple(_MAIN)


def _orders() -> list[tuple[str, str]]:
    ablated = [(name.rpartition("-")[0], name) for name in _ABLATIONS if name != "stacx-fixed"]
    bmg = [method for method in _MAIN if method.startswith("bmg")]
    learned = ["stacx", *bmg]
    within = [
        *((method, "stacx") for method in bmg),
        *((f"bmg-l4-{name}", f"bmg-l1-{name}") for name in _MATCHING),
        *((f"bmg-l{steps}-kl", f"bmg-l{steps}-v") for steps in (1, 4)),
        *((f"bmg-l{steps}-kl-v", f"bmg-l{steps}-kl") for steps in (1, 4)),
        *ablated,
    ]
    low = [f"{method}-low" for method in learned]
    return [
        *within,
        *((method, "impala") for method in (*learned, "stacx-fixed")),
        *((method, "stacx-fixed") for method in learned),
        *((f"{one}-low", f"{other}-low") for one, other in within),
        *((method, "stacx-fixed-low") for method in low),
        *((method, other) for other in ("stacx-fixed", "impala") for method in low),
        *((method, method.removesuffix("-low")) for method in low),
    ]


ORDERS = _orders()
"""Which method is to be above which: the paper's claims; what the auxiliary tasks alone do, and
what is learned beside them; each method over its ablation; the same from poor initial values."""


def agent_of(method: str) -> AgentConfig:
    """The agent of a method."""
    changes = dict(METHODS[method])
    meta = dataclasses.replace(AGENT.meta, **changes.pop("meta", {}))
    return dataclasses.replace(AGENT, meta=meta, **changes)


def impala_of(learning_rate: float, entropy_cost: float, max_norm: float) -> AgentConfig:
    """IMPALA with other settings, for the sweep that they were chosen by."""
    loss = dataclasses.replace(AGENT.loss, entropy_cost=entropy_cost)
    optimizer = dataclasses.replace(AGENT.optimizer, learning_rate=learning_rate, max_norm=max_norm)
    return dataclasses.replace(AGENT, loss=loss, optimizer=optimizer)


def run_of(agent: AgentConfig, game: str, steps: int, seeds: int, first_seed: int) -> TrainConfig:
    """The run of an agent on a game."""
    return TrainConfig(
        game=f"minatar/{game}",
        frames=steps,
        seed=first_seed,
        seeds=seeds,
        runtime="in-graph",
        agent=agent,
        learner=_PRESET.learner,
        replay=_PRESET.replay,
        evaluator=EVALUATOR,
    )


def digest(config: TrainConfig) -> str:
    """Of all that makes a run's result what it is, but its seeds.

    Fields that have the value that they have when left out are not part of it: one that a later
    version adds changes no digest as long as it changes no result.
    """
    names = [name for name in FIXED if name not in ("seed", "seeds", "atari")]
    names += ["frames", "replay.replay_capacity", "evaluator.episodes"]
    left_out = select(TrainConfig(), names)
    values = {k: v for k, v in select(config, names).items() if v != left_out.get(k)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
