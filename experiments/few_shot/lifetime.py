"""Few-shot learning as a lifetime: a window is one meta-batch.

    w' = w - Adam(clip(mean over tasks of the meta-gradient))

Every `evaluate_every` meta-batches, 600 tasks of the validation and of the test classes are learned
from w. Selection is by the former: the best w so far is kept. The latter is what is reported.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bmg.experiments.few_shot.adaptation import (
    MetaBatch,
    make_task_gradient,
    mean_over_tasks,
)
from bmg.experiments.few_shot.config import FewShotConfig
from bmg.experiments.few_shot.evaluation import meta_test
from bmg.experiments.few_shot.network import LEAST_SIDE, Params, make_network
from bmg.experiments.few_shot.tasks import sample_task
from bmg.experiments.lifetime import Lifetime, MetaState, State, alike, share
from bmg.meta.diagnosis import cosine_similarity, norm
from bmg.meta.side_by_side import SHARDS

COLUMNS = (
    "meta_loss", "query_loss", "query_accuracy",
    "meta_gradient_norm", "cosine", "variance", "norm_over_variance",
    "evaluations", "validation_accuracy", "test_accuracy", "test_half_width",
)  # fmt: skip
_VALIDATION, _TEST = 0, 1  # seeds of the tasks of an evaluation

_CHUNK_STEPS = 50  # on accelerators


class Images(NamedTuple):
    """Classes that share no image, uint8 [classes, images of a class, H, W, C] each."""

    train: jax.Array
    validation: jax.Array
    test: jax.Array


class Best(NamedTuple):
    """The initialisation that learns the validation classes best, of those that were evaluated."""

    params: Params
    validation_accuracy: jax.Array  # []; -1 before the first evaluation
    test_accuracy: jax.Array  # []
    meta_batches: jax.Array  # int32 [], when it was


class History(NamedTuple):
    """What a lifetime remembers beside the meta-parameters."""

    gradient: Params  # of the meta-batch before; zeros at first
    meta_batches: jax.Array  # int32 []
    best: Best


def make_optimizer(config: FewShotConfig) -> optax.GradientTransformation:
    """The meta-learner's: an elementwise clip, where there is one, and Adam."""
    clip = optax.clip(config.meta_gradient_clip) if config.meta_gradient_clip else optax.identity()
    return optax.chain(clip, optax.adam(config.meta_learning_rate))


def make_lifetime(config: FewShotConfig, images: Images) -> Lifetime:
    """A lifetime on these images.

    Raises:
      ValueError: the images are too small for the network; one line.
    """
    config = config.settled(jax.default_backend())
    shape = images.train.shape[2:]
    if min(shape[:2]) < LEAST_SIDE:
        raise ValueError(
            f"images of {shape[0]}x{shape[1]} pixels; give at least {LEAST_SIDE} each way."
        )
    network = make_network(shape, config.ways, config.filters, config.convolution)
    task_gradient = make_task_gradient(network, config)
    optimizer = make_optimizer(config)

    def init(key: jax.Array) -> State:
        params_key, key = jax.random.split(key)
        params = network.init(params_key)
        best = Best(params, -jnp.ones(()), jnp.zeros(()), jnp.int32(0))
        history = History(jax.tree.map(jnp.zeros_like, params), jnp.int32(0), best)
        return State(history, MetaState(params, optimizer.init(params)), key)

    def window(state: State, data: Images) -> tuple[State, dict[str, jax.Array]]:
        next_key, sample_key, task_key = jax.random.split(state.key, 3)
        sample_keys = share(jax.random.split(sample_key, config.meta_batch))
        keys = share(jax.random.split(task_key, config.meta_batch))

        def of_drawn(params, sample_key, key):
            sizes = config.ways, config.shots, config.queries
            return task_gradient(params, sample_task(sample_key, data.train, *sizes), key)

        params = state.meta.params
        found = mean_over_tasks(of_drawn, params, sample_keys, keys, config.tasks_mapped, SHARDS)
        updates, opt_state = optimizer.update(found.gradient, state.meta.opt_state)
        meta = MetaState(optax.apply_updates(params, updates), opt_state)
        count = state.agent.meta_batches + 1
        evaluated = evaluate_sometimes(meta.params, count, data, config)
        best = better(state.agent.best, meta.params, count, evaluated)
        values = {**records(found, state.agent.gradient), **evaluated}
        history = History(found.gradient, count, best)
        return State(history, meta, next_key), {name: values[name][None] for name in COLUMNS}

    return Lifetime(
        init, window, 1, 1, COLUMNS, convolves=True, data=images, chunk_steps=_CHUNK_STEPS,
        shards=config.meta_batch,
    )  # fmt: skip


def records(found: MetaBatch, before: Params) -> dict[str, jax.Array]:
    """Of one meta-batch; the meta-gradient as it is before the clip (BMG table 6)."""
    length = norm(found.gradient)
    tiny = jnp.finfo(length.dtype).tiny
    return {
        **found.metrics,
        "meta_gradient_norm": length,
        "cosine": cosine_similarity(found.gradient, before),
        "variance": found.variance,
        "norm_over_variance": length / jnp.maximum(found.variance, tiny),
    }


def evaluate_sometimes(
    params: Params, meta_batches: jax.Array, data: Images, config: FewShotConfig
) -> dict[str, jax.Array]:
    """An evaluation where it is due, or else zeros: where rows of the results are means, dividing
    by the mean of `evaluations` gives what was found."""

    def evaluate(params):
        validation, test = (
            meta_test(params, images, jax.random.PRNGKey(seed), config, SHARDS)
            for seed, images in ((_VALIDATION, data.validation), (_TEST, data.test))
        )
        found = jnp.stack([validation.mean, test.mean, test.half_width])
        # Of logits that are no numbers the largest is the first: an accuracy by chance.
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(params)]))
        return jnp.concatenate([jnp.ones(1), jnp.where(finite, found, jnp.nan)])

    none = jnp.zeros(4)
    if config.evaluate_every > config.steps:  # none is ever due, and none is compiled
        return dict(zip(COLUMNS[-4:], none))
    count = alike(meta_batches)
    # A chunk may go on past the end of a run: what is found there is in none of its results.
    due = (count % config.evaluate_every == 0) & (count <= config.steps)
    values = jax.lax.cond(due, evaluate, lambda params: none, params)
    return dict(zip(COLUMNS[-4:], values))


def better(best: Best, params: Params, count: jax.Array, evaluated: dict[str, jax.Array]) -> Best:
    """The best so far and what was evaluated now; where nothing was, its accuracy counts as 0."""
    new = Best(params, evaluated["validation_accuracy"], evaluated["test_accuracy"], count)
    found = (evaluated["evaluations"] > 0) & (new.validation_accuracy > best.validation_accuracy)
    return jax.tree.map(lambda a, b: jnp.where(found, a, b), new, best)
