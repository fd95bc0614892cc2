"""Tasks of few-shot learning: classes and images drawn without replacement, inside the program."""

from __future__ import annotations

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


def sample_task(key: jax.Array, images: jax.Array, ways: int, shots: int, queries: int) -> Tasks:
    """Draws one task; the same key gives the same one.

    Args:
      key: random key.
      images: uint8 [classes, images of a class, H, W, C].
      ways: classes of the task, all different; their order is their labels.
      shots: images of a class to learn from.
      queries: other images of the class, to be told apart.

    Returns:
      The task, without the leading axis of `Tasks`.

    Raises:
      ValueError: there are fewer classes, or images of a class; one line.
    """
    classes, per_class, *shape = images.shape
    if ways > classes:
        raise ValueError(f"{ways} ways; there are {classes} classes.")
    if shots + queries > per_class:
        raise ValueError(
            f"{shots} shots and {queries} queries; a class has {per_class} images, for both."
        )
    class_key, image_key = jax.random.split(key)
    chosen = _without_replacement(class_key, (), classes, ways)
    index = _without_replacement(image_key, (ways,), per_class, shots + queries)
    # Images as rows: on a CPU, XLA collects pixels one by one.
    rows = jnp.asarray(images).reshape(classes * per_class, -1)

    def examples(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        count = index.shape[1]
        drawn = rows[(chosen[:, None] * per_class + index).ravel()].astype(float) / LARGEST
        labels = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), count)
        return drawn.reshape(-1, *shape), labels

    return Tasks(*examples(index[:, :shots]), *examples(index[:, shots:]))


def _without_replacement(key, leading: tuple[int, ...], total: int, count: int) -> jax.Array:
    """int32 [*leading, count], each row different numbers below `total` in random order."""
    return jax.lax.top_k(jax.random.uniform(key, (*leading, total)), count)[1]
