"""One place that turns a game's name into a vector of environments."""

from __future__ import annotations

from bmg.environments import atari, base, catch, scores

# The one place of Catch's size: the spec is needed where no environment runs.
_CATCH_ROWS, _CATCH_COLUMNS = 10, 5


def make(
    game: str,
    num_envs: int,
    seed: int,
    worker_index: int,
    config: atari.AtariConfig,
    num_threads: int,
    first: int = 0,
) -> base.VectorEnvironment:
    """Starts the environments of one worker.

    Args:
        game: one of `scores.GAMES`, or "catch".
        num_envs: number of environments, N.
        seed: of the whole run.
        worker_index: every actor and every evaluator of a run has its own, else they play alike.
        config: how Atari is played; unused by Catch.
        num_threads: of the emulators; 0 takes one for each core.
        first: number of the first one among the worker's, where it makes them in parts.

    Raises:
        ValueError: for an unknown game, or numbers out of range.
    """
    seeds = base.spaced_seeds(seed, worker_index, first + num_envs)[first:]
    if scores.validate_game(game) == scores.CATCH:
        return catch.Catch(num_envs, seeds, _CATCH_ROWS, _CATCH_COLUMNS)
    return atari.Atari(game, num_envs, seeds, config, num_threads)


def make_spec(game: str, config: atari.AtariConfig) -> base.EnvironmentSpec:
    """The spec of `make(game, ..., config)`, without starting the environments.

    Raises:
        ValueError: for an unknown game.
    """
    if scores.validate_game(game) == scores.CATCH:
        return catch.Catch(1, 0, _CATCH_ROWS, _CATCH_COLUMNS).spec
    return atari.make_spec(game, config)
