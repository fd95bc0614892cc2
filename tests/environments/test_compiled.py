"""In-graph environments as a vector for actors, and those of one's own: against a slow game."""

from __future__ import annotations

import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from bmg.environments import atari, base, factory
from bmg.environments.compiled import CompiledEnvironments
from bmg.environments.in_graph import Transition, World
from tests.examples.loading import load


@pytest.fixture
def corridor(monkeypatch):
    """The example, as a module of the user's."""
    module = load("compiled_corridor")
    monkeypatch.setitem(sys.modules, "compiled_corridor", module)
    return module


def make(game, num_envs=3, options=""):
    return factory.make(game, num_envs, 0, 0, atari.LIGHT, 1, 0, options)


def test_the_example_is_a_vector_of_corridors(corridor):
    """Episodes of the slow game begin where those of the vector do."""
    length, num_envs = 6, 3
    vector = make("compiled_corridor:make", num_envs, '{"length": 6}')
    assert isinstance(vector, CompiledEnvironments)
    assert vector.spec == base.EnvironmentSpec((2,), 2, 1, 1, "float32")
    found = vector.reset()
    place = np.rint(found.frame[:, 0] * length)
    assert np.all((0 <= place) & (place < 3)) and np.all(found.frame[:, 1] == 1)
    rng, begun, total = np.random.default_rng(0), set(), np.zeros(num_envs)
    for _ in range(300):  # more than what is drawn at once
        action = (rng.random(num_envs) < 0.7).astype(np.int64)
        step = vector.step(action)
        for n in range(num_envs):
            place[n] = max(place[n] + (1 if action[n] else -1), 0)
            over = place[n] == length
            reward = 1.0 if over else -0.01
            total[n] += reward
            assert step.first[n] == over and step.discount[n] == 1 - over
            np.testing.assert_allclose(step.reward[n], reward, atol=1e-6)
            expected = total[n] if over else np.nan
            np.testing.assert_allclose(step.episode_return[n], expected, atol=1e-5)
            if over:
                place[n], total[n] = np.rint(step.frame[n, 0] * length), 0.0
                begun.add(int(place[n]))
            np.testing.assert_allclose(step.frame[n], [place[n] / length, 1.0], atol=1e-6)
    assert begun == {0, 1, 2}


def test_each_environment_has_a_seed_of_its_own(corridor):
    """Alike whoever is beside it."""
    world = factory.make_world("compiled_corridor:make")
    assert world.params == 8 and world.environment is corridor
    seeds = base.spaced_seeds(0, 0, 8)
    together = CompiledEnvironments(world, seeds).reset().frame
    alone = [CompiledEnvironments(world, seeds[n : n + 1]).reset().frame[0] for n in range(8)]
    np.testing.assert_array_equal(together, alone)
    assert len(np.unique(together[:, 0])) > 1


def test_parameters_may_be_arrays(corridor):
    """Which have no hash, so that what is compiled cannot be kept."""
    world = World(corridor, jnp.array([5])[0])
    frame = CompiledEnvironments(world, np.arange(2)).reset().frame
    assert frame.shape == (2, 2) and np.all(frame[:, 0] <= 0.2)


def test_what_does_not_fit_is_refused_in_one_line(corridor, monkeypatch):
    mine = types.ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", mine)

    def with_changes(**changes):
        names = ("reset", "draw", "step", "observe", "NUM_ACTIONS", "OBSERVATION_SHAPE")
        own = {name: getattr(corridor, name) for name in names}
        kept = {name: x for name, x in {**own, **changes}.items() if x is not None}
        return lambda: World(types.SimpleNamespace(**kept), 8)

    def grows(length, state, action, key):
        after, found = corridor.step(length, state, action, key)
        return after._replace(place=after.place[None]), found

    def vectors(length, state, action, key):
        after, found = corridor.step(length, state, action, key)
        return after, found._replace(reward=found.reward[None])

    def without_returns(length, state, action, key):
        after, found = corridor.step(length, state, action, key)
        return after, Transition(found.reward, found.discount)

    for name, function, words in (
        ("none", lambda: 3, "no part of a compiled program.*in_graph.World"),
        ("seeded", lambda seed: 3, "no part of a compiled program"),
        ("raises", lambda: 1 / 0, "cannot be made: ZeroDivisionError"),
        ("empty", with_changes(step=None), "cannot be played: AttributeError.*step"),
        (
            "short",
            with_changes(step=without_returns),
            "its step gives no episode_return; give a bmg.environments.in_graph.GameTransition",
        ),
        ("grows", with_changes(step=grows), "another kind of state after a step"),
        ("vectors", with_changes(step=vectors), r"of shapes \[1\], \[\], \[\]; give numbers"),
        ("flat", with_changes(observe=lambda p, s: jnp.ones(())), r"frames float32\[\]"),
        ("whole", with_changes(observe=lambda p, s: jnp.ones(3, int)), r"frames int32\[3\]"),
    ):
        setattr(mine, name, function)
        with pytest.raises(ValueError, match=words) as caught:
            factory.make_world(f"mine:{name}")
        assert "\n" not in str(caught.value)
