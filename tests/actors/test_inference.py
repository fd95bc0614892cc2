"""One batch for many actors: each gets what it would have got alone."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.actors import inference as inference_module
from bmg.actors.inference import AskedToStop, BatchedInference, LocalInference, Newest, Request
from bmg.actors.rollout import Rollout, agent_spec
from bmg.actors.shared import SharedRequests
from bmg.agents.config import NetworkConfig
from bmg.agents.networks import acting_policy, make_network
from bmg.environments.atari import LIGHT
from bmg.environments.factory import make
from tests.actors import fakes
from tests.actors.fakes import never
from tests.waiting import DEADLINE, Call, eventually

NUM_ENVS, STACK = 3, 2
LONG = 1_000.0  # seconds of patience: a batch goes when it is full


class Policy:
    """Actions and logits are functions of the observation; remembers what it was compiled for."""

    def __init__(self):
        self.sizes: list[int] = []

    def __call__(self, params, observation, keys):
        self.sizes.append(observation.shape[0])
        flat = observation.reshape(observation.shape[0], -1).astype(jnp.float32)
        return jnp.sum(flat, axis=1).astype(jnp.int32) % 5, params * flat


def draw(params, observation, keys):
    """Logits are random draws."""
    draws = jax.vmap(jax.random.uniform)(keys)[:, None]
    return jnp.zeros(len(observation), jnp.int32), draws


def request(seed: int, num_envs: int = NUM_ENVS, actor: int = 0, step: int = 0) -> Request:
    """Of one actor's environments."""
    rng = np.random.default_rng(seed)
    stream = np.zeros((num_envs, 4), np.uint32)
    stream[:, :2] = np.asarray(jax.random.PRNGKey(actor))
    stream[:, 2], stream[:, 3] = step, np.arange(num_envs)
    return Request(
        rng.integers(0, 256, (num_envs, STACK, 4, 2, 1)).astype(np.uint8),
        rng.integers(0, STACK, num_envs).astype(np.int32),
        stream,
    )


@pytest.fixture
def batched():
    """Makes servers, which are closed in the end."""
    made = []

    def make_server(policy, parameters=None, size=NUM_ENVS, slots=1, patience=LONG, devices=1):
        parameters = parameters or fakes.Newest()
        made.append(BatchedInference(policy, [parameters] * devices, size, slots, patience))
        return made[-1]

    yield make_server
    for server in made:
        server.close()


def alone(policy, parameters, asked: Request):
    """What an actor that chooses for itself would do."""
    inference = LocalInference(policy, parameters)
    inference.newest(never)
    return inference.ask(asked)()


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), (3, 1, 2, 3)])
def test_each_request_gets_its_own_answer(batched, sizes):
    policy, parameters = Policy(), fakes.Newest(2.0)
    inference = batched(policy, parameters, slots=4)
    requests = [request(seed, size) for seed, size in enumerate(sizes)]
    answers = [inference.ask(one) for one in requests]
    for one, answer in zip(requests, answers):
        actions, expected = Call(answer).result(), alone(Policy(), parameters, one)
        np.testing.assert_array_equal(actions.action, expected.action)
        np.testing.assert_array_equal(actions.logits, expected.logits)
        assert actions.action.shape == (len(one.age),)
    assert policy.sizes == [4 * NUM_ENVS]


def test_a_batch_goes_when_it_is_full_or_its_oldest_request_has_waited(batched, monkeypatch):
    looks = []  # at the clock: of who asks, and of the server when there is something to wait for

    def monotonic() -> float:
        looks.append(threading.current_thread())
        return time.monotonic()

    clock = types.SimpleNamespace(monotonic=monotonic)
    monkeypatch.setattr(inference_module, "time", clock)
    policy = Policy()
    inference = batched(policy, slots=2, patience=0.3)
    inference.warm_up(request(0))
    start = time.monotonic()
    Call(inference.ask(request(1))).result()
    assert time.monotonic() - start >= 0.3
    inference = batched(policy, slots=2)
    inference.warm_up(request(0))
    looks.clear()
    first = Call(inference.ask(request(1)))
    eventually(lambda: set(looks) - {threading.current_thread()})
    Call(inference.ask(request(2))).result()
    first.result()
    eventually(lambda: inference._counts.requests == 2)
    assert inference.metrics()["inference/occupancy"] == 1.0, "half a batch waits"
    assert set(policy.sizes) == {2 * NUM_ENVS}, "and whatever is in it, it has one shape"


def test_every_batch_acts_with_the_newest_parameters(batched):
    parameters = fakes.Newest(1.0, version=4)
    inference = batched(Policy(), parameters)
    before = inference.ask(request(1))()
    parameters.publish(3.0, version=5, final=True)
    assert inference.newest(never) == Newest(5, True)
    np.testing.assert_array_equal(inference.ask(request(1))().logits, 3 * before.logits)


def test_what_is_drawn_depends_on_actor_step_and_environment_alone(batched):
    asked = [request(9, actor=actor, step=step) for actor in range(3) for step in range(4)]
    together, single = batched(draw, slots=12), batched(draw)
    answers = [together.ask(one) for one in asked]
    draws = np.concatenate([Call(answer).result().logits for answer in answers])
    assert len(np.unique(draws)) == 12 * NUM_ENVS
    for one, expected in zip(reversed(asked), reversed(draws.reshape(12, NUM_ENVS, 1))):
        np.testing.assert_array_equal(single.ask(one)().logits, expected)
        part = Request(*(x[1:] for x in one))
        np.testing.assert_array_equal(single.ask(part)().logits, expected[1:])


def test_an_error_reaches_everyone_in_the_batch_and_the_learner(batched):
    class Broken(fakes.Newest):
        def wait(self, should_stop):
            if self.latest.params < 0:
                raise ValueError("device lost")
            return super().wait(should_stop)

    parameters = Broken(-1.0)
    inference = batched(Policy(), parameters, slots=2)
    inference.check()
    for call in [Call(inference.ask(request(i))) for i in range(2)]:
        with pytest.raises(ValueError, match="device lost"):
            call.result()
    with pytest.raises(RuntimeError, match="inference failed: device lost"):
        inference.check()
    parameters.publish(1.0, 1)  # nobody is left waiting, and the thread is still there
    for call in [Call(inference.ask(request(i))) for i in range(2)]:
        assert call.result().action.shape == (NUM_ENVS,)


def test_who_waits_is_told_of_the_end(batched):
    inference = batched(Policy(), slots=2)
    waiting = Call(inference.ask(request(1)))
    inference.close()
    with pytest.raises(AskedToStop):
        waiting.result()
    with pytest.raises(AskedToStop):
        inference.ask(request(2))


def test_several_devices_take_a_batch_each(batched):
    together = threading.Barrier(3, timeout=DEADLINE)

    class Slow(fakes.Newest):
        """No batch is answered before all three are begun."""

        def wait(self, should_stop):
            together.wait()
            return super().wait(should_stop)

    inference = batched(Policy(), Slow(), devices=3)
    for call in [Call(inference.ask(request(i))) for i in range(3)]:
        call.result()


def test_metrics_count_since_the_last_look(batched):
    inference = batched(Policy(), slots=2, patience=0.0)
    inference.ask(request(0))()
    eventually(lambda: inference._counts.batches == 1)
    metrics = inference.metrics()
    assert metrics["inference/occupancy"] == 0.5
    assert metrics["inference/steps_per_second"] > 0 and metrics["inference/milliseconds"] > 0
    assert inference.metrics()["inference/steps_per_second"] == 0


def test_many_actors_for_long(batched):
    """Each always gets the answers to its own requests."""
    inference = batched(Policy(), slots=4, patience=0.001, devices=2)

    def play(seed):
        for i in range(40):
            one = request(100 * seed + i)
            one.age[:] = STACK - 1
            logits = inference.ask(one)().logits
            stacked = np.concatenate([one.frames[:, s] for s in range(STACK)], axis=-1)
            np.testing.assert_array_equal(logits, stacked.reshape(NUM_ENVS, -1))

    for call in [Call(lambda seed=seed: play(seed)) for seed in range(6)]:
        call.result()


@pytest.mark.usefixtures("quick_compilation")
def test_the_server_gives_the_trajectories_of_actors_that_choose_themselves(batched):
    """On a real game, in halves and whole, beside another actor, ends of episodes included."""
    num_envs, length = 4, 10
    network = NetworkConfig(torso="shallow", features=32, head_hidden=())
    config = LIGHT.__class__(**{**vars(LIGHT), "max_episode_frames": 60})

    def environments(actor, sizes):
        ends = itertools.accumulate(sizes)
        return [make("breakout", n, 3, actor, config, 1, end - n) for n, end in zip(sizes, ends)]

    spec = environments(0, [1])[0].spec
    net = make_network(network, *agent_spec(spec)[:2], 1)
    policy = acting_policy(net)
    parameters = fakes.Newest(net.init(jax.random.PRNGKey(2)), version=7)
    server = batched(policy, parameters, size=num_envs // 2, slots=2, patience=0.01)

    def play(actor, sizes, inference):
        rollout = Rollout(
            environments(actor, sizes), inference.ask, length, jax.random.PRNGKey(actor)
        )
        return [rollout.collect(inference.newest(never).version, time.monotonic) for _ in range(3)]

    asking = [Call(lambda a=actor: play(a, [2, 2], server)) for actor in range(2)]
    for actor, call in enumerate(asking):
        expected = play(actor, [num_envs], LocalInference(policy, parameters))
        for ours, theirs in zip(call.result(), expected):
            for name, x, y in zip(ours._fields, ours, theirs):
                if name == "behaviour_logits":  # sums in another order
                    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
                else:
                    np.testing.assert_array_equal(x, y, err_msg=name)
        assert any((unroll.discount == 0).any() for unroll in expected)


def _read(address, asked, answers) -> None:
    """In another process: what the shared memory holds."""
    shared = SharedRequests(address)
    while (rows := asked.get()) is not None:
        answers.put([np.array(x) for x in shared.get(*rows)])


@pytest.mark.skipif(not hasattr(__import__("os"), "memfd_create"), reason="needs Linux")
def test_another_process_reads_what_an_actor_shares():
    shared = SharedRequests.make(5, (STACK, 4, 2, 1), "uint8")
    context = multiprocessing.get_context("spawn")
    asked, answers = context.Queue(), context.Queue()
    reader = context.Process(target=_read, args=(shared.address, asked, answers), daemon=True)
    reader.start()
    whole = request(3, 5)
    for first, end in [(0, 3), (3, 5), (0, 5)]:
        part = Request(*(x[first:end] for x in whole))
        rows = shared.put(part)
        assert rows == (first, end - first)
        asked.put(rows)
        for x, y in zip(part, answers.get(timeout=DEADLINE)):
            np.testing.assert_array_equal(x, y)
        whole = request(4 + end, 5)
    asked.put(None)
    reader.join(timeout=DEADLINE)
    assert reader.exitcode == 0
