"""Few-shot tasks, drawn on the device."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

QUERIES = 5  # of each class where nearest neighbours are measured, as in BMG appendix D


class Tasks(NamedTuple):
    """Tasks side by side; images class by class, in the order of the labels."""

    support_x: jax.Array  # float32 [tasks, ways * shots, height, width, channels] in [0, 1]
    support_y: jax.Array  # int32 [tasks, ways * shots] in 0 ... ways - 1
    query_x: jax.Array  # float32 [tasks, ways * queries, height, width, channels] in [0, 1]
    query_y: jax.Array  # int32 [tasks, ways * queries] in 0 ... ways - 1


def sample_tasks(
    key: jax.Array, images: jax.Array, num_tasks: int, ways: int, shots: int, queries: int
) -> Tasks:
    """Draws tasks; the same key gives the same ones.

    No class is twice in a task, and no image is: one is in the support or a query.

    Args:
      key: random key.
      images: uint8 [classes, images of a class, height, width, channels].
      num_tasks: how many; static, as are the others.
      ways: classes of a task.
      shots: images of each class to learn from.
      queries: images of each class to be classified.
    """
    classes, count = images.shape[:2]
    if classes < ways or count < shots + queries:
        raise ValueError(
            f"tasks of {ways} classes with {shots} + {queries} images were asked of {classes} "
            f"classes with {count}; see check_tasks."
        )

    images = jnp.asarray(images)

    def draw(key: jax.Array) -> Tasks:
        class_key, image_key = jax.random.split(key)
        chosen = jax.random.permutation(class_key, classes)[:ways]
        order = jax.vmap(lambda key: jax.random.permutation(key, count))(
            jax.random.split(image_key, ways)
        )
        picked = images[chosen[:, None], order[:, : shots + queries]]
        picked = picked.astype(jnp.float32) / 255
        support, query = picked[:, :shots], picked[:, shots:]
        labels = jnp.arange(ways, dtype=jnp.int32)
        return Tasks(
            support.reshape(ways * shots, *images.shape[2:]),
            jnp.repeat(labels, shots),
            query.reshape(ways * queries, *images.shape[2:]),
            jnp.repeat(labels, queries),
        )

    return jax.vmap(draw)(jax.random.split(key, num_tasks))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def nearest_neighbour_accuracy(
    images: jax.Array, ways: int, shots: int, num_tasks: int, key: jax.Array
) -> jax.Array:
    """Share of queries whose nearest support image, by squared differences of pixels, is of their
    class: what is reached without learning.

    Args:
      images: uint8 [classes, images of a class, height, width, channels].
      ways: classes of a task; static, as are the next two.
      shots: images of each class in the support.
      num_tasks: how many tasks it is averaged over, with `QUERIES` queries of each class.
      key: random key.
    """

    def accuracy(key: jax.Array) -> jax.Array:
        task = jax.tree.map(lambda x: x[0], sample_tasks(key, images, 1, ways, shots, QUERIES))
        support = task.support_x.reshape(ways * shots, -1)
        query = task.query_x.reshape(ways * QUERIES, -1)
        distance = (support**2).sum(1) - 2 * query @ support.T  # without what a query adds to all
        return (task.support_y[distance.argmin(1)] == task.query_y).mean()

    return jax.lax.map(accuracy, jax.random.split(key, num_tasks)).mean()
