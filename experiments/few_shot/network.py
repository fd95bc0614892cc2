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
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

NUM_CONVOLUTIONS = 4
LEAST_SIDE = 2**NUM_CONVOLUTIONS  # of an image, as each maximum halves it
_EPSILON = 1e-3  # of the normalisation: TensorFlow's default, in MAML's code

Convolution = Literal["lax", "im2col", "shifts"]
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
            x = normalise(conv3x3(x, layer.w, layer.b, convolution), offset)
            # The maximum of rectified numbers is the rectified maximum, of a quarter of them.
            x = jax.nn.relu(max_pool(x))
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


def normalise(x: jax.Array, offset: jax.Array) -> jax.Array:
    """Each channel of [N, H, W, C] with mean `offset` [C] and variance 1 over the batch."""
    mean = jnp.mean(x, axis=(0, 1, 2))
    centred = x - mean
    variance = jnp.mean(jnp.square(centred), axis=(0, 1, 2))
    return centred * jax.lax.rsqrt(variance + _EPSILON) + offset


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 maximum with stride 2 of [N, H, W, C]; a last odd row or column is left out.

    The derivative of `reduce_window` takes longer than the convolutions on a CPU. That of `jnp.max`
    divides by how many entries equal the maximum: none does where a program computes them twice and
    rounds in another way, and the gradient is NaN.
    """
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(n, height // 2, 2, width // 2 * 2, channels)
    x = jnp.maximum(x[:, :, 0], x[:, :, 1]).reshape(n, height // 2, width // 2, 2, channels)
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


def conv3x3(
    x: jax.Array, w: jax.Array, b: jax.Array, convolution: Convolution = "lax"
) -> jax.Array:
    """A 3x3 convolution with stride 1, of the same height and width, plus a bias.

    Args:
      x: [N, H, W, C].
      w: [3, 3, C, F].
      b: [F].
      convolution: "lax" is XLA's own. On a CPU it is the quickest, but not inside of a loop (ten
        times slower), nor differentiated twice in reverse mode. "im2col" is one product with all
        nine neighbours side by side, "shifts" the sum of a product for each of them.

    Returns:
      [N, H, W, F].
    """
    if convolution == "lax":
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)
        return y + b
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    if convolution == "shifts":
        return sum(part @ kernel for part, kernel in zip(shifted, w.reshape(9, *w.shape[2:]))) + b
    return jnp.concatenate(shifted, axis=-1) @ w.reshape(-1, w.shape[-1]) + b
