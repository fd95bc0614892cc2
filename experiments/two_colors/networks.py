"""The network of two colours whose output the meta-learner adapts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax

from bmg.experiments.networks import Mlp, mlp


def sigmoid_network(num_inputs: int, hidden: Sequence[int], initial: float) -> Mlp:
    """w: a few recent rewards -> a scalar in (0, 1), about `initial` at first (BMG Table 1)."""
    network = mlp(num_inputs, hidden, 1)
    logit = math.log(initial / (1.0 - initial))
    return Mlp(network.init, lambda w, x: jax.nn.sigmoid(network.apply(w, x)[..., 0] + logit))
