"""The networks of two colours: MLPs, and the one whose output the meta-learner adapts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp


class Mlp(NamedTuple):
    """Pure functions of a multi-layer perceptron with ReLUs."""

    init: Callable[[jax.Array], hk.Params]  # key -> params
    apply: Callable[[hk.Params, jax.Array], jax.Array]  # params, [..., inputs] -> [..., outputs]


def mlp(num_inputs: int, hidden: Sequence[int], num_outputs: int) -> Mlp:
    """An MLP with Haiku's default initial weights."""
    forward = hk.without_apply_rng(
        hk.transform(lambda x: hk.nets.MLP([*hidden, num_outputs], name="mlp")(x))
    )
    return Mlp(lambda key: forward.init(key, jnp.zeros(num_inputs)), forward.apply)


def sigmoid_network(num_inputs: int, hidden: Sequence[int], initial: float) -> Mlp:
    """w: a few recent rewards -> a scalar in (0, 1), about `initial` at first (BMG Table 1)."""
    network = mlp(num_inputs, hidden, 1)
    logit = math.log(initial / (1.0 - initial))
    return Mlp(network.init, lambda w, x: jax.nn.sigmoid(network.apply(w, x)[..., 0] + logit))
