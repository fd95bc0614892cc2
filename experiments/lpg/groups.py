"""Worlds whose agents are alike: what such an agent sees, what it is made of, how it learns.

    tabular worlds      a table with a row for each state             SGD
    random grids        planes -> convolutions 3x3 -> dense layer     Adam
    chain-distractor    22 bits -> dense layer                        Adam

Each gives logits of 18 actions, of which some are there in a world, and the prediction. Beside it
each has values V(s) of its own, which the rule never sees: they make the advantages of the rule's
loss.

Reference: Oh et al., "Discovering Reinforcement Learning Algorithms", NeurIPS 2020, table 3. Not
stated there: kernels (here 3x3 with stride 1, edges padded), how weights begin (here truncated
normal, 1 / sqrt(inputs)), and the values' network (here like the agent's).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from bmg.agents.convolution import conv3x3
from bmg.agents.update_rule import Outputs
from bmg.environments import chain, grid, worlds
from bmg.experiments.lpg.config import NETWORKS, Architecture, LpgConfig

PyTree = Any
# Without it the derivative of a step is infinite where the second moment is 0, as of units that are
# never active.
_ADAM_EPSILON_ROOT = 1e-12


class Group(NamedTuple):
    """Worlds, and their agents as pure functions of one agent."""

    worlds: tuple[str, ...]
    families: worlds.Params  # [worlds] leading
    arms: tuple[tuple[float, float], ...]  # (alpha_lr, alpha_y)
    draw_world: Callable[[worlds.Params, jax.Array], worlds.Params]  # family, key -> world
    observe: Callable[[worlds.Params, worlds.State], jax.Array]
    init: Callable[[jax.Array], PyTree]  # key -> theta
    apply: Callable[[PyTree, jax.Array], Outputs]  # theta, observations -> of all 18 actions
    optimizer: optax.GradientTransformation  # before the step size
    values: Values
    # observations [T, B] -> [T, B], how many of them are the same; None where agents are networks
    visits: Callable[[jax.Array], jax.Array] | None


class Values(NamedTuple):
    """V(s)."""

    init: Callable[[jax.Array], PyTree]  # key -> state
    apply: Callable[[PyTree, jax.Array], jax.Array]  # state, observations [...] -> [...]
    # state, observations [...], targets minus values [...] -> state
    learn: Callable[[PyTree, jax.Array, jax.Array], PyTree]


class _Critic(NamedTuple):
    """A network that learns values."""

    params: hk.Params
    opt_state: optax.OptState


def make_groups(config: LpgConfig) -> tuple[Group, ...]:
    """The worlds of a configuration by their agents, in the order in which they first come."""
    names: dict[Any, list[str]] = {}
    for name in config.worlds:
        names.setdefault(_key(name), []).append(name)
    return tuple(_make_group(tuple(found), config) for found in names.values())


def _key(name: str):
    """What is the same for worlds of a group."""
    world = worlds.WORLDS[name]
    rows = world.rows if isinstance(world, worlds.GridWorld) else ()
    return None if world.tabular else (NETWORKS[name], len(rows), len(rows[0]) if rows else 0)


def _make_group(names: tuple[str, ...], config: LpgConfig) -> Group:
    world, outputs = worlds.WORLDS[names[0]], config.rule.outputs
    families = worlds.stack_families(names)
    arms = config.arms_of(names[0])
    if world.tabular:
        states = worlds.most_states(names)
        values = _table_of_values(states, config.value_learning_rate)
        return Group(
            names, families, arms, worlds.draw_world, worlds.index,
            lambda key: jnp.zeros((states, worlds.NUM_ACTIONS + outputs)),
            lambda table, state: _parted(table[state]), optax.identity(), values,
            lambda state: jnp.zeros(states).at[state].add(1.0)[state],
        )  # fmt: skip
    if isinstance(world, worlds.ChainWorld):
        shape, draw_world = chain.OBSERVATION_SHAPE, worlds.draw_world
        observe = lambda params, state: chain.observe(params.chain, state.chain)  # noqa: E731
    else:
        shape = (len(world.rows), len(world.rows[0]), grid.OBSERVATION_SHAPE[2])
        draw_world = worlds.draw_random_world

        def observe(params, state):
            return grid.observe(params.grid, state.grid)[: shape[0], : shape[1]]

    init, apply = _network(NETWORKS[names[0]], shape, worlds.NUM_ACTIONS + outputs)
    return Group(
        names, families, arms, draw_world, observe, init,
        lambda params, x: _parted(apply(params, x)),
        optax.scale_by_adam(eps_root=_ADAM_EPSILON_ROOT),
        _network_of_values(NETWORKS[names[0]], shape, config.value_network_learning_rate), None,
    )  # fmt: skip


def _parted(x: jax.Array) -> Outputs:
    return Outputs(x[..., : worlds.NUM_ACTIONS], x[..., worlds.NUM_ACTIONS :])


def _network(architecture: Architecture, shape: Sequence[int], outputs: int):
    """(init, apply) of [..., *shape] -> [..., outputs]."""

    def forward(observation):
        leading = observation.shape[: observation.ndim - len(shape)]
        x = observation.reshape(-1, *shape)
        for index, channels in enumerate(architecture.channels):
            size = (3, 3, x.shape[-1], channels)
            begin = hk.initializers.TruncatedNormal((9 * x.shape[-1]) ** -0.5)
            w = hk.get_parameter(f"conv_{index}_w", size, init=begin)
            b = hk.get_parameter(f"conv_{index}_b", (channels,), init=jnp.zeros)
            # As one product: XLA's own is slow with kernels for each agent, and inside of loops.
            x = jax.nn.relu(conv3x3(x, w, "im2col") + b)
        x = hk.nets.MLP([architecture.hidden, outputs])(x.reshape(len(x), -1))
        return x.reshape(*leading, outputs)

    transformed = hk.without_apply_rng(hk.transform(forward))

    def apply(params, observation):
        if not architecture.channels or observation.ndim <= len(shape) + 1:
            return transformed.apply(params, observation)
        # Step by step, and again for the gradient: a CPU's caches hold one step, and it is 2 to 3
        # times quicker.
        one = jax.checkpoint(lambda x: transformed.apply(params, x))
        return jax.lax.map(one, observation)

    return lambda key: transformed.init(key, jnp.zeros(shape)), apply


def _table_of_values(states: int, learning_rate: float) -> Values:
    """Each value moves towards the mean of its state's targets in a rollout.

    A step of SGD, as agents take it, goes too far in a short chain: its few states are visited so
    often that values oscillate and grow.
    """

    def learn(values, state, error):
        visits = jnp.zeros_like(values).at[state].add(1.0)
        errors = jnp.zeros_like(values).at[state].add(error)
        return values + learning_rate * errors / jnp.maximum(visits, 1.0)

    return Values(lambda key: jnp.zeros(states), lambda values, state: values[state], learn)


def _network_of_values(
    architecture: Architecture, shape: Sequence[int], learning_rate: float
) -> Values:
    """Adam on half of the mean squared error."""
    begin, network = _network(architecture, shape, 1)
    optimizer = optax.adam(learning_rate)

    def init(key):
        params = begin(key)
        return _Critic(params, optimizer.init(params))

    def apply(critic, observation):
        return network(critic.params, observation)[..., 0]

    def learn(critic, observation, error):
        _, pullback = jax.vjp(lambda p: network(p, observation)[..., 0], critic.params)
        gradient = pullback(-error / error.size)[0]
        updates, opt_state = optimizer.update(gradient, critic.opt_state)
        return _Critic(optax.apply_updates(critic.params, updates), opt_state)

    return Values(init, apply, learn)
