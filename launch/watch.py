"""`bmg watch`: an animation of an episode, whenever a run has a newer checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib

from bmg.launch import environment, signals
from bmg.launch.config import load_run
from bmg.launch.evaluate import draw
from bmg.launch.options import parse_options
from bmg.storage.fields import Count, Positive, Seed, check_fields


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """Draw an episode of a run's newest checkpoint every few minutes, until the run is complete;
    also of one that goes on in another process. TensorBoard gets pictures of it, and histograms of
    the policy's probabilities and of how far parameters have moved."""

    workdir: str
    """Run directory of `bmg train`."""
    output: str = ""
    """Folder for the animations; empty for `videos` in the run directory."""
    interval: Positive = 120.0
    """Seconds between two looks for a newer checkpoint."""
    steps: Count = 1_000
    """Agent steps after which an episode is cut."""
    seed: Seed = 1
    """Seeds episodes and actions."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg watch`.

    Returns:
      The exit code: 0 when the run is complete, 130 stopped by Ctrl-C.

    Raises:
      ValueError: no run; one line.
    """
    options = parse_options(WatchConfig, "bmg watch", arguments)
    environment.clean()
    workdir = pathlib.Path(options.workdir)
    config = load_run(options.workdir)

    from bmg.environments.factory import make_spec
    from bmg.launch.album import Album
    from bmg.launch.runtimes.assembly import load_newest
    from bmg.storage.checkpoint import CheckpointError
    from bmg.storage.files import is_owned

    spec = make_spec(config.game, config.atari, config.game_options)
    folder = pathlib.Path(options.output or workdir / "videos")
    last, waits, album = -1, False, None
    with signals.orderly() as asked, contextlib.ExitStack() as stack:
        while not asked.is_set():
            running = is_owned(workdir)  # before the look: what it leaves last is seen
            try:
                agent, found, _ = load_newest(config, spec)
            except CheckpointError:
                if not running:
                    raise
                if not waits:
                    print(f"waiting for the first checkpoint in {workdir}", flush=True)
                waits = True
            else:
                frames = found.header["frames"]
                if frames != last:
                    path = folder / f"frames-{frames:012d}.gif"
                    seed, steps = options.seed, options.steps
                    drawn = draw(path, "--output", config, spec, agent, found, seed, steps)
                    print(path, flush=True)
                    last = frames
                    if album is None:
                        album = stack.enter_context(
                            contextlib.closing(Album(workdir / "tensorboard", frames - 1))
                        )
                    album.add(frames, *drawn)
            if not running:
                return 0
            asked.wait(options.interval)
    return signals.EXIT_CODE
