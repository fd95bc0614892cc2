"""bfloat16 activations: where they are chosen, and that the meta-gradient stays what it is."""

from __future__ import annotations

import dataclasses
import re
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.actors.rollout import agent_spec
from bmg.agents.config import AgentConfig, MetaConfig, NetworkConfig, OptimizerConfig
from bmg.agents.factory import make_agent
from bmg.agents.networks import acting_policy, make_network
from bmg.agents.trajectory import UpdateBatch
from bmg.environments.atari import LIGHT
from bmg.environments.factory import make
from bmg.learner.guard import guarded
from bmg.learner.update import with_precision
from tests.actors.fakes import Newest, make_rollout
from tests.learner import fakes

FLOAT32 = NetworkConfig(torso="shallow", features=64, head_hidden=(32,), precision="float32")
LENGTH, NUM_ONLINE = 20, 2


@pytest.fixture(scope="module")
def pong():
    """What an agent of it is made for, and unrolls of real frames, [6] of each field."""
    environment = make("pong", 6, seed=0, worker_index=0, config=LIGHT, num_threads=1)
    spec = agent_spec(environment.spec)
    network = make_network(FLOAT32, *spec[:2], 1)
    act = acting_policy(network)
    params = network.init(jax.random.PRNGKey(1))
    rollout = make_rollout(environment, act, LENGTH, 5, Newest(params))
    unrolls = [rollout.collect(0, time.monotonic) for _ in range(6)]
    environment.close()
    return spec, unrolls[-2:]


def updates_of(network: NetworkConfig, pong):
    """Meta-gradients of three of BMG's updates, the first of which warms the optimiser up."""
    spec, unrolls = pong
    config = AgentConfig(network=network, optimizer=OptimizerConfig(learning_rate=1e-5))
    whole = guarded(make_agent(config, spec), NUM_ONLINE * LENGTH)
    state, gradients = jax.jit(whole.init)(jax.random.PRNGKey(0)), []
    update = jax.jit(whole.update)
    for batch in (unrolls[0], unrolls[1], unrolls[0]):
        part = lambda low, high, b=batch: jax.tree.map(lambda x: x[low:high], b)  # noqa: E731
        state, _ = update(state, UpdateBatch(part(0, NUM_ONLINE), part(NUM_ONLINE, 6), ()))
        gradients.append(np.concatenate([np.ravel(x) for x in state.agent.meta.gradient]))
    return state, gradients


@pytest.mark.heavy
def test_the_meta_gradient_stays_what_it_is_on_real_frames(pong):
    """With matching in bfloat16 it is off by three times its size at this learning rate, and by two
    fifths at 1e-4."""
    _, expected = updates_of(FLOAT32, pong)
    half = dataclasses.replace(FLOAT32, precision="bfloat16")
    state, actual = updates_of(half, pong)
    for a, e in zip(actual, expected):
        assert np.linalg.norm(e) > 0
        assert np.linalg.norm(a - e) < 0.05 * np.linalg.norm(e)
        assert np.any(a != e), "there must be something to compare"
    for x in jax.tree.leaves(state.agent):
        assert x.dtype != jnp.bfloat16, "parameters and optimisers stay in float32"


@pytest.mark.parametrize("algorithm", ["bmg", "stacx"])
def test_what_is_compared_is_float32(algorithm, pong):
    """BMG's target and updated agent; STACX's updated and previous policy."""
    spec, unrolls = pong
    part = lambda low, high: jax.tree.map(lambda x: x[low:high], unrolls[0])  # noqa: E731
    batch = UpdateBatch(part(0, NUM_ONLINE), part(NUM_ONLINE, 6), ())
    counts = []
    for weight in (0.0, 1.0):  # of STACX's comparison
        network = dataclasses.replace(FLOAT32, precision="bfloat16")
        meta = MetaConfig(stacx_kl_weight=weight)
        config = AgentConfig(algorithm=algorithm, network=network, meta=meta)
        agent = guarded(make_agent(config, spec), NUM_ONLINE * LENGTH)
        state = jax.eval_shape(agent.init, jax.random.PRNGKey(0))
        text = str(jax.make_jaxpr(agent.update)(state, batch))
        states = 6 * (LENGTH + 1)
        counts.append(len(re.findall(rf":f32\[{states},20,20,16\] = conv", text)))
        assert f":bf16[{states},20,20,16] = conv" in text
    compared = [count > 0 for count in counts]
    assert compared == {"bmg": [True, True], "stacx": [False, True]}[algorithm]


def test_activations_are_half_and_predictions_whole():
    network = dataclasses.replace(FLOAT32, precision="bfloat16")
    network = make_network(network, (84, 84, 4), 6, 1)
    params = network.init(jax.random.PRNGKey(0))
    text = str(jax.make_jaxpr(network.apply)(params, jnp.zeros((2, 84, 84, 4))))
    assert "conv_general_dilated" in text and "bf16[2,20,20,16]" in text
    predictions = network.apply(params, jnp.zeros((2, 84, 84, 4)))
    assert {x.dtype for x in jax.tree.leaves(predictions)} == {jnp.dtype("float32")}


def device(platform: str, capability: str = ""):
    return SimpleNamespace(
        platform=platform, compute_capability=capability, device_kind=f"a {platform}"
    )


@pytest.mark.parametrize(
    "wanted, where, chosen",
    [
        ("auto", device("cpu"), "float32"),
        ("auto", device("gpu", "9.0"), "bfloat16"),
        ("auto", device("gpu", "7.5"), "float32"),
        ("auto", device("tpu"), "bfloat16"),
        ("float32", device("tpu"), "float32"),
        ("bfloat16", device("cpu"), "bfloat16"),
    ],
)
def test_precision_is_chosen_for_the_device(wanted, where, chosen):
    config = AgentConfig(network=NetworkConfig(precision=wanted))
    assert with_precision(config, where).network.precision == chosen


def test_a_gpu_without_bfloat16_is_told():
    config = AgentConfig(network=NetworkConfig(precision="bfloat16"))
    with pytest.raises(ValueError) as caught:
        with_precision(config, device("gpu", "7.5"))
    text = fakes.one_line(caught.value)
    assert "bfloat16" in text and "a gpu" in text and "float32" in text
