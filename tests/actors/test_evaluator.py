"""Evaluation: one whole episode per environment, of the parameters it is stamped with."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.actors.evaluator import play_episodes, run_evaluator
from bmg.agents.messages import Evaluation
from bmg.environments.atari import LIGHT
from bmg.environments.base import EnvironmentSpec, Step, first_step
from bmg.environments.factory import make
from tests.actors.fakes import Newest, never

KEY = jax.random.PRNGKey(0)


def where(observation):
    """(ball's column, paddle's column) of Catch's frames [N, 10, 5, 1]."""
    ball = jnp.argmax(jnp.max(observation[:, :-1, :, 0], axis=1), axis=-1)
    return ball, jnp.argmax(observation[:, -1, :, 0], axis=-1)


def towards(target, paddle):
    actions = (jnp.sign(target - paddle) + 1).astype(jnp.int32)
    return actions, jax.nn.one_hot(actions, 3)


def catching(params, observation, keys):
    ball, paddle = where(observation)
    return towards(ball, paddle)


def missing(params, observation, keys):
    ball, paddle = where(observation)
    return towards(jnp.where(ball >= 3, 0, 4), paddle)


def following_parameters(params, observation, keys):
    ball, paddle = where(observation)
    return towards(jnp.where(params > 0, ball, jnp.where(ball >= 3, 0, 4)), paddle)


@pytest.mark.parametrize(("act", "expected"), [(catching, 1.0), (missing, -1.0)])
def test_catch_with_a_perfect_and_a_worst_policy(act, expected):
    environment = make("catch", 50, 1, 0, LIGHT, 0)
    returns = play_episodes(environment, jax.jit(act), None, KEY, never)
    np.testing.assert_array_equal(returns, np.full(50, expected, np.float32))


class Episodes:
    """Environment n's e-th episode lasts lengths[n][e] steps and returns returns[n][e]."""

    def __init__(self, lengths, returns, limit: int = 200):
        self.spec = EnvironmentSpec((2, 2, 1), 2, 2, 1)
        self.num_envs = len(lengths)
        self.steps = 0
        self._lengths, self._returns, self._limit = lengths, returns, limit

    def _frame(self) -> np.ndarray:
        return np.full((self.num_envs, 2, 2, 1), self.steps % 256, np.uint8)

    def reset(self) -> Step:
        self._left = [lengths[0] for lengths in self._lengths]
        self._episode = [0] * self.num_envs
        return first_step(self._frame())

    def step(self, actions) -> Step:
        self.steps += 1
        assert self.steps < self._limit, "played on for too long"
        returns = np.full(self.num_envs, np.nan, np.float32)
        first = np.zeros(self.num_envs, bool)
        for n in range(self.num_envs):
            self._left[n] -= 1
            if self._left[n] == 0:
                first[n] = True
                returns[n] = self._returns[n][self._episode[n]]
                self._episode[n] += 1
                self._left[n] = self._lengths[n][self._episode[n] % len(self._lengths[n])]
        zeros = np.zeros(self.num_envs, np.float32)
        return Step(self._frame(), zeros, 1 - first.astype(np.float32), first, returns)

    def close(self) -> None:
        pass


def still(params, observation, keys):
    shape = observation.shape[:1]
    return jnp.zeros(shape, jnp.int32), jnp.zeros((*shape, 2))


def test_each_environment_counts_with_its_first_episode_alone():
    environment = Episodes([[2, 2, 50], [7, 50], [1, 1, 1, 1, 1, 1, 1, 1]],
                           [[5, 100, 100], [-3, 100], [0] + [100] * 7])  # fmt: skip
    returns = play_episodes(environment, jax.jit(still), None, KEY, never)
    np.testing.assert_array_equal(returns, [5, -3, 0])
    assert environment.steps == 7, "it ends with the longest first episode"


def test_playing_ends_when_asked_to_stop():
    environment = Episodes([[100]], [[1]])
    stopping = iter([False, False, False, True])
    assert play_episodes(environment, jax.jit(still), None, KEY, lambda: next(stopping)) is None
    assert environment.steps == 3


def test_the_policy_sees_stacks_that_begin_anew_with_an_episode():
    seen = []

    def act(params, observation, keys):
        seen.append(observation[:, 0, 0].copy())
        return np.zeros(len(observation), np.int32), None

    environment = Episodes([[2, 9], [5, 9]], [[0, 0], [0, 0]])
    play_episodes(environment, act, None, KEY, never)
    # Frame number i is all i; the reset's is black as well.
    np.testing.assert_array_equal(np.stack(seen)[:, 0], [[0, 0], [0, 1], [0, 2], [2, 3], [3, 4]])
    np.testing.assert_array_equal(np.stack(seen)[:, 1], [[0, 0], [0, 1], [1, 2], [2, 3], [3, 4]])


def evaluate(environment, parameters, report, should_stop=never, interval=0.0, act=still):
    run_evaluator(environment, act, parameters, report, should_stop, interval, KEY)


def test_final_parameters_are_evaluated_once_and_end_it():
    """Worst parameters first, then the final, perfect ones."""
    environment = make("catch", 20, 2, 0, LIGHT, 0)
    parameters = Newest(-1.0, 3, final=False)
    reports: list[Evaluation] = []

    def report(evaluation):
        reports.append(evaluation)
        if len(reports) == 2:
            parameters.publish(1.0, 8, final=True)

    evaluate(environment, parameters, report, act=following_parameters)
    older, final = Evaluation(3, 120, -1.0, 0.0, 20, False), Evaluation(8, 320, 1.0, 0.0, 20, True)
    assert reports == [older, older, final]


def test_the_final_evaluation_comes_even_for_a_version_seen_before():
    parameters = Newest(1.0, 5, final=False)
    reports: list[Evaluation] = []

    def report(evaluation):
        reports.append(evaluation)
        parameters.publish(1.0, 5, final=True)

    # The interval is longer than any test: the final parameters must cut it short.
    evaluate(Episodes([[3]], [[2]]), parameters, report, interval=3600.0)
    assert [(r.version, r.final) for r in reports] == [(5, False), (5, True)]


def test_an_older_evaluation_is_abandoned_for_the_final_one():
    parameters = Newest(-1.0, 1, final=False)

    class Interrupted(Episodes):
        """Under the first parameters no episode ever ends."""

        def reset(self) -> Step:
            step = super().reset()
            if not parameters.latest.final:
                self._left = [10**9, 10**9]
            return step

        def step(self, actions) -> Step:
            if self.steps == 5:
                parameters.publish(1.0, 2, final=True)
            return super().step(actions)

    environment = Interrupted([[4], [6]], [[10], [20]])
    reports: list[Evaluation] = []
    evaluate(environment, parameters, reports.append)
    assert reports == [Evaluation(2, 80, 15.0, 5.0, 2, True)]
    assert environment.steps == 6 + 6


def test_newer_parameters_that_are_not_final_do_not_abandon_an_evaluation():
    parameters = Newest(0.0, 1, final=False)

    class Newer(Episodes):
        def step(self, actions) -> Step:
            if self.steps == 2:
                parameters.publish(0.0, 2, final=False)
            return super().step(actions)

    reports: list[Evaluation] = []
    evaluate(Newer([[5]], [[1]]), parameters, reports.append, should_stop=lambda: bool(reports))
    assert [(r.version, r.frames) for r in reports] == [(1, 40)]


def test_evaluating_ends_when_asked_to_stop():
    reports: list[Evaluation] = []
    environment = Episodes([[10**9]], [[1]])
    evaluate(
        environment,
        Newest(0.0, 1, final=False),
        reports.append,
        should_stop=lambda: environment.steps >= 10,
    )
    assert reports == [] and environment.steps == 10


def test_a_return_that_is_not_finite_ends_its_episode_and_counts_for_none():
    environment = Episodes([[3, 9], [2, 9], [4, 9]], [[np.nan, 0], [5, 0], [7, 0]])
    returns = play_episodes(environment, jax.jit(still), None, KEY, never)
    np.testing.assert_array_equal(returns, [np.nan, 5, 7])
    assert environment.steps == 4
    reports: list[Evaluation] = []
    evaluate(environment, Newest(0.0, 3, final=True), reports.append)
    assert (reports[0].mean_return, reports[0].episodes) == (6.0, 2)
    lost = Episodes([[3, 9]], [[np.inf, 0]])
    with pytest.raises(FloatingPointError, match="none of 1 episodes had a finite return"):
        evaluate(lost, Newest(0.0, 3, final=True), reports.append)
