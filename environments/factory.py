"""One place that turns a game's name into a vector of environments.

    pong, ms_pacman, ...             the 57 Atari games
    catch
    minatar/breakout, snake, grid    environments that are pure functions (`in_graph`)
    gymnasium:CartPole-v1            whatever is registered with Gymnasium
    package.module:function          what your function returns: an environment of Gymnasium or
                                     dm_env, or a vector (`base.VectorEnvironment`) where it takes
                                     `num_envs`, or pure functions (`in_graph.World`)

A function takes the game's options by name, and `seed` and `num_envs` where it has such arguments:

    def make_maze(size=9): ...                       one environment, seeded by its `reset`
    def make_maze(seed, size=9): ...                 one environment with a seed of its own
    def make_mazes(num_envs, seeds, size=9): ...     a vector; seeds: int32 [num_envs]
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bmg.environments import atari, base, catch, checked, games, separate
from bmg.storage.fields import shown
from bmg.storage.modules import failing_as, load_function

if TYPE_CHECKING:
    from bmg.environments import in_graph

_TRIED_STEPS = 10  # of a user's environment, before anything starts


def make(
    game: str,
    num_envs: int,
    seed: int,
    worker_index: int,
    config: atari.AtariConfig,
    num_threads: int,
    first: int = 0,
    options: str = "",
) -> base.VectorEnvironment:
    """Starts the environments of one worker.

    Args:
        game: its name.
        num_envs: number of environments, N.
        seed: of the whole run.
        worker_index: every actor and every evaluator of a run has its own, so that they differ.
        config: how Atari is played; unused by others.
        num_threads: of Atari's emulators; 0 takes one for each core.
        first: number of the first one among the worker's, where it makes them in parts.
        options: JSON object, of Gymnasium's `make`, of the function, or of a game that has some.

    Raises:
        ValueError: for an unknown game, what does not fit, or numbers out of range; one line.
    """
    seeds = base.spaced_seeds(seed, worker_index, first + num_envs)[first:]
    kind = games.kind_of(game)
    if kind == "catch":
        return _built_in(game, functools.partial(catch.Catch, num_envs, seeds), options)
    if kind == "atari":
        return atari.Atari(game, num_envs, seeds, config, num_threads)
    arguments = games.read_options(options)
    if kind == "in-graph":
        from bmg.environments.compiled import CompiledEnvironments  # which opens devices

        return CompiledEnvironments(make_world(game, options), seeds)
    function = _function(game, kind)
    if kind == "own" and "num_envs" in _parameters(function):
        found = _call(game, function, {"num_envs": num_envs, "seeds": seeds, **arguments})
        return _checked_vector(game, found, num_envs)
    several = []
    for own_seed in seeds:
        own = _own_seed(kind, function, int(own_seed))
        found = _call(game, function, {**own, **arguments})
        if _is_world(found):
            from bmg.environments.compiled import CompiledEnvironments

            return CompiledEnvironments(_checked_world(game, found), seeds)
        several.append(separate.wrap(found, game))
    return separate.SeparateEnvironments(several, seeds)


def make_drawn(game: str, seed: int, options: str) -> Any | None:
    """One environment of Gymnasium that renders what it shows; None where that cannot be asked for.

    Args:
        game: its name, of kind "gymnasium" or "own"; a function takes a `render_mode`.
        seed: for a function that takes one.
        options: as of `make`.

    Raises:
        ValueError: it does not render, or as `make`.
    """
    kind = games.kind_of(game)
    function = _function(game, kind)
    takes = _parameters(function)
    if kind == "own" and ("render_mode" not in takes or "num_envs" in takes):
        return None
    arguments = {**games.read_options(options), "render_mode": "rgb_array"}
    return _call(game, function, {**_own_seed(kind, function, seed), **arguments})


def make_spec(game: str, config: atari.AtariConfig, options: str = "") -> base.EnvironmentSpec:
    """The spec of `make(game, ..., config)`; Atari's without starting an emulator.

    An environment of Gymnasium, dm_env or the user's own is tried out: a reset and a few steps.

    Raises:
        ValueError: as `make`, or the environment fails in these; one line.
    """
    kind = games.kind_of(game)
    if kind == "atari":
        return atari.make_spec(game, config)
    if kind == "in-graph":
        return make_world(game, options).spec
    environment = make(game, 1, 0, 0, config, 1, options=options)
    try:
        if isinstance(environment, (separate.SeparateEnvironments, checked.CheckedVector)):
            _try_out(environment)
        return environment.spec
    finally:
        environment.close()


def action_names(game: str, config: atari.AtariConfig) -> tuple[str, ...]:
    """What the actions of a game do, in their order; empty where nobody says so.

    Args:
        game: its name.
        config: how Atari is played.
    """
    if games.kind_of(game) == "atari":
        return atari.action_names(game, config)
    if game not in games.IN_GRAPH:
        return ()
    module = importlib.import_module(f"bmg.environments.{games.IN_GRAPH[game]}")
    return getattr(module, "ACTIONS", ())


def make_world(game: str, options: str = "") -> in_graph.World:
    """A game as pure functions.

    Args:
        game: its name.
        options: JSON object, of its `make_params` or of the function.

    Raises:
        ValueError: it is none of these, or has no such options; one line.
    """
    if games.kind_of(game) == "own":
        arguments = games.read_options(options)
        function = load_function(game)
        takes_others = {"num_envs", "seed"} & _parameters(function)
        found = None if takes_others else _call(game, function, arguments)
        if _is_world(found):
            return _checked_world(game, found)
    if game not in games.IN_GRAPH:
        raise ValueError(
            f"{game} is no part of a compiled program; allowed are {', '.join(games.IN_GRAPH)} "
            "and functions that give a bmg.environments.in_graph.World; give another --runtime for "
            "others."
        )
    from bmg.environments.in_graph import World

    module = importlib.import_module(f"bmg.environments.{games.IN_GRAPH[game]}")
    return World(module, _built_in(game, module.make_params, options))


def _is_world(found: Any) -> bool:
    """Whether it is an `in_graph.World`: whoever has one has imported that module, and JAX."""
    module = sys.modules.get("bmg.environments.in_graph")
    return module is not None and isinstance(found, module.World)


def _checked_world(game: str, world: in_graph.World) -> in_graph.World:
    """The user's pure functions, tried out without running them."""
    import jax

    from bmg.environments.in_graph import GameTransition

    def played(key):
        state = world.reset(key)
        random = jax.tree.map(lambda x: x[0], world.draw(key, (1,)))
        after, transition = world.step(state, jax.numpy.int32(0), random)
        missing = [name for name in needed if not hasattr(transition, name)]
        if missing:
            raise TypeError(
                f"its step gives no {' and no '.join(missing)}; give a "
                "bmg.environments.in_graph.GameTransition"
            )
        return state, after, tuple(getattr(transition, name) for name in needed)

    needed = GameTransition._fields
    with failing_as(f"{game} cannot be played"):
        spec = world.spec
        before, after, numbers = jax.eval_shape(
            played, jax.ShapeDtypeStruct((2,), jax.numpy.uint32)
        )
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), state) for state in (before, after)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{game} has another kind of state after a step than before; see "
            "bmg/environments/in_graph.py."
        )
    if any(x.shape != () for x in numbers):
        shapes = ", ".join(str(list(x.shape)) for x in numbers)
        raise ValueError(
            f"{game} gives reward, discount and episode_return of shapes {shapes}; give numbers."
        )
    _check_spec(game, spec)
    return world


def _function(game: str, kind: str) -> Callable[..., Any]:
    if kind == "own":
        return load_function(game)
    import gymnasium  # here, so that configurations load without it

    return lambda **options: gymnasium.make(game.partition(":")[2], **options)


def _own_seed(kind: str, function: Callable[..., Any], seed: int) -> dict[str, int]:
    """The argument that seeds an environment of a user's function, where it takes one."""
    return {"seed": seed} if kind == "own" and "seed" in _parameters(function) else {}


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some of C have none
        return set()


def _call(game: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    with failing_as(f"{game} cannot be made"):
        return function(**arguments)


def _built_in(game: str, function: Callable[..., Any], options: str) -> Any:
    """Calls a function of this package, which checks the values of its arguments itself."""
    arguments, known = games.read_options(options), inspect.signature(function).parameters
    for name in arguments:
        if name not in known:
            raise ValueError(f"{game} has no option {shown(name)}; allowed are {', '.join(known)}.")
    try:
        return function(**arguments)
    except ValueError as error:
        raise ValueError(f"{game} cannot be made: {error}") from error


def _try_out(environment: base.VectorEnvironment) -> None:
    """A reset and a few steps, with every action where there are few."""
    environment.reset()
    for number in range(_TRIED_STEPS):
        action = number % environment.spec.num_actions
        environment.step(np.full(environment.num_envs, action, np.int32))


def _checked_vector(game: str, found: Any, num_envs: int) -> base.VectorEnvironment:
    spec = getattr(found, "spec", None)
    if not isinstance(spec, base.EnvironmentSpec) or getattr(found, "num_envs", 0) != num_envs:
        raise ValueError(
            f"{game} gives a {type(found).__name__}; a function of num_envs gives a vector of as "
            "many environments, as bmg/environments/base.py describes it."
        )
    _check_spec(game, spec)
    return checked.CheckedVector(found, game)


def _check_spec(game: str, spec: base.EnvironmentSpec) -> None:
    if len(spec.frame_shape) not in (1, 3) or spec.dtype not in ("uint8", "float32"):
        raise ValueError(
            f"{game} has frames {spec.dtype}{list(spec.frame_shape)}; allowed are uint8 and "
            "float32 of shape [H, W, C] or [D]; convert them."
        )
