"""One learner update: schedule, optimisers, metrics, and independence of the device count."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bmg.agents.actor_critic import (
    ActorCriticState,
    StepContext,
    descend,
    learning_rate,
    make_optimizer,
)
from bmg.agents.agent import Spec
from bmg.agents.config import AgentConfig, LossConfig, MetaConfig, OptimizerConfig
from bmg.agents.factory import make_agent
from bmg.agents.stacx import hyperparameters, initial_meta_parameters
from bmg.agents.trajectory import UpdateBatch
from bmg.learner.guard import guarded
from tests.agents import oracle
from tests.agents.data import (
    LINEAR,
    NUM_ACTIONS,
    OBSERVATION_SHAPE,
    TINY,
    as_data,
    cast,
    float64,
    params_of,
    random_params,
    random_trajectories,
    with_params,
)

LOSS = LossConfig(discount=255 / 256, entropy_cost=1 / 64, laser_threshold=0.4)
OPTIMIZER = OptimizerConfig(learning_rate=1 / 64, decay_frames=0)


def config_of(
    algorithm: str, loss=LOSS, optimizer=OPTIMIZER, network=LINEAR, **meta
) -> AgentConfig:
    return AgentConfig(
        algorithm=algorithm, network=network, loss=loss, optimizer=optimizer,
        meta=MetaConfig(**meta),
    )  # fmt: skip


def make(config: AgentConfig, frames_per_update: int = 8, axis_name=None):
    """With its guard."""
    return guarded(agent_of(config, axis_name), frames_per_update)


def agent_of(config: AgentConfig, axis_name=None):
    return make_agent(config, Spec(OBSERVATION_SHAPE, NUM_ACTIONS, axis_name))


@functools.lru_cache(None)
def compiled_init(config: AgentConfig):
    return jax.jit(make(config).init)


def init_of(config: AgentConfig):
    """In one program for all whose states begin alike; STACX's is BMG's."""
    algorithm = "impala" if config.algorithm == "impala" else "bmg"
    return compiled_init(
        config_of(algorithm, network=config.network, max_norm=config.meta.max_norm)
    )


def sharp_start(config: AgentConfig):
    """An initial state whose policies are far from uniform."""
    state = init_of(config)(jax.random.PRNGKey(1))
    return with_params(state, random_params(params_of(state), 16))


def shapes_of(agent):
    """The initial state's."""
    return jax.eval_shape(agent.init, jax.random.PRNGKey(0))


@functools.lru_cache(None)
def small_update(config: AgentConfig, frames_per_update: int = 8):
    return jax.jit(make(config, frames_per_update).update)


def batch_of(seed: int, num_extra: int = 0, online: int = 2, replay: int = 4) -> UpdateBatch:
    return UpdateBatch(
        random_trajectories(seed, online),
        random_trajectories(seed + 1, replay),
        tuple(random_trajectories(seed + 2 + i, replay) for i in range(num_extra)),
    )


# Optimisers


@pytest.mark.parametrize(
    "frames, expected", [(0, 1e-4), (50e6, 0.75e-4), (200e6, 0.0), (400e6, 0.0)]
)
def test_learning_rate_falls_linearly_to_zero(frames, expected):
    rate = learning_rate(OptimizerConfig(), jnp.float32(frames))
    np.testing.assert_allclose(rate, expected, rtol=1e-6)


def test_learning_rate_may_be_constant():
    rate = learning_rate(OptimizerConfig(decay_frames=0), jnp.float32(1e9))
    np.testing.assert_allclose(rate, 1e-4, rtol=1e-6)


def test_an_update_uses_the_rate_of_the_frames_before_it():
    """After 3 updates of 100 frames, of 1000: 0.7 of the first rate, in metric and effect."""
    config = config_of("impala", optimizer=OptimizerConfig(learning_rate=0.5, decay_frames=1000))
    constant = config_of("impala", optimizer=OptimizerConfig(learning_rate=0.35, decay_frames=0))
    state = sharp_start(config)._replace(updates=jnp.int32(3))
    new, metrics = small_update(config, 100)(state, batch_of(0))
    expected, _ = small_update(constant, 100)(state, batch_of(0))
    np.testing.assert_allclose(metrics["learner/learning_rate"], 0.35, rtol=1e-6)
    assert new.updates == 4
    for a, b in zip(jax.tree.leaves(new.agent), jax.tree.leaves(expected.agent)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("in_root", [True, False])
def test_descend_is_optaxs_rmsprop(in_root):
    config = OptimizerConfig(epsilon_in_root=in_root, max_norm=0.3, decay=0.9)
    reference = optax.chain(
        optax.clip_by_global_norm(0.3),
        optax.rmsprop(0.02, decay=0.9, eps=1e-4, eps_in_sqrt=in_root),
    )
    rng = np.random.default_rng(0)
    params = {"a": {"w": np.float32(rng.normal(size=(4, 3)))}}
    optimizer = make_optimizer(config)
    own = StepContext(None, None, optimizer, 0.3, 0.02, "mixed", None)
    step = jax.jit(functools.partial(descend, own))

    @jax.jit
    def expected_step(params, state, gradient):
        updates, state = reference.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state, expected = ActorCriticState(params, optimizer.init(params)), params
    expected_state = reference.init(params)
    for scale in (0.01, 1.0, 0.1):  # below the clip, above, above
        gradient = {"a": {"w": np.float32(rng.normal(0, scale, (4, 3)))}}
        state = step(state, gradient)
        expected, expected_state = expected_step(expected, expected_state, gradient)
        np.testing.assert_allclose(state.params["a"]["w"], expected["a"]["w"], rtol=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("max_norm", [0.0, 1e-4])
def test_the_meta_optimiser_is_adam(max_norm):
    """On the meta-gradient of the state, from the second update on; clipped if so configured."""
    config = config_of("bmg", max_norm=max_norm)
    state, w, first, second = sharp_start(config), np.full((6, 3), 4.6), 0.0, 0.0
    for update in range(1, 3):
        state, metrics = small_update(config)(state, batch_of(10 * update))
        g = np.stack(state.agent.meta.gradient).astype(np.float64)
        norm = np.sqrt(np.sum(g**2))
        np.testing.assert_allclose(metrics["meta/gradient_norm"], norm, rtol=1e-5)
        if max_norm:
            assert norm > max_norm
            g *= max_norm / norm
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        mean, square = first / (1 - 0.9**update), second / (1 - 0.999**update)
        step, root = 1e-3 * mean / (np.sqrt(square) + 1e-4), np.sqrt(np.max(square))
        w = w - step
        np.testing.assert_allclose(np.stack(state.agent.meta.params), w, rtol=1e-6)
        # Differences of float32 numbers near 4.6 are multiples of 5e-7.
        np.testing.assert_allclose(
            metrics["meta/update_size"], np.max(np.abs(step)), rtol=1e-3, atol=5e-7
        )
        np.testing.assert_allclose(metrics["meta/step_share"], root / (root + 1e-4), rtol=1e-4)
    assert np.max(np.abs(w - 4.6)) > 1e-5


# Updates


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("num_replay", [0, 4])
def test_impala_is_the_oracles_update(num_replay, reduction):
    """Table 2's loss, clip and RMSProp of the single task, with and without replay."""
    config = config_of("impala", dataclasses.replace(LOSS, reduction=reduction), network=TINY)
    batch = batch_of(0, replay=num_replay)
    state = cast(sharp_start(config), np.float64)
    with float64():
        new, metrics = jax.jit(make(config).update)(state, cast(batch, np.float64))
        new = jax.tree.map(np.asarray, new)
    tau = oracle.join(as_data(batch.online, False), as_data(batch.replay, True))
    p = oracle.Hyper(255 / 256, 1.0, 1.0, 1.0, 1 / 64, 0.25)
    g = oracle.gradient(
        state.agent.params, [p], tau, oracle.Fixed(threshold=0.4, reduction=reduction)
    )
    zeros = jax.tree.map(np.zeros_like, g)
    rms = oracle.Rms(1 / 64, 0.99, 1e-4, 0.3)
    u, _ = oracle.rms_step(state.agent.params, zeros, g, rms)
    np.testing.assert_allclose(metrics["learner/gradient_norm"], oracle.global_norm(g), rtol=1e-6)
    for name in u:
        for k in u[name]:
            np.testing.assert_allclose(new.agent.params[name][k], u[name][k], rtol=1e-9, atol=1e-12)
    assert set(u) == set(new.agent.params)
    assert not [name for name in u if name.startswith("task_1")]


def test_initial_meta_parameters():
    """Logits of 4.6: gamma, lambda, alpha 0.990, costs 0.990 of the outer loss's."""
    hyper = hyperparameters(initial_meta_parameters(3, 4.6), LossConfig())
    expected = np.outer([1, 1, 1, 1, 0.01, 0.25], np.ones(3)) / (1 + np.exp(-4.6))
    np.testing.assert_allclose(np.stack(hyper), expected, rtol=1e-6)


def test_init_is_deterministic():
    init = init_of(config_of("bmg"))
    first, again, other = (init(jax.random.PRNGKey(seed)) for seed in (0, 0, 1))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again)):
        np.testing.assert_array_equal(a, b)
    name = "torso/projection"
    assert np.any(params_of(first)[name]["w"] != params_of(other)[name]["w"])


def test_an_update_keeps_the_states_structure():
    """Types and shapes too: states go round loops and through checkpoints, and a type that is weak
    at first alone compiles the program again."""
    for algorithm in ("impala", "stacx", "bmg", "lpg"):
        agent = make(config_of(algorithm))
        state = shapes_of(agent)
        new, _ = jax.eval_shape(agent.update, state, batch_of(0))
        assert jax.tree.structure(new) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state)):
            assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)


@pytest.mark.parametrize("num_extra", [0, 1, 3])
def test_a_wrong_number_of_replay_batches_is_refused(num_extra):
    agent = make(config_of("bmg", inner_steps=2, target_steps=2))
    with pytest.raises(ValueError, match=f"{num_extra} extra replay batches.* 2"):
        jax.eval_shape(agent.update, shapes_of(agent), batch_of(0, num_extra))


def test_actors_run_the_main_tasks_policy():
    agent, state = agent_of(config_of("bmg")), sharp_start(config_of("bmg"))
    params = params_of(state)
    rng = np.random.default_rng(0)
    observation = rng.integers(0, 256, (4000, *OBSERVATION_SHAPE), dtype=np.uint8)
    observation[:] = observation[0]
    keys = jax.random.split(jax.random.PRNGKey(0), 4000)
    acting = agent.acting_params(state.agent)
    assert {name.split("/")[0] for name in acting} == {"torso", "task_0"}
    action, logits = jax.jit(agent.act)(acting, observation, keys)
    expected, _ = oracle.predict(params, observation.reshape(4000, -1) / 255.0)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert action.shape == (4000,) and action.dtype == np.int32
    frequencies = np.bincount(action, minlength=NUM_ACTIONS) / 4000
    np.testing.assert_allclose(frequencies, oracle.softmax(expected[0]), atol=0.04)


# Metrics


def test_all_meta_parameters_are_in_the_metrics():
    config = config_of("bmg")
    state, metrics = small_update(config)(sharp_start(config), batch_of(0))
    logits = np.stack(state.agent.meta.params)
    shares = oracle.sigmoid(logits)
    outer = {"policy_cost": 1.0, "entropy_cost": 1 / 64, "value_cost": 0.25}
    names = ("discount", "lambda", "alpha", "policy_cost", "entropy_cost", "value_cost")
    for i, name in enumerate(names):
        for task, task_name in enumerate(("main", "auxiliary_1", "auxiliary_2")):
            expected = shares[i, task] * outer.get(name, 1.0)
            np.testing.assert_allclose(metrics[f"meta_{task_name}/{name}"], expected, rtol=1e-5)
            assert metrics[f"meta_{task_name}/{name}_logit"] == logits[i, task]
    assert len([key for key in metrics if key.startswith("meta_")]) == 36
    assert all(value.shape == () for value in metrics.values())
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.heavy
def test_cosine_and_variance_of_consecutive_meta_gradients():
    """Moving averages of decay 0.99: update i of n has the weight 0.99^(n - i), normalised."""
    config = config_of("bmg")
    state, gradients = sharp_start(config), []
    for update in range(3):
        state, metrics = small_update(config)(state, batch_of(10 * update))
        gradients.append(np.concatenate(state.agent.meta.gradient).astype(np.float64))
        if update == 0:
            assert metrics["meta/gradient_cosine"] == 0
            # One gradient has no variance, and rounding must not be divided by.
            assert metrics["meta/gradient_norm_to_variance"] == 0
            continue
        a, b = gradients[-2:]
        cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        np.testing.assert_allclose(metrics["meta/gradient_cosine"], cosine, rtol=1e-4)
        weights = 0.99 ** np.arange(update, -1, -1)
        weights /= weights.sum()
        mean = weights @ np.stack(gradients)
        variance = sum(w * np.sum((g - mean) ** 2) for w, g in zip(weights, gradients))
        np.testing.assert_allclose(metrics["meta/gradient_variance"], variance, rtol=1e-3)
        np.testing.assert_allclose(
            metrics["meta/gradient_norm_to_variance"], np.linalg.norm(b) / variance, rtol=1e-3
        )


# Devices


def split(batch: UpdateBatch, num_devices: int) -> UpdateBatch:
    """Equal shares of the online and of the replayed unrolls for each device."""
    return jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch)


SUM = dataclasses.replace(LOSS, reduction="sum")
CLIPS_LATER = dataclasses.replace(OPTIMIZER, max_norm=30.0)
DEVICE_CASES = {
    "stacx K=2, kl, sum": config_of("stacx", SUM, CLIPS_LATER, inner_steps=2, stacx_kl_weight=1.0),
    "bmg L=2, summed": config_of("bmg", target_steps=2, matching_reduction="sum"),
    "bmg l2, sum": config_of("bmg", SUM, matching="l2", target_optimizer="sgd"),
    "impala, sum": config_of("impala", SUM),
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", DEVICE_CASES)
def test_the_update_does_not_depend_on_the_number_of_devices(name):
    """8 online and 16 replayed unrolls on 1 and 8 devices, or on 4, and without any mapping."""
    config = DEVICE_CASES[name]
    devices = (1, 8) if name == "impala, sum" else (4,)
    assert jax.device_count() >= 8
    state = sharp_start(config)
    batch = batch_of(0, agent_of(config).num_extra_batches, online=8, replay=16)
    expected, expected_metrics = small_update(config)(state, batch)
    assert expected_metrics["learner/gradient_clipped"] == 1
    before = jax.tree.leaves(params_of(state))

    def check(actual, reference, start=None):
        """To 2e-5 of the largest entry; of the largest change, where a start is given."""
        for i, (a, b) in enumerate(zip(jax.tree.leaves(actual), jax.tree.leaves(reference))):
            b = np.asarray(b)
            scale = np.max(np.abs(b if start is None else b - start[i]))
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * scale + 1e-7)

    for num_devices in devices:
        update = jax.pmap(
            make(config, axis_name="devices").update,
            axis_name="devices",
            in_axes=(None, 0),
            devices=jax.devices()[:num_devices],
        )
        actual, metrics = update(state, split(batch, num_devices))
        for d in (0, num_devices - 1):  # every device holds the same
            new = jax.tree.map(lambda x, d=d: np.asarray(x)[d], actual)
            check(params_of(new), params_of(expected), before)
            if config.algorithm == "impala":
                check(new.agent.opt_state, expected.agent.opt_state)
                continue
            check(new.agent.inner.opt_state, expected.agent.inner.opt_state)
            gradient = np.stack(expected.agent.meta.gradient)
            scale = np.max(np.abs(gradient))
            assert scale > 1e-6
            np.testing.assert_allclose(
                np.stack(new.agent.meta.gradient), gradient, rtol=1e-4, atol=1e-5 * scale
            )
            check(new.agent.meta.params, expected.agent.meta.params)
        assert set(metrics) == set(expected_metrics)
        for key, value in expected_metrics.items():
            if "variance" in key:  # rounding alone on a first update
                continue
            np.testing.assert_allclose(metrics[key][0], value, rtol=1e-3, atol=1e-5, err_msg=key)


@pytest.mark.parametrize(
    "config",
    [config_of("bmg", final_data="replay"), config_of("stacx", extra_replay_batches=1)],
)
def test_an_empty_replay_batch_is_refused_where_replay_is_needed(config):
    agent = make(config)
    batch = batch_of(0, num_extra=agent_of(config).num_extra_batches, replay=0)
    with pytest.raises(ValueError, match="replay batch is empty"):
        jax.eval_shape(agent.update, shapes_of(agent), batch)
