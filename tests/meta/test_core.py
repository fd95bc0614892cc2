"""The meta-gradient core against closed forms on a quadratic and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.meta import core
from bmg.meta.objectives import BootstrapBatch, bootstrapped, final_value, mean_value

KEY = jax.random.PRNGKey(0)
CURVATURE = np.array([0.5, 1.0, 3.0])
START = np.array([1.0, -2.0, 0.5])


pytestmark = pytest.mark.usefixtures("doubles")


def descend(eta, x, batch, key):
    """One step on sum c (x - batch)^2 / 2 with the learned step size; aux is the loss."""
    del key
    loss = 0.5 * jnp.sum(CURVATURE * (x - batch) ** 2)
    return x - eta * CURVATURE * (x - batch), loss


def outer(x, batch, key=None):
    return 0.5 * jnp.sum((x - batch) ** 2), {"outer": x[0]}


def zeros(count):
    return tuple(jnp.zeros(3) for _ in range(count))


@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
def test_meta_gradient_of_a_learned_step_size(num_steps):
    """x(K) = (1 - eta c)^K x(0); the outer loss |x(K) - y|^2 / 2 has the derivative
    -sum (x(K) - y) K c (1 - eta c)^(K-1) x(0) in eta."""
    eta, y = 0.2, jnp.array([0.1, 0.2, 0.3])
    compute = core.meta_gradient(core.online_start, descend, final_value(outer))
    result = compute(jnp.float64(eta), START, zeros(num_steps), y, KEY)
    shrink = 1 - eta * CURVATURE
    last = shrink**num_steps * START
    slope = num_steps * CURVATURE * shrink ** max(num_steps - 1, 0) * START
    np.testing.assert_allclose(result.gradient, -np.sum((last - y) * slope), rtol=1e-12)
    np.testing.assert_allclose(result.next_state, last, rtol=1e-12)
    np.testing.assert_allclose(result.loss, 0.5 * np.sum((last - y) ** 2), rtol=1e-12)
    np.testing.assert_allclose(result.metrics["outer"], last[0], rtol=1e-12)
    losses = [0.5 * np.sum(CURVATURE * (shrink**k * START) ** 2) for k in range(num_steps)]
    np.testing.assert_allclose(result.aux, losses, rtol=1e-12)


def test_the_initialisation_can_be_learned():
    """MAML: x(0) = w gives (1 - eta c)^K (x(K) - y)."""
    eta, y = 0.2, jnp.array([0.1, 0.2, 0.3])
    compute = core.meta_gradient(
        lambda w, origin, key: w,
        lambda w, x, batch, key: descend(eta, x, batch, key),
        final_value(outer),
    )
    result = compute(START, None, zeros(3), y, KEY)
    shrink = (1 - eta * CURVATURE) ** 3
    np.testing.assert_allclose(result.gradient, shrink * (shrink * START - y), rtol=1e-12)


def test_each_step_takes_its_own_batch_in_order():
    batches = [jnp.full(3, x) for x in (1.0, -3.0, 0.5)]
    unrolled = core.unroll(descend, 0.2, START, batches, KEY)
    assert len(unrolled.states) == 4 and len(unrolled.aux) == 3
    x = np.asarray(START)
    for batch, state, loss in zip(batches, unrolled.states[1:], unrolled.aux):
        np.testing.assert_allclose(loss, 0.5 * np.sum(CURVATURE * (x - batch) ** 2))
        x = x - 0.2 * CURVATURE * (x - batch)
        np.testing.assert_allclose(state, x)


def test_every_step_has_a_key_of_its_own():
    def noise(w, x, batch, key):
        return x, jax.random.normal(key)

    aux = core.unroll(noise, 0.0, START, zeros(4), KEY).aux
    assert len({float(x) for x in aux}) == 4


# Bootstrapped


def final_step(eta, x, batch, key):
    """A step that also depends on w, so that a gradient through the target would show."""
    del key
    return x - (0.3 + eta) * (x - batch), {}


def squared(target, online):
    return jnp.sum((target - online) ** 2)


def objective_of(num_target_steps, continue_from="updated"):
    return bootstrapped(
        target_step=descend,
        final_step=final_step,
        predict=lambda x, batch: batch * x**2,
        matching=squared,
        num_target_steps=num_target_steps,
        continue_from=continue_from,
    )


def batch_of(num_target_steps):
    targets = tuple(jnp.full(3, 0.1 * (i + 1)) for i in range(num_target_steps - 1))
    return BootstrapBatch(targets, jnp.array([1.0, 2.0, -1.0]), jnp.array([1.0, 2.0, 0.5]))


def by_hand(eta, num_steps, num_target_steps):
    """x(K), the target before its final step, and the target."""
    batch, x = batch_of(num_target_steps), np.asarray(START)
    for _ in range(num_steps):
        x = x - eta * CURVATURE * x
    updated = x
    for target_batch in batch.target:
        x = x - eta * CURVATURE * (x - target_batch)
    return updated, x, x - (0.3 + eta) * (x - batch.final)


@pytest.mark.parametrize("num_target_steps", [1, 2, 4])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_bootstrapped_gradient_holds_the_target_fixed(num_steps, num_target_steps):
    eta, inputs = 0.2, np.asarray(batch_of(1).matching)
    compute = core.meta_gradient(core.online_start, descend, objective_of(num_target_steps))
    result = compute(jnp.float64(eta), START, zeros(num_steps), batch_of(num_target_steps), KEY)
    target = by_hand(eta, num_steps, num_target_steps)[2]

    def loss(x, constant=None):
        updated, _, moved = by_hand(x, num_steps, num_target_steps)
        moved = moved if constant is None else constant
        return np.sum((inputs * moved**2 - inputs * updated**2) ** 2)

    def difference(**kwargs):
        return (loss(eta + 1e-6, **kwargs) - loss(eta - 1e-6, **kwargs)) / 2e-6

    np.testing.assert_allclose(result.loss, loss(eta), rtol=1e-12)
    np.testing.assert_allclose(result.metrics["matching_loss"], loss(eta), rtol=1e-12)
    np.testing.assert_allclose(result.gradient, difference(constant=target), rtol=1e-6)
    assert abs(difference() / difference(constant=target) - 1) > 0.01


def test_the_mean_over_the_updates():
    """sum_k |x(k) - y_k|^2 / 2 / K, each on what its own step tells, and its derivative."""
    eta, key = 0.2, jax.random.split(KEY)[0]

    def step(eta, x, batch, key):
        return descend(eta, x, batch, key)[0], {"y": batch}

    compute = core.meta_gradient(
        core.online_start, step, mean_value(lambda x, aux: (outer(x, aux["y"])[0], {"x": x[0]}))
    )
    batches = tuple(jnp.array(y) for y in ([0.1, 0.2, 0.3], [1.0, -1.0, 0.0], [0.5, 0.0, 2.0]))
    result = compute(jnp.float64(eta), START, batches, None, key)

    def loss(eta):
        x, losses = np.asarray(START), []
        for y in map(np.asarray, batches):
            x = x - eta * CURVATURE * (x - y)
            losses.append(0.5 * np.sum((x - y) ** 2))
        return np.mean(losses), x

    np.testing.assert_allclose(result.loss, loss(eta)[0], rtol=1e-12)
    slope = (loss(eta + 1e-6)[0] - loss(eta - 1e-6)[0]) / 2e-6
    np.testing.assert_allclose(result.gradient, slope, rtol=1e-6)
    np.testing.assert_allclose(result.next_state, loss(eta)[1], rtol=1e-12)


@pytest.mark.parametrize("num_steps", [0, 1, 4])
def test_a_scan_is_the_unrolled_loop(num_steps):
    def step(eta, x, batch, key):
        x, loss = descend(eta, x, batch["y"], key)
        return x + jax.random.normal(key, x.shape), loss

    batches = tuple({"y": jnp.full(3, y), "none": None} for y in (1.0, -3.0, 0.5, 2.0)[:num_steps])
    unrolled = core.unroll(step, 0.2, START, batches, KEY)
    scanned = core.scan(step, 0.2, START, batches, KEY)
    np.testing.assert_array_equal(scanned.states[0], START)
    np.testing.assert_allclose(scanned.states[-1], unrolled.states[-1], rtol=1e-12)
    np.testing.assert_allclose(scanned.aux, unrolled.aux, rtol=1e-12)


def test_a_target_may_be_scanned_and_matched_on_what_it_met():
    """The same meta-gradient as with the unrolled loop and the same inputs given beforehand."""
    eta, batch = jnp.float64(0.2), batch_of(4)
    objective = objective_of(4)
    expected = core.meta_gradient(core.online_start, descend, objective)(
        eta, START, zeros(2), batch, KEY
    )

    def telling(eta, x, batch, key):
        return final_step(eta, x, batch, key)[0], jnp.asarray(batch_of(1).matching)

    seen = []

    def match_on(batch, unrolled, path):
        seen.append((len(unrolled.states), path.steps.aux.shape))
        return path.final_aux

    met = bootstrapped(
        target_step=descend, final_step=telling, predict=lambda x, batch: batch * x**2,
        matching=squared, num_target_steps=4, match_on=match_on, unroll_target=core.scan,
    )  # fmt: skip
    result = core.meta_gradient(core.online_start, descend, met)(
        eta, START, zeros(2), batch._replace(matching=None), KEY
    )
    np.testing.assert_allclose(result.gradient, expected.gradient, rtol=1e-12)
    assert seen == [(3, (3,))]
    assert result.target_aux[0].shape == (3,) and len(expected.target_aux[0]) == 3
    np.testing.assert_allclose(result.target_aux[0], expected.target_aux[0], rtol=1e-12)


@pytest.mark.parametrize("num_target_steps", [1, 3])
def test_where_the_learner_goes_on_from(num_target_steps):
    states = by_hand(0.2, 2, num_target_steps)
    for continue_from, expected in zip(("updated", "bootstrap", "target"), states):
        objective = objective_of(num_target_steps, continue_from)
        compute = core.meta_gradient(core.online_start, descend, objective)
        result = compute(jnp.float64(0.2), START, zeros(2), batch_of(num_target_steps), KEY)
        np.testing.assert_allclose(result.next_state, expected, rtol=1e-12)
    same = np.array_equal(states[0], states[1])
    assert same == (num_target_steps == 1)


def test_matching_alone_may_see_the_meta_parameters():
    """K = 0 (epsilon-greedy Q(lambda)): what is predicted depends on w, no update does.

    The learner's state carries w beside x, so that predictions can use it.
    """

    def start(w, origin, key):
        return w, origin

    def final(w, state, batch, key):
        return (state[0] + 1.0, state[1]), {}

    objective = bootstrapped(
        target_step=descend,
        final_step=final,
        predict=lambda state, batch: state[0] ** 2 * state[1],
        matching=squared,
        num_target_steps=1,
    )
    batch = BootstrapBatch((), jnp.zeros(3), jnp.zeros(3))
    result = core.meta_gradient(start, descend, objective)(jnp.float64(0.7), START, (), batch, KEY)
    w = 0.7  # d/dw sum ((w'^2 - w^2) x)^2 at w' = w + 1 held fixed
    expected = np.sum(2 * ((w + 1) ** 2 - w**2) * START * (-2 * w * START))
    np.testing.assert_allclose(result.gradient, expected, rtol=1e-12)
    assert result.aux == ()


@pytest.mark.parametrize("num_batches", [0, 2])
def test_a_wrong_number_of_target_batches_is_refused(num_batches):
    compute = core.meta_gradient(core.online_start, descend, objective_of(2))
    batch = batch_of(2)._replace(target=zeros(num_batches))
    with pytest.raises(ValueError, match=f"{num_batches} target batches for L = 2; 1 are needed"):
        compute(jnp.float64(0.2), START, zeros(1), batch, KEY)


def test_no_target_step_is_refused():
    with pytest.raises(ValueError, match="num_target_steps is 0"):
        objective_of(0)
