"""Networks: a convolutional torso shared by all tasks, a policy and a value MLP for each task.

References:
  Espeholt et al., "IMPALA", ICML 2018, Fig. 3 (https://arxiv.org/abs/1802.01561).
  Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, Table 2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from bmg.agents.config import NetworkConfig
from bmg.agents.pooling import max_pool_3x3
from bmg.agents.trajectory import scale_pixels


class Predictions(NamedTuple):
    """Policies and values of n tasks; task 0 is the main one, the only one that acts."""

    logits: jax.Array  # float32 [n, ..., A]
    value: jax.Array  # float32 [n, ...]

    def task(self, index: int) -> Predictions:
        """The predictions of one task, without the leading axis."""
        return Predictions(self.logits[index], self.value[index])


class Network(NamedTuple):
    """Pure functions of a network."""

    init: Callable[[jax.Array], hk.Params]  # key -> params of all tasks
    apply: Callable[..., Predictions]  # params, float32 [..., H, W, C], number of first tasks
    exact: Callable[..., Predictions]  # the same with float32 activations, to compare parameters


_CONTRAST = 4.0  # amplification of centred frames: grey levels then spread over about +-1


def _centered(observation: jax.Array) -> jax.Array:
    """Each frame of [N, H, W, S * C] without its mean brightness, amplified."""
    return _CONTRAST * (observation - jnp.mean(observation, axis=(1, 2), keepdims=True))


def _weights(scale: float):
    """Haiku's default initialiser (truncated normal, 1 / sqrt(fan in)) times `scale`."""

    def init(shape, dtype):
        fan_in = math.prod(shape[:-1])
        return hk.initializers.TruncatedNormal(scale / math.sqrt(fan_in))(shape, dtype)

    return init


def _resnet(x: jax.Array, config: NetworkConfig) -> jax.Array:
    """IMPALA's deep torso without its LSTM (IMPALA Fig. 3, right)."""
    conv = functools.partial(hk.Conv2D, kernel_shape=3, w_init=_weights(config.weight_scale))
    for section, depth in enumerate(config.channels):
        x = conv(depth, name=f"section_{section}")(x)
        x = max_pool_3x3(x)
        for block in range(config.residual_blocks):
            y = jax.nn.relu(x)
            y = conv(depth, name=f"section_{section}_block_{block}_first")(y)
            y = jax.nn.relu(y)
            y = conv(depth, name=f"section_{section}_block_{block}_second")(y)
            x = x + y
    return jax.nn.relu(x)


# (channels, kernel, stride) of each layer.
_DQN = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # Mnih et al., Nature 2015
_SHALLOW = ((16, 8, 4), (32, 4, 2))  # Mnih et al., 2013, and A3C: a third of DQN's cost


def _convolutions(
    x: jax.Array, layers: tuple[tuple[int, int, int], ...], weight_scale: float
) -> jax.Array:
    """Plain convolutions without padding, a ReLU after each."""
    w_init = _weights(weight_scale)
    for index, (depth, kernel, stride) in enumerate(layers):
        name = f"conv_{index}"
        layer = hk.Conv2D(depth, kernel, stride, padding="VALID", w_init=w_init, name=name)
        x = jax.nn.relu(layer(x))
    return x


def _torso(observation: jax.Array, config: NetworkConfig) -> jax.Array:
    """[N, H, W, C] -> [N, features]."""
    x = _centered(observation) if config.center_frames else observation
    if config.torso == "resnet":
        x = _resnet(x, config)
    elif config.torso == "dqn":
        x = _convolutions(x, _DQN, config.weight_scale)
    elif config.torso == "shallow":
        x = _convolutions(x, _SHALLOW, config.weight_scale)
    x = hk.Flatten()(x)
    projection = hk.Linear(config.features, w_init=_weights(config.weight_scale), name="projection")
    return jax.nn.relu(projection(x))


def make_network(
    config: NetworkConfig, observation_shape: tuple[int, int, int], num_actions: int, num_tasks: int
) -> Network:
    """Builds the network of `num_tasks` tasks.

    `apply` is told how many of them to evaluate: actors and the outer loss need the main task
    alone, and for them `main_task_params` suffice.

    Args:
      config: its architecture.
      observation_shape: (H, W, S * C) of a stacked observation.
      num_actions: A.
      num_tasks: n, main task included.

    Returns:
      `init(key)`, `apply(params, observation [..., H, W, C], num_tasks)` and `exact(...)`.
    """

    def head(features: jax.Array, size: int) -> jax.Array:
        return hk.nets.MLP([*config.head_hidden, size])(features)

    def forward(observation: jax.Array, tasks: int = num_tasks) -> Predictions:
        chex.assert_shape(observation, (..., *observation_shape))
        leading = observation.shape[:-3]
        with hk.experimental.name_scope("torso"):
            features = _torso(observation.reshape(-1, *observation_shape), config)
        logits, values = [], []
        for task in range(tasks):
            with hk.experimental.name_scope(f"task_{task}"):
                with hk.experimental.name_scope("policy"):
                    logits.append(head(features, num_actions))
                with hk.experimental.name_scope("value"):
                    values.append(head(features, 1)[..., 0])
        return Predictions(
            jnp.stack(logits).reshape(tasks, *leading, num_actions),
            jnp.stack(values).reshape(tasks, *leading),
        )

    transformed = hk.without_apply_rng(hk.transform(forward))
    example = jnp.zeros((1, *observation_shape), jnp.float32)

    def init(key: jax.Array) -> hk.Params:
        return transformed.init(key, example)

    if config.precision != "bfloat16":
        return Network(init, transformed.apply, transformed.apply)

    def apply_half(params, observation, tasks: int = num_tasks) -> Predictions:
        params, observation = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, observation))
        predictions = transformed.apply(params, observation, tasks)
        return jax.tree.map(lambda x: x.astype(jnp.float32), predictions)

    return Network(init, apply_half, transformed.apply)


def main_task_params(params: hk.Params) -> hk.Params:
    """The parameters u_0 = (m, x_0, z_0) of torso and main task, which actors need."""
    return {
        name: module for name, module in params.items() if name.startswith(("torso/", "task_0/"))
    }


def acting_policy(network: Network) -> Callable[[hk.Params, jax.Array, jax.Array], tuple]:
    """What actors and evaluators run: (params, observation, keys) -> (action, logits).

    Returns:
      A function of the main task's parameters, uint8 observations [N, H, W, S * C] and a key for
      each of them [N, 2], so that what one draws does not depend on the others; it samples actions
      int32 [N] and gives the policy's logits [N, A].
    """

    def act(params, observation, keys):
        logits = network.apply(params, scale_pixels(observation), 1).logits[0]
        return jax.vmap(jax.random.categorical)(keys, logits), logits

    return act
