"""A2C on Snake: its losses as printed, its meta-gradients by finite differences, what is kept."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bmg.environments import snake as world
from bmg.experiments.multistep.objectives import objective_batch, unrolled_batches
from bmg.experiments.snake import a2c as snake
from bmg.experiments.snake import config as config_module
from bmg.experiments.snake.config import SnakeConfig
from bmg.meta import core, matching
from bmg.meta.objectives import mixture_weights

pytestmark = pytest.mark.usefixtures("quick_compilation", "doubles")
KEY = jax.random.PRNGKey(0)
SMALL = SnakeConfig(
    environments=3, rollout_length=5, channels=(3, 4), features=6, head_hidden=(5,),
    steps=150, record_every=15, entropy_weight=0.1, learning_rate=1e-2,
)  # fmt: skip
# The objectives differ in the meta-gradient alone: what follows serves all of them.
NETWORK, OPTIMIZER = snake.make_network(SMALL), snake.make_optimizer(SMALL)
FIXED = snake.make_lifetime(dataclasses.replace(SMALL, objective="fixed"))
INIT, WINDOW, APPLY = jax.jit(FIXED.init), jax.jit(FIXED.window), jax.jit(NETWORK.apply)
STEP = jax.jit(snake.make_step(NETWORK, OPTIMIZER, SMALL))


@functools.cache
def meta_gradient(config: SnakeConfig):
    """(logits, agent, key) -> the meta-gradient."""
    compute = snake.make_meta_gradient(NETWORK, OPTIMIZER, config)

    def of(logits, agent, key):
        return compute(logits, agent, unrolled_batches(config), objective_batch(config), key)

    return jax.jit(of)


@functools.cache
def played():
    """A lifetime some updates old, with a fruit in its rollout."""
    for seed in range(200):
        state = INIT(jax.random.PRNGKey(seed))
        for _ in range(3):
            state, _ = WINDOW(state, None)
        if np.sum(state.agent.rollout.reward) and np.any(state.agent.rollout.discount == 0):
            return state
    raise AssertionError("no fruit in 200 lifetimes")


def slow_errors(value, rollout, gamma, lambda_):
    """g - v, g_t = r + gamma d ((1 - lambda) v(s') + lambda g'), backwards; [T, B]."""
    value, reward, discount = map(np.asarray, (value, rollout.reward, rollout.discount))
    g, result = value[-1], np.zeros_like(reward)
    for t in reversed(range(len(reward))):
        g = reward[t] + gamma * discount[t] * ((1 - lambda_) * value[t + 1] + lambda_ * g)
        result[t] = g - value[t]
    return result


def test_the_network_has_the_papers_size():
    assert config_module.SIZE == world.SIZE
    params = jax.eval_shape(snake.make_network(SnakeConfig()).init, KEY)
    assert sum(x.size for x in jax.tree.leaves(params)) == 24_895
    params = jax.eval_shape(NETWORK.init, KEY)
    observation = jnp.zeros((2, 7, *world.OBSERVATION_SHAPE))
    outputs = jax.eval_shape(NETWORK.apply, params, observation)
    assert outputs.logits.shape == (2, 7, 4) and outputs.value.shape == (2, 7)


def test_returns_are_the_slow_loops():
    rng = np.random.default_rng(0)
    value, reward = rng.normal(size=(7, 3)), rng.normal(size=(6, 3))
    discount = (rng.uniform(size=(6, 3)) > 0.3).astype(float)
    rollout = snake.Rollout(None, None, reward, discount, None)
    errors = jax.jit(snake.return_errors)(value, rollout, 0.9, 0.7)
    np.testing.assert_allclose(errors, slow_errors(value, rollout, 0.9, 0.7), rtol=1e-9)


@pytest.mark.heavy
def test_the_agents_gradient_is_equation_3():
    """Term by term, from the Jacobians of log pi, v and H."""
    agent, rollout = played().agent, played().agent.rollout
    hyper = snake.Hyperparameters(0.9, 0.8, 0.3, 0.07)
    outputs = APPLY(agent.params, rollout.observation)
    advantage = slow_errors(outputs.value, rollout, 0.9, 0.8)

    def sums(params):
        out = NETWORK.apply(params, rollout.observation[:-1])
        log_pi = jax.nn.log_softmax(out.logits)
        chosen = jnp.take_along_axis(log_pi, rollout.action[..., None], -1)[..., 0]
        entropy = -jnp.sum(jnp.exp(log_pi) * log_pi, -1)
        return (
            jnp.mean(advantage * chosen),
            jnp.mean(advantage * out.value),
            jnp.mean(entropy),
        )

    def loss(params):
        outputs_now = NETWORK.apply(params, rollout.observation)
        return snake.a2c_loss(outputs_now, outputs, hyper, rollout)[0]

    @jax.jit
    def both(params):
        policy, critic, entropy = jax.jacrev(sums)(params)
        expected = jax.tree.map(lambda p, c, h: -p - 0.3 * c - 0.07 * h, policy, critic, entropy)
        return jax.grad(loss)(params), expected

    gradient, expected = both(agent.params)
    close(gradient, expected)
    # And the step follows it: clipped, then Adam.
    after, _ = STEP(jax.tree.map(lambda x: np.log(x / (1 - x)), hyper), agent, None, KEY)
    params, opt_state = descended(agent, expected)
    close(after.params, params, rtol=1e-5)
    close(optax.tree.get(after.opt_state, "mu"), optax.tree.get(opt_state, "mu"), rtol=1e-5)


@jax.jit
def descended(agent, gradient):
    """Parameters and optimiser after a step along that gradient."""
    updates, opt_state = OPTIMIZER.update(gradient, agent.opt_state)
    return optax.apply_updates(agent.params, updates), opt_state


def close(actual, expected, rtol=1e-8):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


def outer_advantage(agent):
    """g' - v of the agent's rollout, [T, B]."""
    value = APPLY(agent.params, agent.rollout.observation).value
    return slow_errors(value, agent.rollout, SMALL.outer_discount, SMALL.outer_trace_decay)


@jax.jit
@jax.value_and_grad
def outer_loss(params, rollout, advantage):
    """Equation 4's loss, and its gradient."""
    log_pi = jax.nn.log_softmax(NETWORK.apply(params, rollout.observation[:-1]).logits)
    chosen = jnp.take_along_axis(log_pi, rollout.action[..., None], -1)[..., 0]
    return -jnp.mean(advantage * chosen)


@pytest.mark.heavy
def test_the_outer_gradient_is_equation_4():
    """The policy's alone: the critic's head has none."""
    agent = played().agent
    _, expected = outer_loss(agent.params, agent.rollout, outer_advantage(agent))
    loss = snake.make_outer_loss(NETWORK, SMALL)
    gradient = jax.jit(jax.grad(lambda p: loss(agent._replace(params=p), None, None)[0]))(
        agent.params
    )
    close(gradient, expected)
    for name, module in gradient.items():
        moved = any(np.any(x != 0) for x in module.values())
        assert moved != name.startswith("critic"), name


@pytest.mark.heavy
def test_a_rollout_is_what_happened():
    """Played again move by move; the policy's actions have its frequencies."""
    agent = played().agent

    @functools.partial(jax.jit, static_argnums=1)
    def collect(games, length):
        return snake.collect(NETWORK, agent.params, games, KEY, length)

    games, rollout = collect(agent.games, 40)
    noise = jax.random.split(jax.random.split(KEY)[1], (40, 3))
    replayed = agent.games
    step = jax.jit(jax.vmap(functools.partial(world.step, world.make_params())))
    for t in range(40):
        np.testing.assert_array_equal(rollout.observation[t], replayed.observation)
        replayed, transition = step(replayed, rollout.action[t], noise[t])
        np.testing.assert_array_equal(rollout.reward[t], transition.reward)
        np.testing.assert_array_equal(rollout.discount[t], transition.discount)
        np.testing.assert_array_equal(rollout.episode_return[t], transition.episode_return)
    np.testing.assert_array_equal(rollout.observation[40], games.observation)
    assert np.any(rollout.discount == 0)

    same = jax.tree.map(lambda x: np.broadcast_to(x[:1], (4_000, *x.shape[1:])), agent.games)
    _, first = collect(same, 1)
    share = np.bincount(first.action[0], minlength=4) / 4_000
    logits = APPLY(agent.params, rollout.observation).logits[0, 0]
    np.testing.assert_allclose(share, np.exp(logits) / np.exp(logits).sum(), atol=0.03)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("objective", "steps"),
    [("n-step", 1), ("n-step", 2), ("mixed", 2), ("bmg", 2), ("mixed-bmg", 2)],
)
def test_the_meta_gradient_agrees_with_finite_differences(objective, steps):
    """Through clipping, Adam and its moments; every hyper-parameter has a part in it.

    The loss is put together again from steps. What is constant in it is held: advantages, targets.
    """
    config = dataclasses.replace(SMALL, objective=objective, inner_steps=steps)
    agent = played().agent
    logits = jax.tree.map(np.float64, snake.initial_logits(config))
    logits = logits._replace(discount=logits.discount - 3.0, trace_decay=logits.trace_decay - 4.0)
    result = meta_gradient(config)(logits, agent, KEY)
    _, unroll_key, objective_key = jax.random.split(KEY, 3)
    weights = {"mixed": mixture_weights(steps), "mixed-bmg": mixture_weights(steps)}.get(
        objective, (0.0,) * (steps - 1) + (1.0,)
    )

    def unrolled(logits):
        return core.unroll(STEP, logits, agent, unrolled_batches(config), unroll_key).states[1:]

    if objective.endswith("bmg"):
        (start,) = unrolled(logits)
        targets_key, _ = jax.random.split(objective_key)
        ahead = core.unroll(STEP, logits, start, (None,) * (steps - 1), targets_key).states
        observation = start.rollout.observation[:-1]
        targets = []
        for x in ahead:
            _, grad = outer_loss(x.params, x.rollout, outer_advantage(x))
            params, _ = descended(x, grad)
            targets.append(APPLY(params, observation))

        def loss(logits):
            (start,) = unrolled(logits)
            online = APPLY(start.params, observation)
            return sum(w * kl(target, online) for w, target in zip(weights, targets))
    else:
        advantages = [outer_advantage(x) for x in unrolled(logits)]

        def loss(logits):
            states = zip(weights, unrolled(logits), advantages)
            return sum(w * outer_loss(x.params, x.rollout, a)[0] for w, x, a in states)

    np.testing.assert_allclose(result.loss, loss(logits), rtol=1e-6)
    width = 1e-5
    for name in snake.Hyperparameters._fields:
        up, down = (
            loss(logits._replace(**{name: getattr(logits, name) + sign * width}))
            for sign in (1, -1)
        )
        slope = (up - down) / (2 * width)
        assert abs(slope) > 1e-12, name
        np.testing.assert_allclose(getattr(result.gradient, name), slope, rtol=1e-3)
    close(result.next_state, unrolled(logits)[0])  # what is kept is the first update


kl = jax.jit(matching.kl)


@pytest.mark.heavy
@pytest.mark.parametrize("objective", ["mixed", "bmg"])
def test_what_a_lifetime_keeps_is_the_first_update(objective):
    """Parameters, optimiser, games and rollout of one update under the old meta-parameters."""
    config = dataclasses.replace(SMALL, objective=objective, inner_steps=2)
    lifetime, state = snake.make_lifetime(config), played()
    after, columns = jax.jit(lifetime.window)(state, None)
    assert set(columns) == set(lifetime.columns)
    _, key = jax.random.split(state.key)
    _, unroll_key, _ = jax.random.split(key, 3)
    step_key = jax.random.split(unroll_key, len(unrolled_batches(config)))[0]
    expected, _ = STEP(state.meta.params, state.agent, None, step_key)
    close(after.agent, expected)
    assert all(np.any(x != y) for x, y in zip(after.meta.params, state.meta.params))


@pytest.mark.heavy
def test_an_estimate_is_the_meta_gradient_on_data_of_its_own():
    """The agent's next rollout is collected anew, and everything after it."""
    config = dataclasses.replace(SMALL, objective="n-step", inner_steps=1)
    state = played()
    estimate = jax.jit(snake.make_estimate(config))
    first, second = (estimate(state, key) for key in jax.random.split(KEY))
    assert all(np.any(a != b) and np.any(a != 0) for a, b in zip(first, second))
    rollout_key, key = jax.random.split(jax.random.split(KEY)[0])
    advance = jax.jit(lambda agent, key: snake.advance(NETWORK, agent, key, config))
    agent = advance(state.agent, rollout_key)
    assert np.any(agent.rollout.action != state.agent.rollout.action)
    expected = meta_gradient(config)(state.meta.params, agent, key).gradient
    for a, b in zip(first, expected):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-12)


def test_records_and_the_falling_step_size():
    """Sums over the episodes that ended; after the last update nothing moves any more."""
    state = INIT(KEY)
    for _ in range(SMALL.steps // SMALL.steps_per_update):
        rollout, before = state.agent.rollout, state.agent.params
        state, columns = WINDOW(state, None)
        ended = np.asarray(rollout.discount) == 0
        assert columns["episodes"][0] == ended.sum()
        assert columns["returns"][0] == np.asarray(rollout.episode_return)[ended].sum()
        for name in snake.Hyperparameters._fields:
            np.testing.assert_allclose(columns[name][0], getattr(SMALL, name), rtol=1e-5)
        pairs = zip(jax.tree.leaves(state.agent.params), jax.tree.leaves(before), strict=True)
        assert any(np.any(x != y) for x, y in pairs)
    last = state.agent.params
    state, _ = WINDOW(state, None)
    for a, b in zip(jax.tree.leaves(state.agent.params), jax.tree.leaves(last), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accumulative_trace": 0.5, "objective": "bmg"}, "--accumulative-trace with"),
        ({"channels": (8, 8, 8)}, "channels has 3 layers"),
        ({"record_every": 100}, "record_every is 100; allowed are integers from 640"),
    ],
)
def test_bad_configurations_are_one_line(change, words):
    with pytest.raises(ValueError, match=words) as caught:
        SnakeConfig(**change)
    assert "\n" not in str(caught.value)
