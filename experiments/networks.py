"""Small networks of the experiments, as pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp


class Mlp(NamedTuple):
    """Pure functions of a multi-layer perceptron."""

    init: Callable[[jax.Array], hk.Params]  # key -> params
    apply: Callable[[hk.Params, jax.Array], jax.Array]  # params, [..., inputs] -> [..., outputs]


def mlp(
    num_inputs: int, hidden: Sequence[int], num_outputs: int, activation: Callable = jax.nn.relu
) -> Mlp:
    """An MLP with Haiku's default initial weights."""

    def network(x):
        return hk.nets.MLP([*hidden, num_outputs], activation=activation, name="mlp")(x)

    forward = hk.without_apply_rng(hk.transform(network))
    return Mlp(lambda key: forward.init(key, jnp.zeros(num_inputs)), forward.apply)
