"""Tasks: what is drawn, and what is refused."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from bmg.experiments.few_shot import tasks
from bmg.experiments.few_shot.data import neighbours
from bmg.experiments.few_shot.data.sets import DataSet, ImageSet, check_disjoint, check_tasks

pytestmark = pytest.mark.usefixtures("quick_compilation")
CLASSES, COUNT = 12, 9
WAYS, SHOTS, QUERIES, NUM_TASKS = 5, 2, 3, 1000


def numbered() -> np.ndarray:
    """Images of one pixel that holds the number of its class and its own."""
    index = np.indices((CLASSES, COUNT)).astype(np.uint8)
    return index.transpose(1, 2, 0).reshape(CLASSES, COUNT, 1, 1, 2)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _sample(keys, images, *sizes: int) -> tasks.Tasks:
    return jax.vmap(lambda key: tasks.sample_task(key, images, *sizes))(keys)


def keys(seed: int, count: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


def draw(seed: int = 0) -> tasks.Tasks:
    return _sample(keys(seed, NUM_TASKS), numbered(), WAYS, SHOTS, QUERIES)


def decoded(images: jax.Array) -> np.ndarray:
    """[tasks, images, (class, image)]."""
    return np.rint(np.asarray(images)[:, :, 0, 0] * 255).astype(int)


def test_a_task_has_each_class_and_each_image_once_with_its_label():
    drawn = draw()
    assert drawn.support_x.shape == (NUM_TASKS, WAYS * SHOTS, 1, 1, 2)
    assert drawn.query_x.shape == (NUM_TASKS, WAYS * QUERIES, 1, 1, 2)
    assert drawn.support_x.dtype == drawn.query_x.dtype == np.float32
    assert drawn.support_y.dtype == drawn.query_y.dtype == np.int32
    for support, support_y, query, query_y in zip(
        *(x[:50] for x in (decoded(drawn.support_x), np.asarray(drawn.support_y))),
        *(x[:50] for x in (decoded(drawn.query_x), np.asarray(drawn.query_y))),
    ):
        seen = [tuple(x) for x in (*support, *query)]
        assert len(set(seen)) == len(seen) == WAYS * (SHOTS + QUERIES)
        class_of = {}
        for (name, _), label in zip((*support, *query), (*support_y, *query_y)):
            assert class_of.setdefault(int(label), name) == name
        assert sorted(class_of) == list(range(WAYS))
        assert len(set(class_of.values())) == WAYS
        assert [list(support_y).count(label) for label in range(WAYS)] == [SHOTS] * WAYS
        assert [list(query_y).count(label) for label in range(WAYS)] == [QUERIES] * WAYS


def test_the_same_key_gives_the_same_tasks_and_another_one_others():
    for one, same, other in zip(draw(1), draw(1), draw(2)):
        np.testing.assert_array_equal(one, same)
        if one.ndim > 2:
            assert (np.asarray(one) != np.asarray(other)).any()


def test_classes_images_and_labels_are_independent():
    """Counts of 1000 tasks lie within five standard deviations of those expected."""
    support = decoded(draw(3).support_x)
    for share, counts in [
        (SHOTS / COUNT * WAYS / CLASSES, np.zeros((CLASSES, COUNT))),
        (1 / CLASSES, np.zeros((CLASSES, WAYS))),
    ]:
        if counts.shape[1] == COUNT:
            np.add.at(counts, tuple(support.reshape(-1, 2).T), 1)
        else:
            np.add.at(counts, (support[:, ::SHOTS, 0].ravel(), np.tile(range(WAYS), NUM_TASKS)), 1)
        spread = np.sqrt(NUM_TASKS * share * (1 - share))
        assert np.abs(counts - NUM_TASKS * share).max() < 5 * spread


def test_pixels_are_shares_of_255():
    images = np.array([0, 51, 255], np.uint8).reshape(1, 3, 1, 1, 1)
    drawn = _sample(keys(0, 1), images, 1, 1, 2)
    values = np.concatenate([drawn.support_x.ravel(), drawn.query_x.ravel()])
    np.testing.assert_allclose(np.sort(values), [0, 0.2, 1], rtol=1e-6)


def test_more_than_there_is_cannot_be_drawn():
    for ways, shots in [(CLASSES + 1, 1), (2, COUNT)]:
        with pytest.raises(ValueError, match="ways; there are|images, for both"):
            _sample(keys(0, 1), numbered(), ways, shots, 1)


def test_nearest_neighbours_as_a_slow_loop_finds_them():
    images = np.random.default_rng(0).integers(0, 40, (7, 8, 3, 3, 1)).astype(np.uint8)
    images += (np.arange(7) * 8).astype(np.uint8)[:, None, None, None, None]
    key, num_tasks = jax.random.key(5), 20
    right = []
    drawn = _sample(jax.random.split(key, num_tasks), images, 4, 2, neighbours.QUERIES)
    for task in zip(*map(np.asarray, drawn)):
        support_x, support_y, query_x, query_y = (np.asarray(x, np.float64) for x in task)
        for query, label in zip(query_x, query_y):
            far = [((query - x) ** 2).sum() for x in support_x]
            right.append(support_y[np.argmin(far)] == label)
    accuracy = neighbours.nearest_neighbour_accuracy(images, 4, 2, num_tasks, key)
    assert 0.3 < np.mean(right) < 0.95
    assert float(accuracy) == pytest.approx(np.mean(right), abs=1e-6)


def dataset(*names: str) -> DataSet:
    """Splits of 6, 5 and 4 classes with 9 images; `names` are the first class's in each."""
    return DataSet(
        *(
            ImageSet(np.zeros((n, 9, 1, 1, 1), np.uint8), (name, *(f"{n}{i}" for i in range(1, n))))
            for n, name in zip((6, 5, 4), names)
        )
    )


def test_tasks_that_a_split_is_too_small_for_are_refused():
    data = dataset("a", "b", "c")
    splits = [each.images for each in data]
    check_tasks(splits, ways=4, shots=4, queries=5)
    for sizes, words in [
        ((5, 1, 1), ["5 classes", "test split", "has 4", "at most 4"]),
        ((6, 1, 1), ["6 classes", "validation split", "has 5"]),
        ((2, 5, 5), ["5 shots and 5 queries", "train split", "at most 9"]),
    ]:
        with pytest.raises(ValueError) as caught:
            check_tasks(splits, *sizes)
        text = str(caught.value)
        assert "\n" not in text and all(word in text for word in words), text


def test_splits_that_share_a_class_are_refused():
    check_disjoint(dataset("a", "b", "c"))
    with pytest.raises(ValueError, match="class 'a' is in the splits train and test; allowed"):
        check_disjoint(dataset("a", "b", "a"))
