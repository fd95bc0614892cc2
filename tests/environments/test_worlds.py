"""Worlds by name, and tabular ones of all kinds side by side in one program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bmg.environments import chain, grid, worlds

TABULAR = [name for name, world in worlds.WORLDS.items() if world.tabular]
KEY = jax.random.PRNGKey(2)


def played(module, params, key, actions):
    """Rewards, discounts, returns and numbers along a game."""

    def act(state, inputs):
        action, random = inputs
        number = module.index(params, state)
        state, transition = module.step(params, state, action, random)
        return state, (*transition, number)

    draws = module.draw(params, key, (len(actions),))
    return jax.lax.scan(act, module.reset(params, key), (actions, draws))[1]


def test_worlds_side_by_side_are_each_one_alone():
    """Stacked and mapped, with arrays as large as the largest's, beside one that idles."""
    families = worlds.stack_families(TABULAR)
    keys = jax.random.split(KEY, len(TABULAR))
    drawn = jax.vmap(worlds.draw_world)(families, keys)
    actions = jax.random.randint(KEY, (300,), 0, 2)
    together = jax.vmap(lambda p: played(worlds, p, KEY, actions))(drawn)
    grid_key, chain_key = jax.random.split(KEY)
    for i, name in enumerate(TABULAR):
        own = jax.tree.map(lambda x, i=i: x[i], drawn)
        is_chain = isinstance(worlds.WORLDS[name], worlds.ChainWorld)
        # The keys of a reset and of what is drawn are split alike.
        alone = played(
            chain if is_chain else grid,
            own.chain if is_chain else own.grid,
            chain_key if is_chain else grid_key,
            actions,
        )
        for found, expected in zip(together, alone):
            np.testing.assert_array_equal(found[i], expected, err_msg=name)
        assert np.max(alone[-1]) < worlds.most_states([name]) <= worlds.most_states(TABULAR)


def test_what_a_lifetime_draws():
    """Lengths from 5 to the longest; both action sets; places that differ from world to world."""
    families = worlds.stack_families(["chain-short", "dense", "longer"])

    def many(i):
        family = jax.tree.map(lambda x: x[i], families)
        return jax.vmap(lambda key: worlds.draw_world(family, key))(jax.random.split(KEY, 600))

    short = many(0)
    assert set(np.unique(short.chain.length)) == set(range(5, 31))
    assert set(np.unique(jax.vmap(worlds.num_actions)(short))) == {2}
    for index in (1, 2):
        found = many(index)
        assert not np.any(found.is_chain)
        assert abs(np.mean(found.grid.collects) - 0.5) < 0.1
        assert set(np.unique(jax.vmap(worlds.num_actions)(found))) == {9, 18}
        assert len({tuple(row) for row in np.asarray(found.grid.places.objects)}) > 500


def test_the_rows_of_a_table():
    assert worlds.most_states(["dense"]) == 121 * 2**4
    assert worlds.most_states(["dense", "longer"]) == 63 * 2**7
    assert worlds.most_states(["chain-long-noisy"]) == 2 + 4 * 49


def test_worlds_that_are_held_out_can_be_solved():
    """Every free cell is reached from every other one."""
    for name, world in worlds.HELD_OUT.items():
        params = worlds.grid_family(world)
        free = {int(cell) for cell in params.cells[: int(params.free)]}
        reached, frontier = set(), [min(free)]
        while frontier:
            cell = frontier.pop()
            reached.add(cell)
            near = {cell + 15 * r + c for r in (-1, 0, 1) for c in (-1, 0, 1)}
            frontier += (near & free) - reached
        assert reached == free, name
    assert jnp.all(worlds.most_states(list(worlds.HELD_OUT)) <= 63 * 2**7)
