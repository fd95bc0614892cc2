"""Tasks: what may not be twice, and the same key."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from bmg.experiments.few_shot.tasks import sample_task

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.PRNGKey(0)
# Each image is of one value that tells its class and its number.
IMAGES = np.broadcast_to(np.arange(6 * 9, dtype=np.uint8).reshape(6, 9, 1, 1, 1), (6, 9, 2, 2, 1))


@functools.partial(jax.jit, static_argnames=("ways", "shots", "queries", "num_tasks"))
def sample(key, ways=4, shots=2, queries=3, num_tasks=20):
    draw = functools.partial(sample_task, images=IMAGES, ways=ways, shots=shots, queries=queries)
    return jax.vmap(draw)(jax.random.split(key, num_tasks))


def test_classes_and_images_are_drawn_without_replacement():
    tasks = sample(KEY)
    for task in range(20):
        support, query = (
            np.rint(np.asarray(x[task][:, 0, 0, 0]) * 255).astype(int)
            for x in (tasks.support_x, tasks.query_x)
        )
        assert len({*support, *query}) == 4 * (2 + 3)
        support, query = support.reshape(4, 2) // 9, query.reshape(4, 3) // 9
        assert np.all(support == support[:, :1]) and np.all(query == support[:, :1])
        assert len({*support[:, 0]}) == 4
        np.testing.assert_array_equal(tasks.support_y[task], np.repeat(range(4), 2))
        np.testing.assert_array_equal(tasks.query_y[task], np.repeat(range(4), 3))
    assert tasks.support_x.dtype == np.float32 and tasks.support_x.max() <= 1


def test_every_class_and_image_comes_as_often():
    tasks = sample(KEY, ways=2, shots=1, queries=1, num_tasks=2700)
    seen = np.rint(np.concatenate([tasks.support_x, tasks.query_x])[..., 0, 0, 0] * 255)
    counts = np.bincount(seen.astype(int).ravel(), minlength=54)
    assert counts.shape == (54,)
    # 200 each; of a binomial distribution, five standard deviations.
    np.testing.assert_allclose(counts, 200, atol=70)


def test_the_same_key_gives_the_same_tasks():
    jax.tree.map(np.testing.assert_array_equal, sample(KEY), sample(KEY))
    ours, others = (np.asarray(sample(jax.random.PRNGKey(i)).support_x) for i in range(2))
    assert np.any(ours != others)


def test_more_than_there_is_is_refused():
    with pytest.raises(ValueError, match="7 ways; there are 6 classes"):
        sample(KEY, ways=7)
    with pytest.raises(ValueError, match="5 shots and 5 queries; a class has 9 images"):
        sample(KEY, shots=5, queries=5)
