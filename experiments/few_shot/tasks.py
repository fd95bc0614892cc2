"""Tasks of few-shot learning: classes and images drawn without replacement, inside the program."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

LARGEST = 255.0  # of a stored pixel


class Tasks(NamedTuple):
    """Classification tasks, of a batch or one; images are grouped by class."""

    support_x: jax.Array  # float32 [tasks, ways * shots, H, W, C] in [0, 1]
    support_y: jax.Array  # int32 [tasks, ways * shots]
    query_x: jax.Array  # float32 [tasks, ways * queries, H, W, C]
    query_y: jax.Array  # int32 [tasks, ways * queries]


def sample_tasks(keys: jax.Array, images: jax.Array, ways: int, shots: int, queries: int) -> Tasks:
    """Draws tasks; the same key gives the same one.

    Args:
      keys: random keys, one for each task.
      images: uint8 [classes, images of a class, H, W, C].
      ways: classes of a task, all different; their order is their labels.
      shots: images of a class to learn from.
      queries: other images of the class, to be told apart.

    Raises:
      ValueError: there are fewer classes, or images of a class; one line.
    """
    classes, per_class = images.shape[:2]
    if ways > classes:
        raise ValueError(f"{ways} ways; there are {classes} classes.")
    if shots + queries > per_class:
        raise ValueError(
            f"{shots} shots and {queries} queries; a class has {per_class} images, for both."
        )
    sample = functools.partial(sample_task, images=images, ways=ways, shots=shots, queries=queries)
    return jax.vmap(sample)(keys)


def sample_task(key: jax.Array, images: jax.Array, ways: int, shots: int, queries: int) -> Tasks:
    """One task, without the leading axis."""
    class_key, image_key = jax.random.split(key)
    classes = _without_replacement(class_key, (), images.shape[0], ways)
    index = _without_replacement(image_key, (ways,), images.shape[1], shots + queries)
    drawn = (
        jnp.asarray(images)[classes[:, None], index].astype(float) / LARGEST
    )  # [ways, shots + queries, ...]

    def flat(x):
        return x.reshape(-1, *x.shape[2:])

    def labels(count):
        return jnp.repeat(jnp.arange(ways, dtype=jnp.int32), count)

    support, query = drawn[:, :shots], drawn[:, shots:]
    return Tasks(flat(support), labels(shots), flat(query), labels(queries))


def _without_replacement(key, leading: tuple[int, ...], total: int, count: int) -> jax.Array:
    """int32 [*leading, count], each row different numbers below `total` in random order."""
    return jax.lax.top_k(jax.random.uniform(key, (*leading, total)), count)[1]
