"""Few-shot learning as slow loops in the papers' notation, and small tasks.

A loop's steps are compiled one by one, so that loops of any length share them.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bmg.experiments.few_shot.config import FewShotConfig
from bmg.experiments.few_shot.network import Params, make_network
from bmg.experiments.few_shot.tasks import Tasks

SMALL = FewShotConfig(
    ways=3, shots=2, queries=3, meta_batch=2, filters=4, inner_steps=2, target_steps=2,
    inner_learning_rate=0.1,
)  # fmt: skip
SHAPE = (16, 17, 2)


def small_network(config: FewShotConfig = SMALL):
    return make_network(SHAPE, config.ways, config.filters, config.convolution)


def some_params(config: FewShotConfig = SMALL) -> Params:
    """None of them zero."""
    params = _begin(config)(jax.random.PRNGKey(1))
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(x.dtype), params)


@functools.cache
def _begin(config: FewShotConfig):
    return jax.jit(small_network(config).init)


def some_task(seed: int = 0, config: FewShotConfig = SMALL) -> Tasks:
    """Images that tell their class, and noise."""
    rng = np.random.default_rng(seed)
    classes = rng.uniform(size=(config.ways, 1, *SHAPE))

    def examples(count):
        x = classes + 0.5 * rng.normal(size=(config.ways, count, *SHAPE))
        y = np.repeat(np.arange(config.ways, dtype=np.int32), count)
        return jnp.asarray(x.reshape(-1, *SHAPE), float), jnp.asarray(y)

    return Tasks(*examples(config.shots), *examples(config.queries))


def some_tasks(count: int, config: FewShotConfig = SMALL) -> Tasks:
    return jax.tree.map(lambda *x: jnp.stack(x), *(some_task(i, config) for i in range(count)))


def convolve(x, w):
    """The sum over nine neighbours, those outside of the image being 0, in numpy."""
    padded = np.pad(np.asarray(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    result = np.zeros((*x.shape[:3], w.shape[-1]))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            seen = padded[:, row : row + 3, column : column + 3]
            result[:, row, column] = np.einsum("nijc,ijcf->nf", seen, np.asarray(w))
    return result


def convolve_quickly(x, w):
    """The same, XLA's."""
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def logits(weights, offsets, x, convolve=convolve_quickly):
    """The layers in the order of the papers."""
    for layer, offset in zip(weights.convolutions, offsets):
        y = convolve(x, layer.w) + layer.b
        y = (y - y.mean((0, 1, 2))) / jnp.sqrt(y.var((0, 1, 2)) + 1e-3) + offset
        y = jnp.where(y > 0, y, 0)
        height, width = (size // 2 * 2 for size in y.shape[1:3])
        a, b, c, d = (y[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
        x = jnp.where(a > b, a, b)
        x = jnp.where(x > c, x, c)
        x = jnp.where(x > d, x, d)
    return x.reshape(len(x), -1) @ weights.head.w + weights.head.b


@jax.jit
def predictions(weights, offsets, x):
    """`logits` of the whole batch."""
    return logits(weights, offsets, x)


@jax.jit
def mean_loss(weights, offsets, x, y):
    """Mean negative log-likelihood."""
    log_p = jax.nn.log_softmax(logits(weights, offsets, x))
    return -jnp.mean(log_p[jnp.arange(len(y)), y])


@jax.jit
def descended(weights, offsets, x, y, rate):
    """One step of gradient descent on the mean loss."""
    gradient = jax.grad(mean_loss)(weights, offsets, x, y)
    return jax.tree.map(lambda w, g: w - rate * g, weights, gradient)


def descend(weights, offsets, x, y, steps, rate, head_only=False):
    """Steps of gradient descent."""
    for _ in range(steps):
        moved = descended(weights, offsets, x, y, rate)
        weights = weights._replace(head=moved.head) if head_only else moved
    return weights


def adapted(params: Params, task: Tasks, config: FewShotConfig):
    """x(K): the hidden factor makes the step size `ways` times as large."""
    rate = config.ways * config.inner_learning_rate
    return descend(
        params.weights, params.offsets, task.support_x, task.support_y, config.inner_steps, rate,
        config.head_only,
    )  # fmt: skip


def maml_loss(params: Params, task: Tasks, config: FewShotConfig):
    """The query loss at x(K): in MAML's code a sum over ways x queries, divided by the shots."""
    scale = config.ways * config.queries / config.shots
    weights = adapted(params, task, config)
    return scale * mean_loss(weights, params.offsets, task.query_x, task.query_y)


def target(params: Params, task: Tasks, config: FewShotConfig):
    """Logits of the bootstrapped target on the query set."""
    rate = config.ways * (config.target_learning_rate or config.inner_learning_rate)
    weights = descend(
        adapted(params, task, config), params.offsets, task.query_x, task.query_y,
        config.target_steps, rate, config.head_only,
    )  # fmt: skip
    return predictions(weights, params.offsets, task.query_x) / config.temperature


def bmg_loss(params: Params, task: Tasks, config: FewShotConfig, target_logits):
    """The divergence of x(K) from a target that is a constant."""
    online = predictions(adapted(params, task, config), params.offsets, task.query_x)
    pair = (online, target_logits) if config.matching == "reverse_kl" else (target_logits, online)
    return kullback_leibler(*pair)


@jax.jit
def kullback_leibler(p_logits, q_logits):
    """KL(p, q), the mean over a batch."""
    p, q = jax.nn.softmax(p_logits), jax.nn.softmax(q_logits)
    return jnp.mean(jnp.sum(p * jnp.log(p / q), axis=1))
