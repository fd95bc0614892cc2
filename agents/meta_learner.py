"""Adam on an agent's meta-parameters, and what is measured of their gradient."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bmg.agents.agent import Metrics, PyTree
from bmg.agents.config import MetaConfig
from bmg.meta import diagnosis
from bmg.meta.optimizers import clip_by_global_norm
from bmg.meta.trees import add_up, squared_norm

_TRACKING_DECAY = 0.99  # of the meta-gradient's moving averages, about 100 updates; ours


class MetaState(NamedTuple):
    """The meta-learner."""

    params: PyTree  # w, before their sigmoids
    opt_state: optax.OptState
    gradient: PyTree  # the last meta-gradient
    gradient_mean: PyTree  # moving average
    gradient_square: PyTree  # moving average of the squares


def make_meta_optimizer(meta: MetaConfig) -> optax.GradientTransformation:
    """Adam on the meta-parameters' logits (BMG Table 2), after an optional clip."""
    adam = optax.adam(meta.learning_rate, meta.b1, meta.b2, meta.epsilon)
    if meta.max_norm:
        return optax.chain(clip_by_global_norm(meta.max_norm), adam)
    return adam


def init_meta(config: MetaConfig, params: PyTree) -> MetaState:
    """The meta-learner at the start."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return MetaState(params, make_meta_optimizer(config).init(params), zeros, zeros, zeros)


def meta_step(config: MetaConfig, state: MetaState, gradient: PyTree) -> tuple[MetaState, Metrics]:
    """One step against the meta-gradient, averaged over devices before."""
    updates, opt_state = make_meta_optimizer(config).update(gradient, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    count = optax.tree.get(opt_state, "count").astype(jnp.float32)  # this step included
    moments, metrics = track_gradient(state, gradient, count)
    new = moments._replace(params=params, opt_state=opt_state)
    return new, metrics | step_size_metrics(config, state.params, new, count)


def track_gradient(
    state: MetaState, gradient: PyTree, count: jax.Array
) -> tuple[MetaState, Metrics]:
    """Norm, cosine similarity of consecutive meta-gradients, norm-to-variance ratio (BMG Table 3).

    The paper does not define its variance; here it is the trace of the meta-gradient's
    covariance over about the last hundred updates, from bias-corrected moving averages.
    """
    decay = _TRACKING_DECAY
    mean = optax.tree.update_moment(gradient, state.gradient_mean, decay, 1)
    square = optax.tree.update_moment(gradient, state.gradient_square, decay, 2)
    weight = 1.0 - decay**count
    total_square = add_up(jnp.sum(x) for x in jax.tree.leaves(square)) / weight
    variance = jnp.maximum(total_square - squared_norm(mean) / weight**2, 0.0)
    norm = diagnosis.norm(gradient)
    tiny = jnp.finfo(jnp.float32).tiny
    metrics = {
        "meta/gradient_norm": norm,
        "meta/gradient_cosine": diagnosis.cosine_similarity(gradient, state.gradient),
        "meta/gradient_variance": variance,
        # A single gradient has no variance yet.
        "meta/gradient_norm_to_variance": jnp.where(
            count > 1, norm / jnp.maximum(variance, tiny), 0.0
        ),
    }
    return state._replace(gradient=gradient, gradient_mean=mean, gradient_square=square), metrics


def step_size_metrics(
    config: MetaConfig, before: PyTree, state: MetaState, count: jax.Array
) -> Metrics:
    """How far the logits moved, and what share of Adam's whole steps the largest one took.

    Adam divides by sqrt(v) + epsilon: where the root mean square of a meta-gradient is far below
    epsilon, its steps are that much smaller than the step size, and lost in float32 in the end.
    """
    moved = jax.tree.map(lambda new, old: jnp.max(jnp.abs(new - old)), state.params, before)
    second_moments = jax.tree.map(jnp.max, optax.tree.get(state.opt_state, "nu"))
    largest = jnp.max(jnp.stack(jax.tree.leaves(second_moments)))
    root = jnp.sqrt(largest / (1.0 - config.b2**count))
    return {
        "meta/update_size": jnp.max(jnp.stack(jax.tree.leaves(moved))),
        "meta/step_share": root / (root + config.epsilon),
    }
