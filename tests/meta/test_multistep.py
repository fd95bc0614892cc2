"""n-step and mixed meta-gradients against Bonnet et al.'s equations, term by term in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.meta import core, diagnosis
from bmg.meta.differentiation import accumulative_trace
from bmg.meta.objectives import (
    BootstrapBatch,
    bootstrapped,
    final_value,
    mixed_value,
    mixture_weights,
)

pytestmark = pytest.mark.usefixtures("doubles", "quick_compilation")

KEY = jax.random.PRNGKey(0)
RATE = 0.3  # alpha
THETA, ETA = np.array([0.4, -0.7, 0.2]), np.array([0.6, -0.3])
DATA = np.random.default_rng(0).normal(size=(5, 3, 2))  # tau^(0) ... tau^(4)
VALIDATION = np.array([0.3, -0.1, 0.8])


def inner_loss(theta, eta, data):
    """L(theta, eta, tau): curved in theta, and mixed in theta and eta."""
    return jnp.sum(jnp.tanh(theta * (data @ eta)) ** 2) + 0.1 * jnp.sum(theta**4) * jnp.exp(eta[0])


def linear_loss(theta, eta, data):
    """Without curvature in theta: H = 0."""
    return jnp.sum(theta * jnp.sin(data @ eta))


def descend(loss):
    def step(eta, theta, data, key):
        return theta - RATE * jax.grad(loss)(theta, eta, data), ()

    return step


def outer_loss(theta, batch, key):
    return jnp.sum((jnp.sin(2 * theta) - batch) ** 2), {"first": theta[0]}


@functools.lru_cache(None)
def derivatives(loss):
    """(theta, data) -> the gradient in theta, and N and H of equation 11."""
    slope = jax.grad(loss)

    @jax.jit
    def of(theta, data):
        N = -RATE * jax.jacobian(slope, argnums=1)(theta, ETA, data)
        H = -RATE * jax.hessian(loss)(theta, ETA, data)
        return slope(theta, ETA, data), N, H

    return of


outer_slope = jax.jit(jax.grad(lambda theta: outer_loss(theta, VALIDATION, None)[0]))


def equation_11(loss, steps, decay=None):
    """T_n sum_i (prod_{j=1}^{i-1} (I + H_{n-j})) N_{n-i}, with explicit Hessians.

    With a decay, (I + H) is decay times I: the accumulative trace.
    """
    thetas, found = [THETA], []
    for data in DATA[:steps]:
        found.append([np.asarray(x) for x in derivatives(loss)(thetas[-1], data)])
        thetas.append(thetas[-1] - RATE * found[-1][0])
    T = np.asarray(outer_slope(thetas[steps]))
    total, product = 0.0, np.eye(3)
    for i in range(1, steps + 1):
        _, N, H = found[steps - i]
        total += T @ product @ N
        product = product @ (np.eye(3) + H if decay is None else decay * np.eye(3))
    return total, thetas


def meta_gradient(step, objective, steps, batch=VALIDATION):
    compute = jax.jit(core.meta_gradient(core.online_start, step, objective))
    return compute(ETA, THETA, tuple(DATA[:steps]), batch, KEY)


@pytest.mark.parametrize("steps", [1, 3])  # the order of two products (I + H) shows
def test_the_n_step_meta_gradient_is_equation_11(steps):
    expected, thetas = equation_11(inner_loss, steps)
    result = meta_gradient(descend(inner_loss), final_value(outer_loss, "first"), steps)
    np.testing.assert_allclose(result.gradient, expected, rtol=1e-10)
    # What is kept is the first update alone.
    np.testing.assert_allclose(result.next_state, thetas[1], rtol=1e-12)
    result = meta_gradient(descend(inner_loss), final_value(outer_loss), steps)
    np.testing.assert_allclose(result.next_state, thetas[steps], rtol=1e-12)


@pytest.mark.parametrize("kappa", [None, 0.0, 0.3, 1.0])
def test_the_mixture_is_the_weighted_sum_of_n_step_meta_gradients(kappa):
    steps = 3
    weights = mixture_weights(steps, kappa)
    result = meta_gradient(descend(inner_loss), mixed_value(outer_loss, weights), steps)
    parts = [equation_11(inner_loss, i + 1)[0] for i in range(steps)]
    expected = sum(weight * part for weight, part in zip(weights, parts))
    np.testing.assert_allclose(result.gradient, expected, rtol=1e-10)
    np.testing.assert_allclose(result.next_state, equation_11(inner_loss, 1)[1][1], rtol=1e-12)


def test_each_loss_of_a_mixture_has_its_own_key():
    seen = []

    def loss(theta, batch, key):
        seen.append(key)
        return jnp.sum(theta), {}

    objective = mixed_value(loss, (0.5, 0.0, 0.5))
    objective(None, core.Unroll((0.0, 1.0, 2.0, 3.0), ()), None, KEY)
    assert len(seen) == 2 and not np.array_equal(*seen)


def test_mixture_weights_are_the_papers():
    np.testing.assert_allclose(mixture_weights(3), np.array([9, 6, 4]) / 19)
    np.testing.assert_allclose(
        mixture_weights(5), [0.2975, 0.2380, 0.1904, 0.1523, 0.1218], atol=5e-5
    )
    for steps in (1, 2, 7):
        for kappa in (None, 0.0, 0.4, 1.0):
            assert sum(mixture_weights(steps, kappa)) == pytest.approx(1)
        np.testing.assert_allclose(mixture_weights(steps, 1.0), np.full(steps, 1 / steps))
        assert mixture_weights(steps, 0.0) == (1.0, *[0.0] * (steps - 1))
    kappa, steps = 0.6, 4
    np.testing.assert_allclose(
        mixture_weights(steps, kappa),
        [kappa ** (i - 1) * (1 - kappa) / (1 - kappa**steps) for i in (1, 2, 3, 4)],
    )


@pytest.mark.parametrize(("steps", "kappa", "words"), [
    (0, None, "0 steps"), (3, -0.1, "kappa is -0.1"), (3, 1.5, "kappa is 1.5"),
])  # fmt: skip
def test_mixtures_that_are_none(steps, kappa, words):
    with pytest.raises(ValueError, match=words):
        mixture_weights(steps, kappa)


def test_as_many_weights_as_steps():
    with pytest.raises(ValueError, match="2 weights for 3 steps"):
        meta_gradient(descend(inner_loss), mixed_value(outer_loss, (0.5, 0.5)), 3)


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_accumulative_trace_has_powers_for_hessians(decay, steps):
    expected, thetas = equation_11(inner_loss, steps, decay)
    step = accumulative_trace(descend(inner_loss), decay)
    result = meta_gradient(step, final_value(outer_loss), steps)
    np.testing.assert_allclose(result.gradient, expected, rtol=1e-10)
    np.testing.assert_allclose(result.next_state, thetas[steps], rtol=1e-12)


def test_the_accumulative_trace_is_exact_without_curvature():
    exact = meta_gradient(descend(linear_loss), final_value(outer_loss), 4)
    step = accumulative_trace(descend(linear_loss), 1.0)
    traced = meta_gradient(step, final_value(outer_loss), 4)
    np.testing.assert_allclose(traced.gradient, exact.gradient, rtol=1e-12)
    with pytest.raises(ValueError, match="decay is 1.5"):
        accumulative_trace(step, 1.5)


def test_a_mixture_of_targets_is_the_weighted_sum_of_bootstrapped_losses():
    """Each with its own final step; the learner goes on from x(K) all the same."""
    length, weights = 3, (0.2, 0.3, 0.5)
    step = descend(inner_loss)

    def final_step(eta, theta, data, key):
        return theta - RATE * jax.grad(lambda x: outer_loss(x, data, key)[0])(theta), ()

    def of(num_steps, weights=None):
        objective = bootstrapped(
            step,
            final_step,
            predict=lambda theta, inputs: theta,
            matching=lambda target, online: jnp.sum((target - online) ** 2),
            num_target_steps=num_steps,
            weights=weights,
        )
        batch = BootstrapBatch(target=tuple(DATA[1:num_steps]), final=VALIDATION)
        return meta_gradient(step, objective, 1, batch)

    mixed = of(length, weights)
    alone = [of(i + 1) for i in range(length)]
    for name in ("gradient", "loss"):
        expected = sum(w * getattr(result, name) for w, result in zip(weights, alone))
        np.testing.assert_allclose(getattr(mixed, name), expected, rtol=1e-10)
    np.testing.assert_allclose(mixed.next_state, alone[0].next_state)
    with pytest.raises(ValueError, match="2 weights for L = 3"):
        of(length, (0.5, 0.5))


def test_moments_are_those_of_the_estimates():
    def estimate(key):
        draw = jax.random.normal(key, (3,))
        return {"a": draw[:2] * jnp.array([1.0, 3.0]) + 5.0, "b": draw[2]}

    moments = jax.jit(lambda key: diagnosis.monte_carlo(estimate, key, 40, 7))(KEY)
    one = jax.jit(estimate)
    draws = [one(key) for key in np.asarray(jax.random.split(KEY, 40))]
    for name in ("a", "b"):
        values = np.stack([draw[name] for draw in draws])
        np.testing.assert_allclose(moments.mean[name], values.mean(axis=0))
        np.testing.assert_allclose(moments.variance[name], values.var(axis=0, ddof=1))
    assert moments.count == 40


def test_bias_and_its_floor():
    """The floor is what the bias of an unbiased estimate is about; a real one stands out."""

    @functools.partial(jax.jit, static_argnums=2)
    def moments(shift, key, count):
        def draw(key):
            return shift + jax.random.normal(key, (50,)) * np.linspace(0.5, 2.0, 50)

        return diagnosis.monte_carlo(draw, key, count, 100)

    bias, other_key = jax.jit(diagnosis.bias), jax.random.PRNGKey(1)
    oracle = moments(0.0, KEY, 400)
    same = bias(moments(0.0, other_key, 200), oracle)
    variance = np.linspace(0.5, 2.0, 50) ** 2
    expected = np.sqrt(np.sum(variance) * (1 / 200 + 1 / 400))
    np.testing.assert_allclose(same.floor, expected, rtol=0.1)
    np.testing.assert_allclose(same.norm, same.floor, rtol=0.4)
    other = bias(moments(1.0, other_key, 200), oracle)
    np.testing.assert_allclose(other.norm, np.sqrt(50), rtol=0.1)


def test_cosine_similarity():
    first, second = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}, {"a": jnp.zeros(2), "b": 2.0}
    assert diagnosis.cosine_similarity(first, second) == pytest.approx(0.8)
    assert diagnosis.cosine_similarity(first, first) == pytest.approx(1)
    zero = jax.tree.map(jnp.zeros_like, first)
    assert diagnosis.cosine_similarity(first, zero) == 0
    assert diagnosis.norm(first) == pytest.approx(5)
