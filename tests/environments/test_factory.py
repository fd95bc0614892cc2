"""Games by name, and specs without a vector of environments."""

import dataclasses

import ale_py
import gymnasium
import numpy as np
import pytest

from bmg.environments import atari, catch, factory, games, scores


@pytest.mark.parametrize("game", ["catch", "pong", "breakout"])
@pytest.mark.parametrize("config", [atari.PAPER, atari.LIGHT], ids=["paper", "light"])
def test_spec_is_that_of_the_environment(game, config):
    environment = factory.make(game, 2, seed=0, worker_index=0, config=config, num_threads=1)
    spec = factory.make_spec(game, config)
    assert environment.spec == spec
    assert environment.num_envs == 2
    frame = environment.reset().frame
    assert frame.shape == (2, *spec.frame_shape) and frame.dtype == np.uint8
    # The last action is one that the environment takes, and the first that it does not.
    environment.step(np.full(2, spec.num_actions - 1))
    with pytest.raises(ValueError, match=f"allowed are 0 to {spec.num_actions - 1}"):
        environment.step(np.full(2, spec.num_actions))
    environment.close()


def test_catch_is_catch():
    environment = factory.make("catch", 3, 0, 0, atari.PAPER, 1)
    assert isinstance(environment, catch.Catch)
    assert environment.spec.frame_shape == (10, 5, 1)


def test_catch_has_the_same_options_in_the_compiled_program():
    """A board of two rows ends with every step, in one column the ball is always caught."""
    options = '{"rows": 2, "columns": 1}'
    world = factory.make_world("catch", options)
    environment = factory.make("catch", 3, 0, 0, atari.LIGHT, 1, 0, options)
    assert environment.spec == world.spec == factory.make_spec("catch", atari.LIGHT, options)
    frame = np.asarray(world.frame(world.reset(np.zeros(2, np.uint32))))
    for step in (environment.reset(), environment.step(np.array([0, 1, 2]))):
        np.testing.assert_array_equal(step.frame, np.stack([frame] * 3))
    np.testing.assert_array_equal(step.reward, np.ones(3))
    assert step.first.all()


@pytest.mark.parametrize(
    "game, options, words",
    [
        ("catch", '{"rows": 6, "nonsense": 1}', "no option 'nonsense'; allowed are rows, columns"),
        ("catch", '{"rows": 6.5}', "rows is 6.5; allowed are integers from 2 to 10"),
        ("catch", "[1]", "give an object"),
        ("minatar/breakout", '{"stick": 1}', "no option 'stick'; allowed are sticky, ramping"),
        ("minatar/breakout", '{"sticky": 7}', "sticky is 7; allowed are numbers from 0 to 1"),
        ("minatar/breakout", '{"sticky": -1}', "sticky is -1"),
        ("minatar/breakout", '{"sticky": NaN}', "sticky is nan"),
        ("minatar/breakout", '{"sticky": [0.1, 0.2]}', "sticky is a list"),
        ("minatar/freeway", '{"ramping": "false"}', "ramping is 'false'; allowed are true and fal"),
        ("minatar/freeway", '{"ramping": 0}', "ramping is 0"),
        ("snake", '{"time_limit": 0}', "time_limit is 0; allowed are integers from 1"),
        ("snake", '{"time_limit": 1.5}', "time_limit is 1.5"),
        ("grid", '{"seed": "x"}', "seed is 'x'; allowed are integers from 0"),
        ("grid", '{"seed": -1}', "seed is -1"),
        ("grid", '{"world": ["rooms"]}', "world is a list; allowed are dense, .*rooms"),
    ],
)
def test_options_that_a_game_does_not_have_are_refused(game, options, words):
    for call in (
        lambda: factory.make(game, 2, 0, 0, atari.LIGHT, 1, 0, options),
        lambda: factory.make_spec(game, atari.LIGHT, options),
        lambda: factory.make_world(game, options),
    ):
        with pytest.raises(ValueError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


def test_action_sets():
    full = dataclasses.replace(atari.LIGHT, full_action_space=True)
    assert factory.make_spec("pong", atari.LIGHT).num_actions == 6
    assert factory.make_spec("breakout", atari.LIGHT).num_actions == 4
    assert factory.make_spec("breakout", full).num_actions == 18


def test_workers_and_seeds_see_different_episodes():
    def frames(seed, worker):
        environment = factory.make("catch", 200, seed, worker, atari.LIGHT, 1)
        return environment.reset().frame

    np.testing.assert_array_equal(frames(1, 2), frames(1, 2))
    assert (frames(1, 2) != frames(1, 3)).any()
    assert (frames(1, 2) != frames(2, 2)).any()


def test_unknown_games_are_refused():
    for call in (
        lambda: factory.make("pogn", 1, 0, 0, atari.LIGHT, 1),
        lambda: factory.make_spec("pogn", atari.LIGHT),
    ):
        with pytest.raises(ValueError, match="did you mean 'pong'"):
            call()


@pytest.mark.long
def test_every_game_has_a_rom_with_the_papers_screen():
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    for game in scores.GAMES:
        assert ale_py.roms.get_rom_path(game) is not None, game
        ale = ale_py.ALEInterface()
        ale.loadROM(ale_py.roms.get_rom_path(game))
        assert tuple(ale.getScreenDims()) == atari.frame_shape(atari.PAPER)[:2], game


def test_actions_have_the_names_that_their_emulators_give_them():
    gymnasium.register_envs(ale_py)
    words = {"up": "UP", "down": "DOWN", "left": "LEFT", "right": "RIGHT", "fire": "FIRE"}
    for game, name in (("seaquest", "Seaquest"), ("pong", "Pong")):
        for full in (False, True):
            theirs = gymnasium.make(f"ALE/{name}-v5", full_action_space=full).unwrapped
            ours = factory.action_names(game, atari.AtariConfig(full_action_space=full))
            joined = ["".join(words[x] for x in own.split() if x in words) for own in ours]
            assert [own or "NOOP" for own in joined] == theirs.get_action_meanings()
    assert factory.action_names("catch", atari.AtariConfig()) == ("left", "stay", "right")
    assert factory.action_names("grid", atari.AtariConfig()) == ()
    assert factory.action_names("gymnasium:CartPole-v1", atari.AtariConfig()) == ()
    for game in set(games.IN_GRAPH) - {"grid"}:
        names = factory.action_names(game, atari.AtariConfig())
        assert len(names) == factory.make_spec(game, atari.AtariConfig()).num_actions
