"""Learning from a few images, and its meta-gradients: MAML, FOMAML, ANIL and BMG.

    x(0) = w                                      the initialisation that is meta-learned
    x(k) = x(k-1) - alpha grad f(x(k-1))          K steps on the task's support set
    MAML   f'(x(K))                               f': the same loss on the query set
    BMG    mu(target, x(K))                       target: L more steps, on the query set

MAML's code sums the cross-entropy of all classes and divides by the images of one: f is `ways`
times the mean. With the mean itself, the step size 0.01 would have to be 0.05 for 5 classes.

References:
  Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, section 6 and appendix D.
  Finn et al., "Model-Agnostic Meta-Learning", ICML 2017 (MAML, FOMAML).
  Raghu et al., "Rapid Learning or Feature Reuse?", ICLR 2020 (ANIL).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bmg.experiments.few_shot.config import FewShotConfig
from bmg.experiments.few_shot.network import Network, Params, linear
from bmg.experiments.few_shot.tasks import Tasks
from bmg.meta import core, matching, objectives
from bmg.meta.differentiation import inner_gradient
from bmg.meta.matching import Outputs

PyTree = Any


class Examples(NamedTuple):
    """The support or the query set of one task."""

    x: jax.Array  # float32 [N, H, W, C]
    y: jax.Array  # int32 [N]


class Learner(NamedTuple):
    """The inner learner, in one task."""

    params: Params  # x(k)
    features: jax.Array | tuple = ()  # [N, features] of its images, where the head alone learns


class Adaptation(NamedTuple):
    """Learning in one task, as pure functions."""

    start: core.Start  # of `core`; the origin is the support set
    step: core.Step  # on the images that the learner began with
    target_step: core.Step  # on other images, with the step size of the target
    predict: Callable[[Learner, jax.Array], jax.Array]  # learner, [N, H, W, C] -> logits [N, ways]


def class_loss(logits: jax.Array, y: jax.Array, images_per_class: int) -> jax.Array:
    """Cross-entropy: the sum over a batch, over the images of one class; see above.

    Args:
      logits: [N, ways].
      y: [N].
      images_per_class: what the sum is divided by.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.sum(losses) / images_per_class


def accuracy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Share of [N, ways] whose largest is at y [N]."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == y)


def make_adaptation(network: Network, config: FewShotConfig) -> Adaptation:
    """The inner learner that the configuration asks for."""

    def observe(learner, x):
        """With ANIL the convolutions see the images once, however many steps follow."""
        if not config.head_only:
            return learner
        return learner._replace(features=network.features(learner.params, x))

    def start(meta_params, support, key):
        del key
        return observe(Learner(meta_params), support.x)

    def of_images(learner, batch):
        return network.apply(learner.params, batch.x)

    def of_features(learner, batch):
        del batch
        return linear(learner.params.weights.head, learner.features)

    def loss(logits, constants, meta, batch):
        del constants, meta
        return class_loss(logits, batch.y, len(batch.y) // config.ways), ()

    forward = of_features if config.head_only else of_images  # ANIL
    gradient_of = inner_gradient(forward, loss, config.differentiation)

    def step(meta_params, learner, batch, key, rate=config.inner_learning_rate):
        del meta_params, key
        gradient, _ = gradient_of(learner, None, batch)
        if config.first_order:  # FOMAML; it cuts the derivatives of the gradient, not of x(k-1)
            gradient = jax.lax.stop_gradient(gradient)
        weights = jax.tree.map(
            lambda x, g: x - rate * g, learner.params.weights, gradient.params.weights
        )
        return learner._replace(params=learner.params._replace(weights=weights)), ()

    rate = config.target_learning_rate or config.inner_learning_rate

    def target_step(meta_params, learner, batch, key):
        return step(meta_params, observe(learner, batch.x), batch, key, rate)

    def predict(learner, x):
        return network.apply(learner.params, x)

    return Adaptation(start, step, target_step, predict)


def make_objective(adaptation: Adaptation, config: FewShotConfig) -> core.Objective:
    """What the meta-learner minimises in each task, over a `BootstrapBatch` of the query set."""
    if config.objective == "maml":

        def loss(learner, batch, key):
            query = batch.final
            logits = adaptation.predict(learner, query.x)
            # The scale of MAML's code, which the clip of the meta-gradient is meant for.
            return class_loss(logits, query.y, config.shots), {}

        return objectives.final_value(loss)

    def outputs(learner, query):
        return Outputs(adaptation.predict(learner, query.x), params=learner.params.weights)

    return objectives.bootstrapped(
        adaptation.target_step, adaptation.target_step, outputs, make_matching(config),
        config.target_steps,
    )  # fmt: skip


def make_matching(config: FewShotConfig) -> matching.Matching:
    """The distance to a target of that temperature."""
    distance = {**matching.DIVERGENCES, "squared_l2": matching.squared_l2}[config.matching]

    def tempered(target: Outputs, adapted: Outputs) -> jax.Array:
        return distance(target._replace(logits=target.logits / config.temperature), adapted)

    return tempered


class Result(NamedTuple):
    """The meta-gradient of one task, and how well it was learned."""

    gradient: Params
    metrics: dict[str, jax.Array]  # name -> []


def make_task_gradient(
    network: Network, config: FewShotConfig
) -> Callable[[Params, Tasks, jax.Array], Result]:
    """(meta-parameters, one task, key) -> `Result`."""
    adaptation = make_adaptation(network, config)
    objective = make_objective(adaptation, config)
    compute = core.meta_gradient(
        adaptation.start, adaptation.step, objective, config.differentiation
    )
    further = config.target_steps - 1 if config.objective == "bmg" else 0

    def task_gradient(params: Params, task: Tasks, key: jax.Array) -> Result:
        support = Examples(task.support_x, task.support_y)
        query = Examples(task.query_x, task.query_y)
        batch = objectives.BootstrapBatch((query,) * further, query, query)
        found = compute(params, support, (support,) * config.inner_steps, batch, key)
        # The objective has made the same predictions; the compiled program makes them once.
        logits = adaptation.predict(found.next_state, query.x)
        metrics = {
            "meta_loss": found.loss,
            "query_loss": class_loss(logits, query.y, query.y.size),
            "query_accuracy": accuracy(logits, query.y),
        }
        return Result(found.gradient, metrics)

    return task_gradient


def over_tasks(function: Callable, tasks: PyTree, how: str) -> PyTree:
    """Results of `function` of each task, stacked along a leading axis.

    Args:
      function: of one task.
      tasks: a tree of arrays [tasks, ...].
      how: "unrolled", "together" or "loop", see `FewShotConfig.tasks_mapped`.
    """
    if how == "together":
        return jax.vmap(function)(tasks)
    if how == "loop":
        return jax.lax.map(function, tasks)
    count = jax.tree.leaves(tasks)[0].shape[0]
    results = [function(jax.tree.map(lambda x: x[i], tasks)) for i in range(count)]
    return jax.tree.map(lambda *x: jnp.stack(x), *results)


class MetaBatch(NamedTuple):
    """The meta-gradient of a meta-batch."""

    gradient: Params  # mean over tasks
    variance: jax.Array  # [] of one task's: trace of the covariance over tasks / coordinates
    metrics: dict[str, jax.Array]  # means over tasks


def mean_over_tasks(
    task_gradient: Callable[[Params, PyTree, jax.Array], Result],
    params: Params,
    tasks: PyTree,
    keys: jax.Array,
    how: str = "unrolled",
    axis_name: str | None = None,
) -> MetaBatch:
    """The meta-gradient over the tasks at hand, and over those of other devices.

    Args:
      task_gradient: see `make_task_gradient`; of whatever `tasks` holds.
      params: w.
      tasks: those of this device, or what they are drawn with.
      keys: one for each.
      how: see `over_tasks`.
      axis_name: of the devices, each with as many tasks; None for this one alone.
    """
    gradients, metrics = over_tasks(
        lambda inputs: task_gradient(params, *inputs), (tasks, keys), how
    )
    average = functools.partial(jax.lax.pmean, axis_name=axis_name) if axis_name else lambda x: x
    gradient = average(jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients))
    squares = jax.tree.map(lambda g, m: jnp.sum(jnp.square(g - m)), gradients, gradient)
    count = len(keys) * (jax.lax.axis_size(axis_name) if axis_name else 1)
    coordinates = float(sum(x.size for x in jax.tree.leaves(gradient)))
    mean_square = average(sum(jax.tree.leaves(squares)) / len(keys))
    variance = mean_square * count / ((count - 1) * coordinates)
    return MetaBatch(gradient, variance, average(jax.tree.map(jnp.mean, metrics)))
