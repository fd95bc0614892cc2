"""Networks: a convolutional torso shared by all tasks, a policy and a value MLP for each task.

References:
  Espeholt et al., "IMPALA", ICML 2018, Fig. 3 (https://arxiv.org/abs/1802.01561).
  Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, Table 2.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from bmg.agents.config import TORSOS, NetworkConfig
from bmg.agents.convolution import conv3x3, strided
from bmg.agents.pooling import max_pool_3x3
from bmg.agents.trajectory import scale_pixels
from bmg.storage.modules import failing_as, load_function


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
    apply: Callable[
        ..., Predictions
    ]  # params, float32 [..., *observation_shape], number of first tasks
    exact: Callable[..., Predictions]  # the same with float32 activations, to compare parameters


_CONTRAST = 4.0  # amplification of centred frames: grey levels then spread over about +-1


def _centered(observation: jax.Array) -> jax.Array:
    """Each frame of [N, H, W, S * C] without its mean brightness, amplified."""
    return _CONTRAST * (observation - _mean_pixel(observation))


def _mean_pixel(observation: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, 1, 1, C]. Of the columns' means, as both at once take a CPU longer."""
    columns = jnp.mean(observation, axis=1, keepdims=True)
    return jnp.mean(columns, axis=2, keepdims=True)


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


# (channels, kernel, stride) of each layer of the plain torsos.
CONVOLUTIONS = {
    "dqn": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),  # Mnih et al., Nature 2015
    "shallow": ((16, 8, 4), (32, 4, 2)),  # Mnih et al., 2013, and A3C: a third of DQN's cost
}


def _kernel(name: str, shape: tuple[int, ...], config: NetworkConfig) -> tuple[jax.Array, ...]:
    """Weights [K, K, C, F] and biases [F], as of Haiku's Conv2D."""
    with hk.experimental.name_scope(name):
        w = hk.get_parameter("w", shape, init=_weights(config.weight_scale))
        return w, hk.get_parameter("b", shape[-1:], init=jnp.zeros)


def _convolutions(x: jax.Array, config: NetworkConfig, torso: str) -> jax.Array:
    """Plain convolutions without padding, a ReLU after each."""
    on_cpu = config.precision != "bfloat16"  # what accelerators are given, unless told otherwise
    for index, (depth, size, stride) in enumerate(CONVOLUTIONS[torso]):
        w, b = _kernel(f"conv_{index}", (size, size, x.shape[-1], depth), config)
        x = jax.nn.relu(strided(x, w, stride, space_to_depth=on_cpu) + b)
    return x


def _minatar(x: jax.Array, config: NetworkConfig) -> jax.Array:
    """A convolution 3x3 of 16 channels without padding (Young & Tian, MinAtar, 2019), as one
    product: XLA's own is slow inside of loops on CPUs."""
    w, b = _kernel("conv_0", (3, 3, x.shape[-1], 16), config)
    return jax.nn.relu(conv3x3(x, w, "im2col", "VALID") + b)


_TORSOS = {
    "resnet": _resnet,
    **{name: functools.partial(_convolutions, torso=name) for name in CONVOLUTIONS},
    "minatar": _minatar,
    "mlp": lambda x, config: x,
}
_LEAST_PIXELS = {"shallow": 36, "dqn": 36, "minatar": 3}
"""Of an image's sides; "auto" takes the first that fits."""


def choose_torso(config: NetworkConfig, observation_shape: Sequence[int]) -> Callable:
    """(x [N, ...], config) -> [N, ...], which fits such observations.

    Raises:
      ValueError: it does not, or there is no such function; one line.
    """
    name, shape = config.torso, tuple(observation_shape)
    pixels = min(shape[:2]) if len(shape) == 3 else 0

    def unfit(needs: str, remedy: str) -> ValueError:
        return ValueError(f"{needs}, and observations are {list(shape)}; {remedy}.")

    fitting = [*(torso for torso, least in _LEAST_PIXELS.items() if pixels >= least), "mlp"]
    if name == "auto":
        name = fitting[0]
    elif name in TORSOS and name != "mlp" and not pixels:
        raise unfit(f"torso {name!r} needs images", "give --agent.network.torso mlp")
    elif pixels < (least := _LEAST_PIXELS.get(name, 0)):
        raise unfit(
            f"torso {name!r} needs images of at least {least}x{least} pixels",
            f"give --agent.network.torso {' or '.join(fitting)}",
        )
    if config.center_frames and not pixels:
        raise unfit("center_frames needs images", "leave it out")
    if name in _TORSOS:
        return _TORSOS[name]
    return load_function(name)


def _features(observation: jax.Array, torso: Callable, config: NetworkConfig) -> jax.Array:
    """[N, ...] -> [N, features]."""
    x = _centered(observation) if config.center_frames else observation
    x = hk.Flatten()(torso(x, config))
    projection = hk.Linear(config.features, w_init=_weights(config.weight_scale), name="projection")
    return jax.nn.relu(projection(x))


class Heads(NamedTuple):
    """Pure functions of a torso and its heads."""

    init: Callable[[jax.Array], hk.Params]  # key -> params
    # params, float32 [..., *observation_shape], names -> [..., size] of each of these heads
    apply: Callable[[hk.Params, jax.Array, Sequence[str]], dict[str, jax.Array]]
    exact: Callable[[hk.Params, jax.Array, Sequence[str]], dict[str, jax.Array]]  # in float32


def make_heads(
    config: NetworkConfig, observation_shape: tuple[int, ...], sizes: Mapping[str, int]
) -> Heads:
    """A torso with an MLP for each head.

    A head's parameters are found under its name, the torso's under "torso"; for some heads, those
    of the torso and of these suffice.

    Args:
      config: the architecture.
      observation_shape: of a stacked observation, (H, W, S * C) or (S * D,).
      sizes: of each head's output, by its name: "policy", or "group/policy". Those of a group
        follow each other.

    Raises:
      ValueError: the torso does not fit such observations; one line.
    """
    torso = choose_torso(config, observation_shape)

    def forward(observation: jax.Array, names: Sequence[str]) -> dict[str, jax.Array]:
        chex.assert_shape(observation, (..., *observation_shape))
        leading = observation.shape[: observation.ndim - len(observation_shape)]
        with hk.experimental.name_scope("torso"):
            flat = observation.reshape(-1, *observation_shape)
            features = _features(flat, torso, config)
        found = {}
        for group, own in itertools.groupby(names, lambda name: name.rpartition("/")[0]):
            with hk.experimental.name_scope(group) if group else contextlib.nullcontext():
                for name in own:
                    with hk.experimental.name_scope(name.rpartition("/")[2]):
                        head = hk.nets.MLP([*config.head_hidden, sizes[name]])(features)
                    found[name] = head.reshape(*leading, sizes[name])
        return found

    transformed = hk.without_apply_rng(hk.transform(forward))
    example = np.zeros((1, *observation_shape), np.float32)

    def init(key: jax.Array) -> hk.Params:
        return transformed.init(key, example, tuple(sizes))

    if config.torso not in TORSOS:
        _check_own_torso(config.torso, init)
    if config.precision != "bfloat16":
        return Heads(init, transformed.apply, transformed.apply)

    def apply_half(params, observation, names) -> dict[str, jax.Array]:
        params, observation = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, observation))
        found = transformed.apply(params, observation, names)
        return jax.tree.map(lambda x: x.astype(jnp.float32), found)

    return Heads(init, apply_half, transformed.apply)


def _check_own_torso(name: str, init: Callable[[jax.Array], hk.Params]) -> None:
    """Builds the network's shapes with it.

    Raises:
      ValueError: it fails; one line.
    """
    with failing_as(f"torso {name} cannot be built"):
        jax.eval_shape(init, jax.ShapeDtypeStruct((2,), np.uint32))


def make_network(
    config: NetworkConfig, observation_shape: tuple[int, ...], num_actions: int, num_tasks: int
) -> Network:
    """Builds the network of `num_tasks` tasks.

    `apply` takes the number of tasks to evaluate: actors and the outer loss need the main task
    only, and for them `main_task_params` suffice.

    Args:
      config: its architecture.
      observation_shape: of a stacked observation, (H, W, S * C) or (S * D,).
      num_actions: A.
      num_tasks: n, main task included.

    Returns:
      `init(key)`, `apply(params, observation [..., *observation_shape], num_tasks)` and `exact`.
    """
    sizes = {}
    for task in range(num_tasks):
        sizes |= {f"task_{task}/policy": num_actions, f"task_{task}/value": 1}
    heads = make_heads(config, observation_shape, sizes)

    def of_tasks(apply):
        def predict(params, observation, tasks: int = num_tasks) -> Predictions:
            found = list(apply(params, observation, tuple(sizes)[: 2 * tasks]).values())
            return Predictions(jnp.stack(found[::2]), jnp.stack(found[1::2])[..., 0])

        return predict

    return Network(heads.init, of_tasks(heads.apply), of_tasks(heads.exact))


def main_task_params(params: hk.Params) -> hk.Params:
    """The parameters u_0 = (m, x_0, z_0) of torso and main task, which actors need."""
    return {
        name: module for name, module in params.items() if name.startswith(("torso/", "task_0/"))
    }


def acting_policy(network: Network) -> Callable[[hk.Params, jax.Array, jax.Array], tuple]:
    """Acts by the main task's policy, see `acting`."""
    return acting(lambda params, observation: network.apply(params, observation, 1).logits[0])


def acting_value(network: Network) -> Callable[[hk.Params, jax.Array], jax.Array]:
    """The main task's value: (parameters, observations [N, ...]) -> [N]."""

    def value(params, observation):
        return network.apply(params, scale_pixels(observation), 1).value[0]

    return value


def acting(policy: Callable[[hk.Params, jax.Array], jax.Array]) -> Callable:
    """What actors and evaluators run: (params, observation, keys) -> (action, logits).

    Args:
      policy: (params, float32 observations [N, ...]) -> logits [N, A].

    Returns:
      A function of the policy's parameters, observations [N, ...] and a key for each of them
      [N, 2], so that what one draws does not depend on the others; it samples actions
      int32 [N] and gives the policy's logits [N, A].
    """

    def act(params, observation, keys):
        logits = policy(params, scale_pixels(observation))
        return jax.vmap(jax.random.categorical)(keys, logits), logits

    return act
