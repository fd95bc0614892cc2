"""A grid world's numbers against the game itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.environments import grid
from bmg.environments.grid import Kind
from bmg.experiments.lpg import tabular

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROWS = ("..#", "...", ".#.")
KINDS = (Kind(1, 1.0, 0.3, 0.2), Kind(2, -0.5, 0.0, 0.6))
KEY = jax.random.PRNGKey(4)


@pytest.mark.parametrize("collects", [False, True])
def test_each_action_brings_what_the_game_brings(collects):
    """From every state, with every action: rewards, and how often which state follows."""
    params = grid.make_params(ROWS, KINDS, 10_000, collects, KEY)
    model = tabular.make_model(params)
    states = int(grid.num_states(params))
    actions = int(grid.num_actions(params))
    assert model.reward.shape == (states, actions) and len(model.transitions) == actions
    count, there = 2_000, 3
    numbers = np.arange(states)
    bits = (numbers[:, None] >> np.arange(grid.MOST_OBJECTS)) & 1
    begin = grid.State(
        agent=params.cells[numbers >> there],
        objects=jnp.broadcast_to(params.places.objects, (states, grid.MOST_OBJECTS)),
        present=jnp.asarray(bits == 1) & (jnp.arange(grid.MOST_OBJECTS) < there),
        steps=jnp.zeros(states, jnp.int32), episode_return=jnp.zeros(states),
    )  # fmt: skip
    np.testing.assert_array_equal(jax.vmap(lambda s: grid.index(params, s))(begin), numbers)

    @jax.jit
    def play(action):
        draws = grid.draw(params, jax.random.fold_in(KEY, action), (states, count))

        def one(state, random):
            after, transition = grid.step(params, state, action, random)
            return grid.index(params, after), transition.reward, transition.discount

        return jax.vmap(lambda s, r: jax.vmap(lambda q: one(s, q))(r))(begin, draws)

    for action in range(actions):
        after, reward, discount = map(np.asarray, play(jnp.int32(action)))
        np.testing.assert_allclose(reward.mean(1), model.reward[:, action], atol=1e-5)
        found = np.zeros((states, states))
        for state in range(states):
            goes_on = discount[state] == 1
            np.add.at(found[state], after[state][goes_on], 1 / count)
        np.testing.assert_allclose(found, model.transitions[action].toarray(), atol=0.06)


def test_values_and_the_best_policy_of_two_cells():
    """One object that ends the episode half of the time and is back at once: stepping on it again
    and again pays 1 + gamma / 2 + ... by staying where it is."""
    params = grid.make_params(("..",), (Kind(1, 1.0, 0.5, 1.0),), 10_000, False, KEY)
    model = tabular.make_model(params)
    # After it was collected it is gone for a step, in which it comes back: it pays every other one.
    best = tabular.best_policy(model, 0.9)
    values = tabular.values_of(model, np.eye(9)[best], 0.9)
    cell = int(params.order[params.places.objects[0]])
    on_it, gone = values[(cell << 1) + 1], values[cell << 1]
    np.testing.assert_allclose(on_it, 1 + 0.5 * 0.9 * gone)
    np.testing.assert_allclose(gone, 0.9 * on_it)
    other = values[((1 - cell) << 1) + 1]
    np.testing.assert_allclose(other, on_it)  # one step away, and stepping there pays
    everything = np.full((4, 9), 1 / 9)
    assert np.all(tabular.values_of(model, everything, 0.9) < values)
