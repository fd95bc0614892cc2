"""`bmg evaluate`: full episodes with a run's newest checkpoint, in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

from bmg.launch import environment, video
from bmg.launch.config import TrainConfig, load_run
from bmg.launch.options import check_name, parse_options
from bmg.storage.fields import Count, Environments, Seed, check_fields
from bmg.storage.files import reason


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Play episodes with the newest checkpoint of a run and report the score."""

    workdir: str
    """Run directory of `bmg train`."""
    episodes: Environments = 10
    """Full episodes, played side by side."""
    seed: Seed = 1
    """Seeds episodes and actions; other than the run's own, so that episodes are new."""
    video: str = ""
    """Animation of one more episode (.mp4, .gif, .webp or .png), with what the agent thinks."""
    video_steps: Count = 1_000
    """Agent steps after which it ends."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg evaluate`: prints the score as JSON and writes evaluation.json.

    Raises:
      ValueError: no run, no usable checkpoint; one line.
    """
    options = parse_options(EvaluateConfig, "bmg evaluate", arguments)
    if options.video:
        check_name("kind of animation", pathlib.Path(options.video).suffix.lower(), video.KINDS)
    environment.clean()
    config = load_run(options.workdir)

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
    if options.video:
        path, seed, steps = pathlib.Path(options.video), options.seed, options.video_steps
        draw(path, "--video", config, spec, agent, found, seed, steps)
        print(path)
    write_json(config.path / "evaluation.json", result)  # which may be read-only
    return 0


class Drawn(NamedTuple):
    """An episode that was drawn."""

    moments: list[video.Moment]
    title: str
    facts: dict[str, float]  # numbers beside it
    params: Any  # that it was played with


def draw(
    path: pathlib.Path, option: str, config: TrainConfig, spec, agent, found, seed: int,
    most_steps: int,
) -> Drawn:  # fmt: skip
    """An episode of a checkpoint as an animation.

    Args:
      path: of the file.
      option: by which the user gives another one.
      config: of the run.
      spec: of its environment.
      agent: whose policy.
      found: a `storage.checkpoint.Checkpoint`.
      seed: of the episode and its actions.
      most_steps: after which it ends.

    Returns:
      What was drawn.

    Raises:
      ValueError: it cannot be written; one line.
    """
    import jax

    from bmg.environments.factory import action_names, make
    from bmg.environments.screens import make_screen

    game = make(config.game, 1, seed, 1, config.atari, num_threads=1, options=config.game_options)
    params, key = agent.acting_params(found.state.agent), jax.random.PRNGKey(seed)
    screen = make_screen(config.game, seed, 1, config.atari, config.game_options)
    names = action_names(config.game, config.atari)
    moments = list(video.play(game, agent, params, key, most_steps, screen, names))
    game.close()
    if screen:
        screen.close()
        if screen.alike:
            moments = [x._replace(frame=seen) for x, seen in zip(moments, screen.pictures)]
    frames = found.header["frames"]
    title = f"{config.game}, {config.agent.algorithm}, {frames:,} frames"
    # Atari's clock has 60 frames a second; other games have none.
    rate = 60.0 / spec.action_repeat if spec.action_repeat > 1 else 10.0
    drawn = Drawn(moments, title, meta_parameters(config.path, frames), params)
    try:
        video.write(path, moments, title, drawn.facts, rate)
    except OSError as error:
        raise ValueError(
            f"no animation at {path}: {reason(error)}; give another {option}."
        ) from None
    return drawn


def meta_parameters(workdir: pathlib.Path, frames: int) -> dict[str, float]:
    """Those of the main task, in the newest row that is not later than so many frames."""
    from bmg.storage.rows import METRICS, read_rows

    group, latest = "meta_main/", {}
    with contextlib.suppress(OSError):
        for row in read_rows(workdir / METRICS):
            if row["frames"] <= frames:
                latest |= {k: v for k, v in row.items() if k.startswith(group)}
    names = (name for name in latest if not name.endswith("_logit"))
    return {name.removeprefix(group): latest[name] for name in names}
