"""Mixed-mode differentiation against reverse over reverse and closed forms."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bmg.meta import core
from bmg.meta.differentiation import inner_gradient, recomputed
from bmg.meta.optimizers import clip_by_global_norm, scale_by_rms

KEY = jax.random.PRNGKey(0)

pytestmark = pytest.mark.usefixtures("doubles", "quick_compilation")


class Data(NamedTuple):
    """One batch."""

    x: jax.Array  # [n, 3]
    label: jax.Array  # int32 [n]


def predict(params, data: Data):
    return jnp.tanh(data.x @ params["w"]) @ params["v"]


def loss(logits, constants, meta, data: Data):
    """A cross-entropy with learned temperature, and a regression on a target made of the constants
    and a learned discount: everything that a semi-gradient can have."""
    log_p = jax.nn.log_softmax(logits * meta["temperature"])
    chosen = jnp.sum(log_p * jax.nn.one_hot(data.label, 4), axis=-1)
    target = meta["discount"] * jnp.square(constants[:, 0]) + 0.3
    error = target - logits[:, 0]
    aux = {"error": error, "label": data.label, "constant": constants[:, 1]}
    return jnp.mean(0.5 * jnp.square(error) - chosen), aux


def data_of(seed: int, size: int = 5) -> Data:
    rng = np.random.default_rng(seed)
    return Data(rng.normal(size=(size, 3)), rng.integers(0, 4, size))


def params_of(seed: int = 0):
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(3, 6)), "v": rng.normal(size=(6, 4))}


META = {"temperature": np.float64(0.7), "discount": np.float64(0.9)}
OPTIMIZERS = {
    "sgd": optax.scale(0.1),
    "momentum": optax.chain(optax.trace(0.9), optax.scale(0.1)),
    "rmsprop": optax.chain(scale_by_rms(0.9, 1e-3, True), optax.scale(0.05)),
    "adam": optax.chain(optax.scale_by_adam(eps_root=1e-6), optax.scale(0.05)),
    "clipped": optax.chain(clip_by_global_norm(0.05), scale_by_rms(0.9, 1e-3, True)),
    "not clipped": optax.chain(clip_by_global_norm(100.0), optax.scale(0.1)),
}


def assert_close(actual, expected, **tolerance):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, **tolerance), actual, expected)


@functools.lru_cache(None)
def meta_gradient_of(name, differentiation, num_steps, of_aux=False):
    """Of a step's meta-parameters and of the initial parameters, after `num_steps` updates."""
    optimizer = OPTIMIZERS[name]
    gradient = inner_gradient(predict, loss, differentiation)

    def step(meta_params, state, data, key):
        params, opt_state = state
        g, aux = gradient(params, meta_params[0], data)
        updates, opt_state = optimizer.update(g, opt_state)
        return (optax.apply_updates(params, updates), opt_state), aux

    def objective(meta_params, unrolled, data, key):
        value = jnp.mean(jnp.square(predict(unrolled.states[-1][0], data)))
        if of_aux:
            value += sum(jnp.sum(jnp.sin(a["error"] + a["constant"])) for a in unrolled.aux)
        return value, core.Outcome(unrolled.states[-1], {})

    def start(meta_params, origin, key):
        return meta_params[1], optimizer.init(meta_params[1])

    compute = core.meta_gradient(start, step, objective, differentiation)
    batches = tuple(data_of(i) for i in range(num_steps))
    result = jax.jit(compute)((META, params_of()), None, batches, data_of(99), KEY)
    return jax.tree.map(np.asarray, result)


def test_the_gradient_is_the_semi_gradient():
    data, params = data_of(1), params_of()
    held = np.asarray(jax.jit(predict)(params, data))
    expected = jax.jit(jax.grad(lambda p: loss(predict(p, data), held, META, data)[0]))(params)
    for differentiation in ("plain", "mixed"):
        gradient = jax.jit(inner_gradient(predict, loss, differentiation))
        value, aux = gradient(params, META, data)
        assert_close(value, expected, rtol=1e-12)
        np.testing.assert_allclose(aux["constant"], held[:, 1], rtol=1e-12)
        np.testing.assert_array_equal(aux["label"], data.label)


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_mixed_mode_is_reverse_over_reverse(name, num_steps):
    mixed = meta_gradient_of(name, "mixed", num_steps)
    plain = meta_gradient_of(name, "plain", num_steps)
    assert min(np.max(np.abs(x)) for x in jax.tree.leaves(plain.gradient)) > 1e-4
    assert_close(mixed, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_what_a_step_tells_is_differentiated_too(num_steps):
    """Nothing is lost where an objective looks at a step's auxiliary outputs."""
    mixed = meta_gradient_of("sgd", "mixed", num_steps, of_aux=True)
    plain = meta_gradient_of("sgd", "plain", num_steps, of_aux=True)
    without = meta_gradient_of("sgd", "plain", num_steps)
    assert_close(mixed.gradient, plain.gradient, rtol=1e-9, atol=1e-12)
    assert abs(plain.gradient[0]["discount"] - without.gradient[0]["discount"]) > 1e-3


def test_the_product_with_the_hessian():
    """<v, grad loss> of a quadratic x A x / 2 + w b x has the gradients A v and <b, v>."""
    rng = np.random.default_rng(0)
    a, b, x, v = rng.normal(size=(4, 4)), *rng.normal(size=(3, 4))
    a = a + a.T

    def quadratic(prediction, constants, w, data):
        return 0.5 * prediction @ a @ prediction + w * (b @ prediction), ()

    gradient = inner_gradient(lambda p, data: p, quadratic)

    def along(x, w):
        g, _ = gradient(x, w, None)
        return v @ g, g

    (dx, dw), g = jax.jit(jax.grad(along, argnums=(0, 1), has_aux=True))(x, 2.0)
    np.testing.assert_allclose(g, a @ x + 2.0 * b, rtol=1e-12)
    np.testing.assert_allclose(dx, a @ v, rtol=1e-12)
    np.testing.assert_allclose(dw, b @ v, rtol=1e-12)


def test_a_recomputed_step_is_the_step():
    def step(w, x, batch, key):
        return jnp.sin(w * x) + batch + jax.random.normal(key), {"w": w * x}

    arguments = (0.3, 0.7, 2.0, KEY)
    again = recomputed(step)
    assert_close(jax.jit(again)(*arguments), jax.jit(step)(*arguments), rtol=1e-12)
    slope = jax.jit(jax.grad(lambda w: again(w, *arguments[1:])[0]))(0.3)
    np.testing.assert_allclose(slope, 0.7 * np.cos(0.21), rtol=1e-12)
