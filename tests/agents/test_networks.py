"""The networks: sizes counted by hand, tasks, and the part that actors need."""

from __future__ import annotations

import dataclasses
import functools
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.agents import networks
from bmg.agents.config import NetworkConfig
from bmg.agents.convolution import strided
from bmg.agents.networks import choose_torso, main_task_params
from tests.agents import oracle
from tests.agents.data import float64

PAPER_SHAPE = (210, 160, 12)
KEY = jax.random.PRNGKey(0)


def make_network(*how) -> networks.Network:
    """With a compiled `apply`; `init` has the same operation for many parameters."""
    network = networks.make_network(*how)
    return network._replace(apply=jax.jit(network.apply, static_argnums=2))


def shapes(channels=(64, 128, 128, 64), num_actions=18, num_tasks=3, shape=PAPER_SHAPE):
    """Shapes of all parameters, without making any."""
    network = make_network(NetworkConfig(channels=channels), shape, num_actions, num_tasks)
    return jax.eval_shape(network.init, KEY)


def count(params, contains: str = "") -> int:
    return sum(
        math.prod(x.shape) for n, layer in params.items() if contains in n for x in layer.values()
    )


def test_parameters_of_the_papers_network():
    params = shapes()
    sections = [count(params, f"section_{s}") for s in range(4)]
    assert sections == [154_688, 664_192, 737_920, 221_504]
    assert count(params, "projection") == 4_588_032  # 14 x 10 x 64 = 8960 inputs
    assert [count(params, f"task_{i}/") for i in range(3)] == [399_123] * 3
    assert count(params) == 7_563_705


@pytest.mark.parametrize("num_actions, expected", [(4, 395_525), (9, 396_810), (18, 399_123)])
def test_parameters_of_one_tasks_heads(num_actions, expected):
    assert count(shapes(num_actions=num_actions), "task_0/") == expected


@pytest.mark.parametrize("channels, millions", [((16, 32, 32, 16), 2.46), ((32, 64, 64, 32), 3.94)])
def test_parameters_of_smaller_networks(channels, millions):
    """1x and 2x of appendix C.4."""
    assert round(count(shapes(channels)) / 1e6, 2) == millions


def test_every_convolution_is_three_by_three_with_a_bias():
    for name, layer in shapes().items():
        assert set(layer) == {"w", "b"}
        if "section" in name:
            assert layer["w"].shape[:2] == (3, 3)


def tiny(torso="mlp", shape=(4, 4, 2), num_tasks=3, **kwargs):
    config = NetworkConfig(torso=torso, features=8, head_hidden=(6,), **kwargs)
    return make_network(config, shape, 3, num_tasks)


@functools.cache
def made(torso="mlp", shape=(4, 4, 2)):
    """A tiny network, and its parameters."""
    network = tiny(torso, shape)
    return network, jax.device_get(network.init(KEY))


def test_mlp_is_numpys():
    network, params = made()
    s = np.random.default_rng(0).normal(size=(5, 4, 4, 2)).astype(np.float32)
    predictions = network.apply(params, s, 3)
    for task in range(3):
        logits, values = oracle.predict(params, s.reshape(5, -1), task)
        np.testing.assert_allclose(predictions.logits[task], logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(predictions.value[task], values, rtol=1e-4, atol=1e-5)


def convolve(x, w, b):
    """3x3, stride 1, "SAME"; [H, W, C] -> [H, W, D]."""
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    result = np.zeros((height, width, w.shape[-1]))
    for i in range(height):
        for j in range(width):
            result[i, j] = np.tensordot(padded[i : i + 3, j : j + 3], w, 3) + b
    return result


def pool(x):
    """3x3 maxima at stride 2, "SAME": the odd pixel of padding lies at the far edges."""
    height, width, depth = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    before = [max((n - 1) * 2 + 3 - size, 0) // 2 for n, size in ((rows, height), (columns, width))]
    result = np.zeros((rows, columns, depth))
    for i in range(rows):
        for j in range(columns):
            top, left = 2 * i - before[0], 2 * j - before[1]
            window = x[max(top, 0) : top + 3, max(left, 0) : left + 3]
            result[i, j] = window.max(axis=(0, 1))
    return result


def test_resnet_is_impalas_figure_3():
    """Convolution, pool, two residual blocks per section; a ReLU before the projection."""
    network = tiny("resnet", shape=(7, 6, 2), num_tasks=1, channels=(3, 4), residual_blocks=2)
    params = jax.tree.map(np.asarray, network.init(KEY))
    rng = np.random.default_rng(1)
    params = {n: {"w": p["w"], "b": rng.normal(0, 0.3, p["b"].shape)} for n, p in params.items()}
    observation = rng.normal(size=(7, 6, 2))

    def layer(name):
        (found,) = [p for n, p in params.items() if n.endswith("/" + name)]
        return found["w"], found["b"]

    x = observation
    for section in range(2):
        x = pool(convolve(x, *layer(f"section_{section}")))
        for block in range(2):
            y = convolve(np.maximum(x, 0), *layer(f"section_{section}_block_{block}_first"))
            y = convolve(np.maximum(y, 0), *layer(f"section_{section}_block_{block}_second"))
            x = x + y
    w, b = layer("projection")
    m = np.maximum(np.maximum(x, 0).reshape(-1) @ w + b, 0)
    names = oracle.heads(params, 0)
    logits, _ = oracle.mlp(params, names["policy"], m)
    actual = network.apply(params, observation[None].astype(np.float32), 1)
    np.testing.assert_allclose(actual.logits[0, 0], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("torso, shape", [("mlp", (4, 4, 2)), ("shallow", (36, 36, 2))])
def test_the_main_tasks_parameters_suffice_to_act(torso, shape):
    network, params = made(torso, shape)
    main = main_task_params(params)
    assert count(main) < count(params)
    assert not [name for name in main if "task_1" in name or "task_2" in name]
    s = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
    few, all_ = network.apply(main, s, 1), network.apply(params, s, 3)
    assert few.logits.shape == (1, 2, 3) and few.value.shape == (1, 2)
    np.testing.assert_array_equal(few.logits[0], all_.logits[0])
    np.testing.assert_array_equal(few.value[0], all_.value[0])
    np.testing.assert_array_equal(all_.task(0).logits, all_.logits[0])


def test_tasks_share_the_torso_and_differ_in_their_heads():
    """Equal heads would stay equal: the auxiliary tasks would be one."""
    _, params = made()
    assert len([name for name in params if name.startswith("torso/")]) == 1
    for kind in ("policy", "value"):
        weights = [params[name]["w"] for i in range(3) for name in oracle.heads(params, i)[kind]]
        first, last = weights[0::2], weights[1::2]
        for group in (first, last):
            for i in range(3):
                for j in range(i):
                    assert np.max(np.abs(group[i] - group[j])) > 0.01


def test_leading_axes_are_kept():
    network, params = made()
    s = np.random.default_rng(0).random((2, 5, 4, 4, 2)).astype(np.float32)
    together = network.apply(params, s, 3)
    assert together.logits.shape == (3, 2, 5, 3) and together.value.shape == (3, 2, 5)
    for b in range(2):
        alone = network.apply(params, s[b], 3)
        np.testing.assert_allclose(together.logits[:, b], alone.logits, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(together.value[:, b], alone.value, rtol=1e-5, atol=1e-6)


def test_another_observation_shape_is_refused():
    network, params = made()
    with pytest.raises(AssertionError):
        network.apply(params, np.zeros((2, 4, 4, 3), np.float32), 1)


@pytest.mark.parametrize("torso", ["mlp", "resnet"])
def test_centred_frames_leave_brightness_out(torso):
    """Each frame of the stack loses its own mean; what is left is amplified four times."""
    config = NetworkConfig(torso=torso, channels=(2,), features=8, head_hidden=())
    rng = np.random.default_rng(0)
    observation = rng.uniform(0, 0.5, (3, 6, 6, 4)).astype(np.float32)
    brighter = observation + np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    plain = make_network(config, (6, 6, 4), 3, 1)
    centred = make_network(dataclasses.replace(config, center_frames=True), (6, 6, 4), 3, 1)
    params = plain.init(KEY)
    by_hand = 4 * (observation - observation.mean((1, 2), keepdims=True))
    expected = plain.apply(params, by_hand, 1).logits
    for given in (observation, brighter):
        actual = centred.apply(params, given, 1).logits
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(plain.apply(params, brighter, 1).logits, expected, atol=1e-3)


@pytest.mark.parametrize("torso", ["mlp", "resnet", "shallow", "dqn"])
def test_weight_scale_scales_the_torsos_initial_weights_alone(torso):
    config = NetworkConfig(torso=torso, channels=(2,), features=8, head_hidden=(4,))
    shape = (40, 40, 2)
    one = make_network(config, shape, 3, 1).init(KEY)
    scaled = dataclasses.replace(config, weight_scale=2.5)
    two = make_network(scaled, shape, 3, 1).init(KEY)
    for name, module in one.items():
        factor = 2.5 if name.startswith("torso/") else 1.0
        np.testing.assert_allclose(two[name]["w"], factor * np.asarray(module["w"]), rtol=1e-6)


@pytest.mark.parametrize("size, stride", [(8, 4), (4, 2), (3, 1), (3, 2), (5, 5)])
def test_space_to_depth_has_the_sums_of_the_plain_convolution_and_their_derivatives(size, stride):
    """Up to the second ones, which meta-gradients take; where sides leave a rest, and without."""
    rng = np.random.default_rng(0)
    with float64():
        for height, width in ((20, 20), (22, 21), (size, size + 1)):
            x = rng.normal(size=(3, height, width, 2))
            w = rng.normal(size=(size, size, 2, 5))
            tangent = rng.normal(size=w.shape)

            def value(x, w, space_to_depth):
                y = strided(x, w, stride, space_to_depth)
                return jnp.sum(jnp.sin(y)), y

            def with_curvature(space_to_depth):
                gradient = jax.grad(value, argnums=(0, 1), has_aux=True)
                given = lambda w: gradient(x, w, space_to_depth)  # noqa: E731
                slopes, curvature, y = jax.jvp(given, (w,), (tangent,), has_aux=True)
                return y, (slopes, curvature)

            plain, other = jax.jit(lambda: [with_curvature(way) for way in (False, True)])()
            rows, columns = height - size + 1, width - size + 1
            expected = sum(
                x[:, i : rows + i : stride, j : columns + j : stride] @ w[i, j]
                for i in range(size) for j in range(size)
            )  # fmt: skip
            np.testing.assert_allclose(plain[0], expected, atol=1e-12)
            np.testing.assert_allclose(other[0], expected, atol=1e-12)
            for one, same in zip(jax.tree.leaves(plain[1]), jax.tree.leaves(other[1])):
                np.testing.assert_allclose(one, same, atol=1e-10)


@pytest.mark.parametrize("torso", ["dqn", "shallow"])
def test_plain_torsos_are_haikus_convolutions(torso):
    """The same parameters from the same key, on either device: checkpoints fit both."""
    layers = {"dqn": [(32, 8, 4), (64, 4, 2), (64, 3, 1)], "shallow": [(16, 8, 4), (32, 4, 2)]}

    def haikus(x):
        with hk.experimental.name_scope("torso"):
            for index, (depth, size, stride) in enumerate(layers[torso]):
                w_init = hk.initializers.TruncatedNormal(1 / np.sqrt(size * size * x.shape[-1]))
                conv = hk.Conv2D(
                    depth, size, stride, padding="VALID", w_init=w_init, name=f"conv_{index}"
                )
                x = jax.nn.relu(conv(x))
        return x

    shape, key = (44, 44, 4), jax.random.PRNGKey(3)
    x = np.random.default_rng(0).random((2, *shape), np.float32)
    theirs = hk.without_apply_rng(hk.transform(haikus))
    expected = theirs.init(key, x)
    outputs = jax.jit(theirs.apply)(expected, x)
    for precision in ("auto", "float32", "bfloat16"):
        config = NetworkConfig(torso=torso, features=8, head_hidden=(), precision=precision)
        found = make_network(config, shape, 3, 1).init(key)
        for name, own in expected.items():
            jax.tree.map(np.testing.assert_array_equal, own, found[name])

        def ours(x, config=config):
            with hk.experimental.name_scope("torso"):
                return choose_torso(config, shape)(x, config)

        y = jax.jit(hk.without_apply_rng(hk.transform(ours)).apply)(expected, x)
        np.testing.assert_allclose(y, outputs, atol=1e-5)
