"""What is reached without learning: nearest neighbours in pixels."""

from __future__ import annotations

import functools

import jax

from bmg.experiments.few_shot.tasks import sample_task

QUERIES = 5  # of each class, as in BMG appendix D


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def nearest_neighbour_accuracy(
    images: jax.Array, ways: int, shots: int, num_tasks: int, key: jax.Array
) -> jax.Array:
    """Share of queries whose nearest support image, by squared differences of pixels, is of their
    class.

    Args:
      images: uint8 [classes, images of a class, height, width, channels].
      ways: classes of a task; static, as are the next two.
      shots: images of each class in the support.
      num_tasks: how many tasks it is averaged over, with `QUERIES` queries of each class.
      key: random key.
    """

    def accuracy(key: jax.Array) -> jax.Array:
        task = sample_task(key, images, ways, shots, QUERIES)
        support = task.support_x.reshape(ways * shots, -1)
        query = task.query_x.reshape(ways * QUERIES, -1)
        distance = (support**2).sum(1) - 2 * query @ support.T  # without what a query adds to all
        return (task.support_y[distance.argmin(1)] == task.query_y).mean()

    return jax.lax.map(accuracy, jax.random.split(key, num_tasks)).mean()
