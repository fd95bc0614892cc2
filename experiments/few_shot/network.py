"""The four convolutional layers and the linear one of few-shot learning, as pure functions.

    4 x [convolution 3x3, + bias -> batch normalisation -> ReLU -> 2x2 maximum] -> linear

Normalisation is by the batch at hand, in training and in tests alike: with an offset, without a
scale and without running averages. A prediction depends on the other images of its batch, so
support and query go through the network apart from each other (they are "transductive").

References:
  Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016: the layers.
  Finn et al., "Model-Agnostic Meta-Learning", ICML 2017; the code is github.com/cbfinn/maml.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmg.agents.convolution import Convolution, conv3x3
from bmg.agents.pooling import max_pool_2x2

NUM_CONVOLUTIONS = 4
LEAST_SIDE = 2**NUM_CONVOLUTIONS  # of an image, as each maximum halves it
_EPSILON = 1e-3  # of the normalisation: TensorFlow's default, in MAML's code

Shape = tuple[int, int, int]  # height, width, channels


class Layer(NamedTuple):
    """A convolution or the linear layer."""

    w: jax.Array  # float32 [3, 3, inputs, outputs] or [inputs, outputs]
    b: jax.Array  # float32 [outputs]


class Weights(NamedTuple):
    """What the inner learner adapts: all of it, or with ANIL the head."""

    convolutions: tuple[Layer, ...]  # 4
    head: Layer


class Params(NamedTuple):
    """The initialisation that is meta-learned, and a task's copy of it."""

    weights: Weights
    offsets: tuple[jax.Array, ...]  # 4 x float32 [filters], of the normalisation; never adapted


class Network(NamedTuple):
    """Pure functions of one batch of images."""

    init: Callable[[jax.Array], Params]  # key -> params
    features: Callable[[Params, jax.Array], jax.Array]  # params, [N, H, W, C] -> [N, features]
    apply: Callable[[Params, jax.Array], jax.Array]  # params, [N, H, W, C] -> logits [N, ways]


def make_network(
    shape: Shape, ways: int, filters: int, convolution: Convolution = "lax"
) -> Network:
    """The network for images of a shape.

    Args:
      shape: of an image, [H, W, C]; each side at least 16, as four maxima halve it.
      ways: classes of a task.
      filters: of each convolution.
      convolution: how it is computed, see `conv3x3`; the result is the same.
    """
    height, width, channels = shape

    def init(key):
        keys = jax.random.split(key, NUM_CONVOLUTIONS + 1)
        inputs = (channels,) + (filters,) * (NUM_CONVOLUTIONS - 1)
        convolutions = tuple(_xavier(k, (3, 3, n, filters)) for k, n in zip(keys, inputs))
        size = (height >> NUM_CONVOLUTIONS) * (width >> NUM_CONVOLUTIONS) * filters
        offsets = (jnp.zeros(filters),) * NUM_CONVOLUTIONS
        return Params(Weights(convolutions, _xavier(keys[-1], (size, ways))), offsets)

    def features(params, x):
        for layer, offset in zip(params.weights.convolutions, params.offsets):
            # The bias changes nothing, as the mean is taken away; its gradient is zero.
            x = normalise_and_halve(conv3x3(x, layer.w, convolution), offset)
        return x.reshape(x.shape[0], -1)

    def apply(params, x):
        return linear(params.weights.head, features(params, x))

    return Network(init, features, apply)


def _xavier(key: jax.Array, shape: tuple[int, ...]) -> Layer:
    w = jax.nn.initializers.glorot_uniform()(key, shape)
    return Layer(w, jnp.zeros(shape[-1], w.dtype))


def linear(layer: Layer, x: jax.Array) -> jax.Array:
    """[N, inputs] -> [N, outputs]."""
    return x @ layer.w + layer.b


def normalise_and_halve(x: jax.Array, offset: jax.Array) -> jax.Array:
    """Normalises each channel over the batch, rectifies it, and takes the maxima of 2x2 pixels.

    Mean and variance are those of all pixels. As they and the offset are the same for all pixels
    of a channel, the maxima may come first: the rest has a quarter to do.

    Args:
      x: [N, H, W, C]; a last odd row or column counts for the mean and variance alone.
      offset: [C], what the mean becomes.

    Returns:
      [N, H // 2, W // 2, C].
    """
    mean = channel_means(x)
    variance = channel_means(jnp.square(x - mean))
    return jax.nn.relu((max_pool_2x2(x) - mean) * jax.lax.rsqrt(variance + _EPSILON) + offset)


def channel_means(x: jax.Array) -> jax.Array:
    """[..., C] -> [C], as a product with ones: XLA's sums take six times longer on a CPU."""
    pixels = x.reshape(-1, x.shape[-1])
    return jnp.full(len(pixels), 1 / len(pixels), x.dtype) @ pixels
