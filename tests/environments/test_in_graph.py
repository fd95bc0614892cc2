"""What all in-graph environments promise, whatever their rules."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.environments import (
    chain,
    grid,
    in_graph,
    in_graph_catch,
    markov_reward,
    minatar,
    snake,
    two_colors,
)

KEY = jax.random.PRNGKey(0)
STEPS = 60


class Case(NamedTuple):
    """An environment and variants of it, of which each plays differently."""

    world: in_graph.Environment
    variants: list
    steps: int = STEPS  # in which they do
    often: int | None = None  # an action that three in four steps take


def _grid(width: int = 3, time_limit: int = 50, **how) -> grid.Params:
    kinds = grid.Kind(2, 1, 0, 0.5), grid.Kind(1, -1, 0.5, 0.5)
    return grid.make_params(("." * width,) * 3, kinds, time_limit, **how)


CASES = [
    Case(
        two_colors,
        [
            two_colors.make_params(),
            two_colors.make_params(flip_every=7),
            two_colors.make_params(respawn="all", size=3),
            two_colors.make_params(size=2),
        ],
    ),
    Case(snake, [snake.make_params(), snake.make_params(time_limit=3), snake.make_params(1)]),
    Case(
        markov_reward,
        [
            markov_reward.make_params(),
            markov_reward.make_params(length=4, noise=0.5),
            markov_reward.make_params(even_reward=-2.0),
        ],
    ),
    Case(chain, [chain.make_params(3), chain.make_params(3, noisy=True), chain.make_params(7)]),
    Case(grid, [_grid(), _grid(collects=True), _grid(width=2), _grid(time_limit=4)]),
    Case(
        in_graph_catch,
        [
            in_graph_catch.make_params(),
            in_graph_catch.make_params(rows=4),
            in_graph_catch.make_params(columns=2),
        ],
    ),
    *(
        Case(game, [minatar.make_params(x) for x in (0.1, 0.0, 0.9)], steps=300, often=often)
        for game, often in zip(minatar.GAMES.values(), (None, None, 1, 5, None))
    ),
    Case(grid, [_grid(collects=c, key=jax.random.PRNGKey(k)) for c, k in ((0, 1), (1, 1), (0, 2))]),
]
NAMES = [case.world.__name__.rpartition(".")[2] for case in CASES]
pytestmark = [
    pytest.mark.usefixtures("quick_compilation"), pytest.mark.parametrize("case", CASES, ids=NAMES)
]  # fmt: skip


def random_actions(case, key, steps: int):
    """int32 [T]."""
    actions = jax.random.randint(key, (steps,), 0, case.world.NUM_ACTIONS)
    if case.often is None:
        return actions
    rarely = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.25, (steps,))
    return jnp.where(rarely, actions, case.often)


def play(case, params, key, steps: int | None = None):
    """Random actions in a scan: the last state, observations [T + 1, ...], transitions [T]."""
    world, steps = case.world, steps or case.steps
    reset_key, action_key, draw_key = jax.random.split(key, 3)
    actions = random_actions(case, action_key, steps)

    def act(state, inputs):
        after, transition = world.step(params, state, *inputs)
        return after, (world.observe(params, state), transition)

    random = world.draw(params, draw_key, (steps,))
    state, (seen, transitions) = jax.lax.scan(
        act, world.reset(params, reset_key), (actions, random)
    )
    return state, jnp.concatenate([seen, world.observe(params, state)[None]]), transitions


def stacked(variants):
    return jax.tree.map(lambda *x: jnp.stack(x), *variants)


def same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(a, b)


def test_parameters_are_arrays_of_one_shape(case):
    for variant in case.variants:
        leaves, first = jax.tree.leaves(variant), jax.tree.leaves(case.variants[0])
        for a, b in zip(leaves, first, strict=True):
            assert isinstance(a, (jax.Array, np.generic))
            assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_shapes_and_types_stay_the_same(case):
    """A state of a weaker type after a step would compile every program twice."""
    world, params = case.world, case.variants[0]
    state = jax.eval_shape(world.reset, params, KEY)
    action = jax.ShapeDtypeStruct((), jnp.int32)
    for lead in ((), (3,), (3, 2)):
        random = jax.eval_shape(lambda: world.draw(params, KEY, lead))
        assert all(x.shape[: len(lead)] == lead for x in jax.tree.leaves(random))
        if not lead:
            after, transition = jax.eval_shape(world.step, params, state, action, random)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.weak_type), state
    )
    for x in transition:
        assert (x.shape, x.dtype, x.weak_type) == ((), jnp.float32, False)
    seen = jax.eval_shape(world.observe, params, state)
    assert (seen.shape, seen.dtype) == (world.OBSERVATION_SHAPE, seen.dtype)
    assert seen.dtype in (jnp.float32, bool)


def test_one_program_over_variants_plays_as_each_alone(case):
    """Also with its parameters as constants of its program."""
    variants = case.variants
    together = jax.jit(jax.vmap(lambda params: play(case, params, KEY)))(stacked(variants))
    one = jax.jit(lambda params: play(case, params, KEY))
    alone = [jax.device_get(one(params)) for params in variants]
    for index, expected in enumerate(alone):
        same(jax.tree.map(lambda x, i=index: x[i], jax.device_get(together)), expected)
    same(jax.jit(lambda: play(case, variants[-1], KEY))(), alone[-1])
    transitions = [np.stack([*found[2]]) for found in alone]
    for index, found in enumerate(transitions):
        for other in transitions[:index]:
            assert np.any(found[:2] != other[:2]), "variants that play alike show nothing"


def test_a_scan_is_one_step_after_the_other(case):
    world, params = case.world, case.variants[1]

    @jax.jit
    def begin():
        reset_key, action_key, draw_key = jax.random.split(KEY, 3)
        actions = random_actions(case, action_key, 12)
        return world.reset(params, reset_key), actions, world.draw(params, draw_key, (12,))

    state, actions, random = jax.device_get(begin())
    step, observe = jax.jit(world.step), jax.jit(world.observe)
    last, seen, transitions = jax.device_get(jax.jit(lambda: play(case, params, KEY, 12))())
    for t in range(12):
        np.testing.assert_array_equal(seen[t], observe(params, state))
        state, transition = step(
            params, state, actions[t], jax.tree.map(lambda x, t=t: x[t], random)
        )
        same(transition, jax.tree.map(lambda x, t=t: x[t], transitions))
    same(state, last)


def test_the_key_alone_decides(case):
    world, params = case.world, case.variants[0]
    run = jax.jit(jax.vmap(lambda key: play(case, params, key)))
    keys = jax.random.split(jax.random.PRNGKey(1), 8)
    found = jax.device_get(run(keys))
    same(jax.tree.map(lambda x: x[::-1], jax.device_get(run(keys[::-1]))), found)
    played = np.concatenate([found[1].reshape(8, -1), found[2].reward], axis=1)
    assert len({row.tobytes() for row in played}) == 8
    # Drawn at once or a part at a time, steps do not share what they draw.
    drawn = jax.tree.leaves(jax.jit(lambda: world.draw(params, KEY, (50, 4)))())
    random = np.concatenate([np.reshape(x, (200, -1)) for x in drawn], axis=1)
    assert len({x.tobytes() for x in random}) == 200


def test_what_is_seen_and_paid_is_finite(case):
    variants = case.variants
    keys = jax.random.split(KEY, 16)
    of_all = jax.vmap(lambda params: jax.vmap(lambda key: play(case, params, key))(keys))
    _, seen, transitions = jax.jit(of_all)(stacked(variants))
    assert np.all(np.isfinite(seen)) and np.all((seen >= 0) & (seen <= 1))
    assert np.all(np.isfinite(transitions.reward)) and np.any(transitions.reward)
    assert set(np.unique(transitions.discount)) <= {0.0, 1.0}
    assert np.any(np.asarray(seen)[:, :, 1:] != np.asarray(seen)[:, :, :-1])
