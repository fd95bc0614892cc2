"""Matching functions against numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.meta import matching
from bmg.meta.matching import Outputs
from tests.tables import named

pytestmark = pytest.mark.usefixtures("quick_compilation")
ALL = {
    "kl": matching.kl,
    "reverse_kl": matching.reverse_kl,
    "symmetric_kl": matching.symmetric_kl,
    "value": matching.value,
    "kl_value": matching.kl_and_value(0.25),
    "squared_l2": matching.squared_l2,
}


def outputs(seed: int) -> Outputs:
    rng = np.random.default_rng(seed)
    params = {"a": rng.normal(size=(3, 2)), "b": {"c": rng.normal(size=4), "d": rng.normal()}}
    return Outputs(rng.normal(0, 2, (2, 5, 4)), rng.normal(size=(2, 5)), params)


def expected(name: str, target: Outputs, online: Outputs) -> float:
    def probabilities(logits):
        return np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)

    p, q = probabilities(target.logits), probabilities(online.logits)
    total, reverse = 0.0, 0.0
    for b in range(2):
        for t in range(5):
            for a in range(4):
                total += p[b, t, a] * np.log(p[b, t, a] / q[b, t, a]) / 10
                reverse += q[b, t, a] * np.log(q[b, t, a] / p[b, t, a]) / 10
    value = np.mean((target.value - online.value) ** 2)
    t, o = target.params, online.params
    squared = np.sum((t["a"] - o["a"]) ** 2) + np.sum((t["b"]["c"] - o["b"]["c"]) ** 2)
    return {
        "kl": total,
        "reverse_kl": reverse,
        "symmetric_kl": total + reverse,
        "value": value,
        "kl_value": total + 0.25 * value,
        "squared_l2": squared + (t["b"]["d"] - o["b"]["d"]) ** 2,
    }[name]


def test_matching_is_numpys():
    for name in ALL:
        with named(name):
            target, online = outputs(1), outputs(2)
            actual = ALL[name](target, online)
            assert actual.shape == ()
            np.testing.assert_allclose(actual, expected(name, target, online), rtol=1e-5)


def test_zero_and_flat_where_target_and_online_agree():
    for name in ALL:
        with named(name):
            target = outputs(3)
            np.testing.assert_allclose(ALL[name](target, target), 0.0, atol=1e-6)
            gradient = jax.grad(lambda o: ALL[name](target, o))(target)
            for leaf in jax.tree.leaves(gradient):
                np.testing.assert_allclose(leaf, 0.0, atol=1e-6)


def test_kl_is_not_symmetric_and_its_sum_is():
    target, online = outputs(1), outputs(2)
    assert abs(matching.kl(target, online) - matching.kl(online, target)) > 0.01
    np.testing.assert_allclose(
        matching.kl(target, online), matching.reverse_kl(online, target), rtol=1e-6
    )
    np.testing.assert_allclose(
        matching.symmetric_kl(target, online), matching.symmetric_kl(online, target), rtol=1e-6
    )


def test_kl_does_not_see_a_shift_of_the_logits():
    for shift in [-30.0, 100.0]:
        with named(shift):
            target, online = outputs(1), outputs(2)
            moved = online._replace(logits=online.logits + shift)
            np.testing.assert_allclose(
                matching.kl(target, moved), matching.kl(target, online), rtol=1e-4
            )


def test_weight_of_the_values():
    for weight in [0.0, 0.25, 2.0]:
        with named(weight):
            target, online = outputs(1), outputs(2)
            np.testing.assert_allclose(
                matching.kl_and_value(weight)(target, online),
                expected("kl", target, online) + weight * expected("value", target, online),
                rtol=1e-5,
            )


def test_the_mean_does_not_grow_with_the_batch():
    target, online = outputs(1), outputs(2)

    def twice(x):
        return Outputs(np.concatenate([x.logits] * 2), np.concatenate([x.value] * 2), x.params)

    for name in ALL:
        np.testing.assert_allclose(
            ALL[name](twice(target), twice(online)), ALL[name](target, online), rtol=1e-5
        )


def test_shapes_that_would_broadcast_are_refused():
    target, online = outputs(1), outputs(2)
    with pytest.raises(ValueError, match="shapes"):
        matching.value(target, online._replace(value=online.value[:, :1]))
    with pytest.raises(ValueError, match="shapes"):
        matching.kl(target, online._replace(logits=online.logits[:1]))


def test_a_sum_is_the_mean_over_all_states_times_their_number():
    key = jax.random.split(jax.random.PRNGKey(0), 4)
    target = Outputs(jax.random.normal(key[0], (3, 5, 4)), jax.random.normal(key[1], (3, 5)))
    online = Outputs(jax.random.normal(key[2], (3, 5, 4)), jax.random.normal(key[3], (3, 5)))
    for mean in (matching.kl, matching.value, matching.kl_and_value(0.25)):
        each = [
            mean(Outputs(a, b), Outputs(c, d))
            for a, b, c, d in zip(
                target.logits.reshape(15, 4), target.value.ravel(),
                online.logits.reshape(15, 4), online.value.ravel(),
            )
        ]  # fmt: skip
        total = matching.summed(mean)(target, online)
        np.testing.assert_allclose(total, sum(each), rtol=1e-5)
        np.testing.assert_allclose(matching.summed(mean, 2)(target, online), 2 * total)


def test_the_plain_distance_has_a_slope_at_zero():
    params = {"w": jnp.array([3.0, 4.0])}
    zero = jax.tree.map(jnp.zeros_like, params)

    def distance(online):
        return matching.l2(Outputs(None, params=zero), Outputs(None, params=online))

    value, slope = jax.value_and_grad(distance)(params)
    np.testing.assert_allclose(value, 5.0, rtol=1e-6)
    np.testing.assert_allclose(slope["w"], [0.6, 0.8], rtol=1e-6)
    assert np.isfinite(jax.grad(distance)(zero)["w"]).all()
