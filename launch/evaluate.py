"""`bmg evaluate`: full episodes with a run's newest checkpoint, in this process."""

from __future__ import annotations

import dataclasses
import json

from bmg.launch import environment
from bmg.launch.config import TrainConfig, with_kept_rule
from bmg.launch.options import parse_options
from bmg.storage.fields import Environments, Seed, check_fields
from bmg.storage.run_directory import load_config


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Play episodes with the newest checkpoint of a run and report the score."""

    workdir: str
    """Run directory of `bmg train`."""
    episodes: Environments = 10
    """Full episodes, played side by side."""
    seed: Seed = 1
    """Seeds episodes and actions; other than the run's own, so that episodes are new."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg evaluate`: prints the score as JSON and writes evaluation.json.

    Raises:
      ValueError: no run, no usable checkpoint; one line.
    """
    import pathlib

    options = parse_options(EvaluateConfig, "bmg evaluate", arguments)
    environment.clean()
    config = load_config(pathlib.Path(options.workdir), TrainConfig)
    config = with_kept_rule(dataclasses.replace(config, workdir=options.workdir))

    import jax
    import numpy as np

    from bmg.actors.evaluator import play_episodes
    from bmg.environments.factory import make, make_spec
    from bmg.environments.scores import human_normalized_score
    from bmg.launch.runtimes.assembly import load_newest, protocol
    from bmg.storage.files import write_json

    spec = make_spec(config.game, config.atari, config.game_options)
    agent, found, problems = load_newest(config, spec)
    for problem in problems:
        print(problem)
    games = make(
        config.game, options.episodes, options.seed, 0, config.atari, num_threads=0,
        options=config.game_options,
    )  # fmt: skip
    returns = play_episodes(
        games,
        jax.jit(agent.act),
        agent.acting_params(found.state.agent),
        jax.random.PRNGKey(options.seed),
        should_stop=lambda: False,
    )
    games.close()
    mean_return = float(np.mean(returns))
    result = {
        "game": config.game,
        "frames": found.header["frames"],
        "updates": found.header["updates"],
        "episodes": options.episodes,
        "evaluation_return": mean_return,
        "return_std": float(np.std(returns)),
        "human_normalized_score": human_normalized_score(config.game, mean_return),
        "returns": [float(x) for x in returns],
        "protocol": protocol(config, spec, options.episodes),
    }
    print(json.dumps(result, indent=2), flush=True)
    write_json(config.path / "evaluation.json", result)  # which may be read-only
    return 0
