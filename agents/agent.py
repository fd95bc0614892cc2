"""One learner update of any agent: IMPALA, STACX or BMG, chosen by `AgentConfig.algorithm`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from bmg.agents.actor_critic import (
    ActorCritic,
    AgentState,
    StepAux,
    learning_rate,
    make_optimizer,
    make_step,
    mean_over_devices,
)
from bmg.agents.bmg import bmg_objective
from bmg.agents.config import AgentConfig, MetaConfig
from bmg.agents.impala import fixed_hyperparameters
from bmg.agents.losses import Hyperparameters
from bmg.agents.networks import Network, make_network
from bmg.agents.stacx import (
    MetaParameters,
    hyperparameters,
    initial_meta_parameters,
    stacx_objective,
)
from bmg.agents.trajectory import Sequences, Trajectory, concatenate, prepare, scale_pixels
from bmg.meta import core, diagnosis
from bmg.meta.objectives import BootstrapBatch
from bmg.meta.optimizers import clip_by_global_norm
from bmg.meta.trees import add_up, squared_norm


class MetaState(NamedTuple):
    """The meta-learner."""

    params: MetaParameters  # logits [n] of each
    opt_state: optax.OptState
    gradient: MetaParameters  # the last meta-gradient
    gradient_mean: MetaParameters  # moving average
    gradient_square: MetaParameters  # moving average of the squares


class TrainState(NamedTuple):
    """Everything a learner update changes; what a checkpoint holds."""

    agent: AgentState
    meta: MetaState | None  # None for IMPALA
    updates: jax.Array  # int32 [], learner updates so far
    skipped: jax.Array  # int32 [], of these, without effect because something was not finite
    skipped_in_a_row: jax.Array  # int32 [], at the end
    key: jax.Array  # random key


class UpdateBatch(NamedTuple):
    """The data of one learner update, of one device."""

    online: Trajectory  # [B_online] unrolls, each used once
    replay: Trajectory  # [B_replay] unrolls; B_replay may be 0
    extra: tuple[Trajectory, ...]  # (K - 1) + (L - 1) + more replay batches of [B_replay]


class Agent(NamedTuple):
    """An agent as pure functions."""

    network: Network
    init: Callable[[jax.Array], TrainState]  # key -> state
    update: Callable[..., tuple[TrainState, dict[str, jax.Array]]]  # state, UpdateBatch


def task_name(index: int) -> str:
    """Name of a task in metrics."""
    return "main" if index == 0 else f"auxiliary_{index}"


def make_agent(
    config: AgentConfig,
    observation_shape: tuple[int, int, int],
    num_actions: int,
    frames_per_update: int,
    axis_name: str | None = None,
) -> Agent:
    """Builds the agent's pure functions.

    Args:
      config: which agent.
      observation_shape: (H, W, S * C) of a stacked observation.
      num_actions: A.
      frames_per_update: environment frames of one update's online data, on all devices.
      axis_name: the device axis that `update` is mapped over, or None.

    Returns:
      Its network, `init` and `update`.
    """
    network = make_network(config.network, observation_shape, num_actions, config.num_tasks)
    optimizer = make_optimizer(config.optimizer)
    meta_optimizer = make_meta_optimizer(config)

    def init(key: jax.Array) -> TrainState:
        network_key, key = jax.random.split(key)
        params = network.init(network_key)
        meta = None
        if config.algorithm != "impala":
            meta_params = initial_meta_parameters(config.num_tasks, config.meta.initial_logit)
            zeros = jax.tree.map(jnp.zeros_like, meta_params)
            meta = MetaState(meta_params, meta_optimizer.init(meta_params), zeros, zeros, zeros)
        agent = AgentState(params, optimizer.init(params))
        return TrainState(agent, meta, jnp.int32(0), jnp.int32(0), jnp.int32(0), key)

    def update(state: TrainState, batch: UpdateBatch):
        own = ActorCritic(
            network, config.loss, optimizer, config.optimizer.max_norm,
            learning_rate(config.optimizer, state.updates * float(frames_per_update)),
            config.meta.differentiation, axis_name,
        )  # fmt: skip
        next_key, key = jax.random.split(state.key)
        main, extra = prepare_batch(batch, config)
        if config.algorithm == "impala":
            step = make_step(own, fixed_hyperparameters(config.loss))
            agent, aux = step(None, state.agent, main, key)
            meta, metrics = None, {}
        else:
            agent, meta, aux, metrics = meta_update(
                config, own, meta_optimizer, state, main, extra, key,
                num_online=batch.online.action.shape[0],
            )  # fmt: skip
        aux, metrics = mean_over_devices((aux, metrics), axis_name)
        metrics = {**step_metrics(aux), **metrics, "learner/learning_rate": own.step_size}
        new = unless_not_finite(state._replace(agent=agent, meta=meta), state, aux.terms.total)
        metrics["learner/skipped_updates"] = new.skipped.astype(jnp.float32)
        metrics["learner/skipped_in_a_row"] = new.skipped_in_a_row.astype(jnp.float32)
        return new._replace(updates=state.updates + 1, key=next_key), metrics

    return Agent(network, init, update)


def unless_not_finite(new: TrainState, old: TrainState, losses: jax.Array) -> TrainState:
    """`new`, or `old` with one more skipped update where `new` or the losses are not finite."""
    changed = jax.tree.leaves((new.agent, new.meta, losses))
    finite = add_up(jnp.any(~jnp.isfinite(x)) for x in changed) == 0
    kept = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
    return kept._replace(
        skipped=jnp.where(finite, old.skipped, old.skipped + 1),
        skipped_in_a_row=jnp.where(finite, 0, old.skipped_in_a_row + 1),
    )


def make_meta_optimizer(config: AgentConfig) -> optax.GradientTransformation:
    """Adam on the meta-parameters' logits (BMG Table 2), after an optional clip."""
    meta = config.meta
    adam = optax.adam(meta.learning_rate, meta.b1, meta.b2, meta.epsilon)
    if meta.max_norm:
        return optax.chain(clip_by_global_norm(meta.max_norm), adam)
    return adam


def prepare_batch(
    batch: UpdateBatch, config: AgentConfig
) -> tuple[Sequences, tuple[Sequences, ...]]:
    """Stacks and scales all of an update's data once; online sequences come first in `main`."""
    clip = config.loss.max_abs_reward
    if len(batch.extra) != config.num_extra_batches:
        raise ValueError(
            f"{len(batch.extra)} extra replay batches; "
            f"K, L and extra_replay_batches need {config.num_extra_batches}."
        )
    if config.needs_replay and not batch.replay.action.shape[0]:
        raise ValueError("the replay batch is empty, but the agent's settings draw from replay.")
    main = prepare(batch.online, False, clip)
    if batch.replay.action.shape[0]:
        main = concatenate(main, prepare(batch.replay, True, clip))
    return main, tuple(prepare(trajectories, True, clip) for trajectories in batch.extra)


def meta_update(
    config: AgentConfig,
    own: ActorCritic,
    meta_optimizer: optax.GradientTransformation,
    state: TrainState,
    main: Sequences,
    extra: Sequence[Sequences],
    key: jax.Array,
    num_online: int,
) -> tuple[AgentState, MetaState, StepAux, dict[str, jax.Array]]:
    """One STACX or BMG update: K agent steps, the meta-gradient, Adam on the meta-parameters.

    The first K - 1 agent steps use replay alone, the K-th the main batch (BMG appendix C.3).

    Returns:
      The agent, the meta-learner, the last agent step's aux and the meta-learner's metrics.
    """
    meta = config.meta
    first_target = config.num_inner_batches
    first_objective = first_target + config.num_target_batches
    inner_batches = (*extra[:first_target], main)
    objective_data = concatenate(main, *extra[first_objective:])
    step = make_step(own, lambda w: hyperparameters(w, config.loss))
    if config.algorithm == "bmg":
        objective = bmg_objective(own, meta, step)
        replay_only = jax.tree.map(lambda x: x[num_online:], objective_data)
        objective_batch = BootstrapBatch(
            target=extra[first_target:first_objective],
            final=replay_only if meta.final_data == "replay" else objective_data,
            matching=objective_data,
        )
    else:
        objective = stacx_objective(own, meta.stacx_kl_weight, state.agent)
        objective_batch = objective_data

    compute = core.meta_gradient(core.online_start, step, objective, meta.differentiation)
    result = compute(state.meta.params, state.agent, inner_batches, objective_batch, key)
    gradient = mean_over_devices(result.gradient, own.axis_name)
    updates, opt_state = meta_optimizer.update(gradient, state.meta.opt_state)
    meta_params = optax.apply_updates(state.meta.params, updates)

    agent = result.next_state
    if meta.continuation == "recomputed":
        agent = core.unroll(step, meta_params, state.agent, inner_batches, key).states[-1]
    new_meta, metrics = track_gradient(state.meta, gradient, state.updates)
    new_meta = new_meta._replace(params=meta_params, opt_state=opt_state)
    metrics |= step_size_metrics(state.meta.params, new_meta, meta)
    metrics |= {f"meta/{name}": value for name, value in result.metrics.items()}
    metrics |= hyperparameter_metrics(hyperparameters(meta_params, config.loss))
    return agent, new_meta, result.aux[-1], metrics


_TRACKING_DECAY = 0.99  # of the meta-gradient's moving averages, about 100 updates; ours


def track_gradient(
    meta: MetaState, gradient: MetaParameters, updates: jax.Array
) -> tuple[MetaState, dict[str, jax.Array]]:
    """Norm, cosine similarity of consecutive meta-gradients, norm-to-variance ratio (BMG Table 3).

    The paper does not define its variance; here it is the trace of the meta-gradient's
    covariance over about the last hundred updates, from bias-corrected moving averages.
    """
    decay = _TRACKING_DECAY
    mean = optax.tree.update_moment(gradient, meta.gradient_mean, decay, 1)
    square = optax.tree.update_moment(gradient, meta.gradient_square, decay, 2)
    weight = 1.0 - decay ** (updates + 1.0)
    total_square = add_up(jnp.sum(x) for x in jax.tree.leaves(square)) / weight
    variance = jnp.maximum(total_square - squared_norm(mean) / weight**2, 0.0)
    norm = diagnosis.norm(gradient)
    tiny = jnp.finfo(jnp.float32).tiny
    metrics = {
        "meta/gradient_norm": norm,
        "meta/gradient_cosine": diagnosis.cosine_similarity(gradient, meta.gradient),
        "meta/gradient_variance": variance,
        # A single gradient has no variance yet.
        "meta/gradient_norm_to_variance": jnp.where(
            updates > 0, norm / jnp.maximum(variance, tiny), 0.0
        ),
    }
    return meta._replace(gradient=gradient, gradient_mean=mean, gradient_square=square), metrics


def step_size_metrics(
    before: MetaParameters, meta: MetaState, config: MetaConfig
) -> dict[str, jax.Array]:
    """How far the logits moved, and what share of Adam's whole steps the largest one took.

    Adam divides by sqrt(v) + epsilon: where the root mean square of a meta-gradient is far below
    epsilon, its steps are that much smaller than the step size, and lost in float32 in the end.
    """
    moved = jax.tree.map(lambda new, old: jnp.max(jnp.abs(new - old)), meta.params, before)
    count = optax.tree.get(meta.opt_state, "count")
    second_moments = jax.tree.map(jnp.max, optax.tree.get(meta.opt_state, "nu"))
    largest = jnp.max(jnp.stack(jax.tree.leaves(second_moments)))
    root = jnp.sqrt(largest / (1.0 - config.b2 ** count.astype(jnp.float32)))
    return {
        "meta/update_size": jnp.max(jnp.stack(jax.tree.leaves(moved))),
        "meta/step_share": root / (root + config.epsilon),
    }


def step_metrics(aux: StepAux) -> dict[str, jax.Array]:
    """Losses and diagnostics of every task."""
    metrics = {
        "learner/gradient_norm": aux.gradient_norm,
        "learner/gradient_clipped": aux.clipped,
    }
    for task in range(aux.terms.total.shape[0]):
        for name, value in aux.terms._asdict().items():
            metrics[f"loss_{task_name(task)}/{name}"] = value[task]
    return metrics


def hyperparameter_metrics(hyper: Hyperparameters) -> dict[str, jax.Array]:
    """Every meta-learned hyper-parameter of every task, after its sigmoid."""
    return {
        f"meta_{task_name(task)}/{name.rstrip('_')}": value[task]
        for name, value in hyper._asdict().items()
        for task in range(hyper.discount.shape[0])
    }


def acting_policy(network: Network) -> Callable[[hk.Params, jax.Array, jax.Array], tuple]:
    """What actors and evaluators run: (params, observation, keys) -> (action, logits).

    Returns:
      A function of the main task's parameters, uint8 observations [N, H, W, S * C] and a key for
      each of them [N, 2], so that what one draws does not depend on the others; it samples actions
      int32 [N] and gives the policy's logits [N, A].
    """

    def act(params, observation, keys):
        logits = network.apply(params, scale_pixels(observation), 1).logits[0]
        return jax.vmap(jax.random.categorical)(keys, logits), logits

    return act
