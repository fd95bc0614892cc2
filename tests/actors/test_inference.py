"""One batch for many threads: each gets what it would have got alone."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actors.inference import BatchedInference, LocalInference
from tests.actors.fakes import Newest, never
from tests.waiting import Call, eventually

NUM_ENVS, STACK = 3, 2
KEY = jax.random.PRNGKey(0)


class Gate(Newest):
    """Parameters that come only once the gate is open, so that requests gather before it."""

    def __init__(self, params=1.0):
        super().__init__(params)
        self.asked, self.open = threading.Event(), threading.Event()

    def wait(self, should_stop):
        self.asked.set()
        while not self.open.wait(0.01):
            if should_stop():
                return None
        return super().wait(should_stop)


class Policy:
    """Actions and logits are functions of the observation; remembers for which sizes it was
    compiled."""

    def __init__(self):
        self.sizes: list[int] = []

    def __call__(self, params, observation, key):
        self.sizes.append(observation.shape[0])
        flat = observation.reshape(observation.shape[0], -1).astype(jnp.float32)
        return jnp.sum(flat, axis=1).astype(jnp.int32) % 5, params * flat


def request(seed: int):
    """(frames, age) of one actor's environments."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (NUM_ENVS, STACK, 4, 2, 1)).astype(np.uint8)
    return frames, rng.integers(0, STACK, NUM_ENVS).astype(np.int32)


def batched(policy, parameters) -> BatchedInference:
    return BatchedInference(policy, parameters, KEY)


def gathered(inference, gate: Gate, count: int) -> list[Call]:
    """One request that waits at the gate, and `count` more that come meanwhile."""
    calls = [Call(lambda: inference.act(*request(0)))]
    assert gate.asked.wait(10.0)
    calls += [Call(lambda i=i: inference.act(*request(i))) for i in range(1, count + 1)]
    eventually(lambda: len(inference._waiting) == count)
    return calls


def test_each_thread_gets_its_own_answers():
    policy, gate = Policy(), Gate(2.0)
    calls = gathered(batched(policy, gate), gate, 5)
    gate.open.set()
    alone = LocalInference(Policy(), Newest(2.0), KEY)
    alone.latest(never)
    for seed, call in enumerate(calls):
        actions, logits = call.result(within=20.0)
        expected_actions, expected_logits = alone.act(*request(seed))
        np.testing.assert_array_equal(actions, expected_actions)
        np.testing.assert_array_equal(logits, expected_logits)
    # One alone, then five in one batch, which is padded to eight.
    assert policy.sizes == [NUM_ENVS, 8 * NUM_ENVS]


def test_every_batch_acts_with_the_newest_parameters():
    parameters = Newest(1.0, version=4)
    inference = batched(Policy(), parameters)
    _, before = inference.act(*request(1))
    parameters.publish(3.0, version=5)
    assert inference.latest(never).version == 5
    _, after = inference.act(*request(1))
    np.testing.assert_array_equal(after, 3 * before)


def test_no_two_environments_or_batches_share_their_randomness():
    def act(params, observation, key):
        draws = jax.random.uniform(key, (observation.shape[0], 1))
        return jnp.zeros(len(draws), jnp.int32), draws

    gate = Gate()
    inference = batched(act, gate)
    calls = gathered(inference, gate, 4)
    gate.open.set()
    draws = [call.result(within=20.0)[1] for call in calls]
    draws += [inference.act(*request(0))[1] for _ in range(3)]
    assert len(np.unique(np.concatenate(draws))) == len(draws) * NUM_ENVS


def test_an_error_reaches_everyone_in_the_batch_and_nobody_waits():
    def act(params, observation, key):
        if observation.shape[0] > NUM_ENVS:
            raise ValueError("too many")
        return jnp.zeros(len(observation), jnp.int32), jnp.zeros([len(observation), 1])

    gate = Gate()
    inference = batched(act, gate)
    first, *others = gathered(inference, gate, 3)
    gate.open.set()
    assert first.result(within=10.0)[0].shape == (NUM_ENVS,)
    for call in others:
        with pytest.raises(ValueError, match="too many"):
            call.result(within=10.0)
    actions, _ = Call(lambda: inference.act(*request(9))).result(within=10.0)
    assert actions.shape == (NUM_ENVS,)


def test_many_threads_for_long():
    """Each always gets the answers to its own requests."""
    policy = Policy()
    inference = batched(policy, Newest(1.0))

    def play(seed):
        for i in range(40):
            frames, age = request(100 * seed + i)
            age[:] = STACK - 1
            _, logits = inference.act(frames, age)
            stacked = np.concatenate([frames[:, s] for s in range(STACK)], axis=-1)
            np.testing.assert_array_equal(logits, stacked.reshape(NUM_ENVS, -1))

    for call in [Call(lambda seed=seed: play(seed)) for seed in range(6)]:
        call.result(within=60.0)
    assert set(policy.sizes) <= {NUM_ENVS * 2**i for i in range(4)}
