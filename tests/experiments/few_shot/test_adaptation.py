"""Meta-gradients of few-shot learning: slow loops, finite differences, identities, devices."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from bmg.experiments.few_shot import adaptation
from bmg.experiments.few_shot.adaptation import Examples, make_adaptation, make_task_gradient
from bmg.experiments.few_shot.config import FewShotConfig
from bmg.meta.core import unroll
from bmg.storage.fields import FieldError
from tests.experiments.few_shot import oracle
from tests.experiments.few_shot.oracle import SMALL, small_network, some_params, some_task

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.heavy]
KEY = jax.random.PRNGKey(0)
MAML = dataclasses.replace(SMALL, objective="maml")
SHORT = dataclasses.replace(MAML, inner_steps=1)


@functools.cache
def task_gradient(config: FewShotConfig):
    return jax.jit(make_task_gradient(small_network(config), config))


def meta_gradient(config: FewShotConfig, params, task):
    return task_gradient(config)(params, task, KEY)


def assert_close(found, expected, rtol=1e-8, atol=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), found, expected)


def learned(config: FewShotConfig, params, task):
    """x(K)."""
    return learner(config)(params, task).params


@functools.cache
def learner(config: FewShotConfig):
    inner = make_adaptation(small_network(config), config)

    def learn(params, task):
        support = Examples(task.support_x, task.support_y)
        batches = (support,) * config.inner_steps
        return unroll(inner.step, params, inner.start(params, support, KEY), batches, KEY).states[
            -1
        ]

    return jax.jit(learn)


query_gradient = jax.jit(jax.grad(oracle.mean_loss, (0, 1)))


def difference(loss, params, epsilon=1e-8):
    """A direction, and the central difference along it: too short to meet a kink of the ReLUs."""
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
    ahead, behind = (
        loss(jax.tree.map(lambda x, d: x + sign * epsilon * d, params, direction))
        for sign in (1, -1)
    )
    return direction, (ahead - behind) / (2 * epsilon)


def along(direction, gradient):
    return sum(jax.tree.leaves(jax.tree.map(lambda d, g: np.sum(d * g), direction, gradient)))


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("differentiation", ["mixed", "plain"])
def test_mamls_meta_gradient_is_that_of_a_loop_of_two_steps(differentiation):
    config = dataclasses.replace(MAML, differentiation=differentiation)
    params, task = some_params(), some_task()
    found = meta_gradient(config, params, task)

    def loss(params):
        return oracle.maml_loss(params, task, config)

    value, expected = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(found.metrics["meta_loss"], value, rtol=1e-10)
    assert_close(found.gradient, expected)
    assert min(np.abs(x).max() for x in found.gradient.offsets) > 1e-4
    direction, slope = difference(loss, params)
    np.testing.assert_allclose(along(direction, found.gradient), slope, rtol=1e-5)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"matching": "reverse_kl", "inner_steps": 1, "target_steps": 1},
        {"temperature": 2.0, "inner_steps": 1, "target_learning_rate": 0.2},
        {"head_only": True},
    ],
    ids=str,
)
def test_bmgs_meta_gradient_is_that_of_a_loop_with_its_target_frozen(options):
    config = dataclasses.replace(SMALL, **options)
    params, task = some_params(), some_task()
    found = meta_gradient(config, params, task)
    frozen = oracle.target(params, task, config)

    def loss(params):
        return oracle.bmg_loss(params, task, config, frozen)

    value, expected = jax.value_and_grad(loss)(params)
    assert value > 1e-4
    np.testing.assert_allclose(found.metrics["meta_loss"], value, rtol=1e-8)
    assert_close(found.gradient, expected)
    direction, slope = difference(loss, params)
    np.testing.assert_allclose(along(direction, found.gradient), slope, rtol=1e-5)


@pytest.mark.usefixtures("doubles")
def test_fomaml_is_the_gradient_at_the_adapted_parameters():
    params, task = some_params(), some_task()
    found = meta_gradient(dataclasses.replace(MAML, first_order=True), params, task)
    after = learned(MAML, params, task)
    scale = MAML.ways * MAML.queries / MAML.shots
    expected = query_gradient(after.weights, after.offsets, task.query_x, task.query_y)
    assert_close(tuple(found.gradient), jax.tree.map(lambda x: scale * x, expected))
    exact = meta_gradient(MAML, params, task).gradient
    assert np.abs(exact.weights.head.w - found.gradient.weights.head.w).max() > 1e-3


@pytest.mark.usefixtures("doubles")
def test_anil_changes_the_head_alone_and_learns_everything():
    config = dataclasses.replace(MAML, head_only=True)
    params, task = some_params(), some_task()
    after = learned(config, params, task)
    assert_close(after.weights.convolutions, params.weights.convolutions, 0, 0)
    assert_close(after.offsets, params.offsets, 0, 0)
    assert np.abs(after.weights.head.w - params.weights.head.w).min() > 0
    found = meta_gradient(config, params, task)
    expected = jax.grad(lambda params: oracle.maml_loss(params, task, config))(params)
    assert_close(found.gradient, expected)
    # A bias before the normalisation has no influence.
    learned_weights = [layer.w for layer in found.gradient.weights.convolutions]
    assert all(np.abs(x).max() > 1e-4 for x in [*learned_weights, *found.gradient.offsets])


@pytest.mark.usefixtures("doubles")
def test_the_inner_learner_adapts_all_weights_and_no_offset():
    params, task = some_params(), some_task()
    after = learned(MAML, params, task)
    assert_close(after.offsets, params.offsets, 0, 0)
    for new, old in zip(after.weights.convolutions, params.weights.convolutions):
        assert np.abs(new.w - old.w).max() > 1e-3


@pytest.mark.usefixtures("doubles")
def test_a_target_of_half_a_gradient_step_and_l2_are_maml():
    """BMG appendix C.1. The offsets, which no step moves, have no part in the distance: their
    gradient lacks what they change at x(K) itself."""
    config = dataclasses.replace(SMALL, inner_steps=1, queries=SMALL.shots)  # one scale of the loss
    params, task = some_params(), some_task(config=config)
    half = dataclasses.replace(
        config, matching="squared_l2", target_steps=1, target_learning_rate=0.5
    )
    found = meta_gradient(half, params, task).gradient
    exact = meta_gradient(dataclasses.replace(config, objective="maml"), params, task).gradient
    after = learned(config, params, task)
    _, direct = query_gradient(after.weights, after.offsets, task.query_x, task.query_y)
    assert_close(found.weights, exact.weights)
    assert_close(
        found.offsets, jax.tree.map(lambda e, d: e - config.ways * d, exact.offsets, direct)
    )


@pytest.mark.usefixtures("doubles")
def test_the_hidden_factor_five():
    """A step of 0.01 on the code's sum over 25 images / 5 is one of 0.05 on their mean."""
    config = dataclasses.replace(
        SMALL, ways=5, shots=4, inner_steps=1, inner_learning_rate=FewShotConfig.inner_learning_rate
    )
    assert config.inner_learning_rate == 0.01
    params, task = some_params(config), some_task(config=config)
    after = learned(config, params, task)
    gradient, _ = query_gradient(params.weights, params.offsets, task.support_x, task.support_y)
    expected = jax.tree.map(lambda x, g: x - 0.05 * np.asarray(g), params.weights, gradient)
    assert_close(after.weights, expected)
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [1.0, 1.0]])
    y = np.array([0, 0, 1, 1])
    likelihoods = np.exp(logits[np.arange(4), y]) / np.exp(logits).sum(1)
    found = jax.jit(adaptation.class_loss)(logits, y, 2)
    np.testing.assert_allclose(found, -np.log(likelihoods).sum() / 2)


def test_support_and_query_have_statistics_of_their_own():
    """Support images of another brightness leave the statistics of the query as they are."""
    config = dataclasses.replace(SHORT, inner_learning_rate=1e-30)
    params, task = some_params(), some_task()
    apply = jax.jit(small_network(config).apply)
    alone = apply(params, task.query_x)
    together = apply(params, np.concatenate([task.support_x + 1, task.query_x]))
    assert np.abs(together[-len(alone) :] - alone).max() > 0.1
    bright = meta_gradient(config, params, task._replace(support_x=3 * task.support_x + 1))
    expected = oracle.mean_loss(params.weights, params.offsets, task.query_x, task.query_y)
    np.testing.assert_allclose(bright.metrics["query_loss"], expected, rtol=1e-4)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("how", ["unrolled", "together", "loop"])
def test_the_mean_and_the_variance_over_tasks(how):
    """However they are mapped."""
    params, tasks, keys = some_params(), oracle.some_tasks(2), jax.random.split(KEY, 2)
    mean_over_tasks = functools.partial(
        adaptation.mean_over_tasks, make_task_gradient(small_network(), SHORT), how=how
    )
    found = jax.jit(mean_over_tasks)(params, tasks, keys)
    each = [meta_gradient(SHORT, params, some_task(i)) for i in range(2)]
    flat = np.stack(
        [np.concatenate([np.ravel(x) for x in jax.tree.leaves(r.gradient)]) for r in each]
    )
    mean = np.concatenate([np.ravel(x) for x in jax.tree.leaves(found.gradient)])
    np.testing.assert_allclose(mean, flat.mean(0), atol=1e-10)
    np.testing.assert_allclose(found.variance, flat.var(0, ddof=1).sum() / flat.shape[1], rtol=1e-8)
    for name, value in found.metrics.items():
        np.testing.assert_allclose(value, np.mean([r.metrics[name] for r in each]), rtol=1e-8)
    correct = [9 * float(r.metrics["query_accuracy"]) for r in each]  # of 9 queries
    np.testing.assert_allclose(correct, np.rint(correct), atol=1e-5)


def test_a_meta_batch_over_devices_is_that_of_one():
    devices = jax.devices()
    assert len(devices) == 8
    count = 2 * len(devices)
    params, tasks, keys = some_params(), oracle.some_tasks(count), jax.random.split(KEY, count)
    task_gradient = make_task_gradient(small_network(), SHORT)

    def mean(axis_name):
        def of_tasks(params, tasks, keys):
            return adaptation.mean_over_tasks(
                task_gradient, params, tasks, keys, "together", axis_name
            )

        return of_tasks

    one = jax.jit(mean(None))(params, tasks, keys)
    split, whole = PartitionSpec("tasks"), PartitionSpec()
    sharded = jax.jit(
        jax.shard_map(
            mean("tasks"), mesh=Mesh(np.array(devices), ("tasks",)),
            in_specs=(whole, split, split), out_specs=whole, check_vma=False,
        )
    )  # fmt: skip
    assert_close(sharded(params, tasks, keys), one, 1e-3, 1e-5)


def test_no_inner_step_is_refused():
    with pytest.raises(FieldError) as error:
        FewShotConfig(inner_steps=0)
    assert str(error.value) == "inner_steps is 0; allowed are integers from 1 to 1000."
