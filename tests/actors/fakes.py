"""Parameters that a test sets, and rollouts that act with them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bmg.actors.inference import LocalInference
from bmg.actors.rollout import Rollout
from bmg.agents.messages import VersionedParameters


def never() -> bool:
    return False


class Newest:
    """Stands in for a ParameterClient: the newest parameters are those that the test publishes."""

    def __init__(self, params=1.0, version: int = 0, final: bool = False):
        self.publish(params, version, final)

    def publish(self, params, version: int, final: bool = False) -> None:
        params = jax.tree.map(jnp.asarray, params)
        self.latest = VersionedParameters(params, version, 40 * version, final)

    def wait(self, should_stop) -> VersionedParameters:
        return self.latest


def make_rollout(environment, act, length: int, seed: int = 0, parameters=None) -> Rollout:
    """A rollout that acts by itself; `parameters` are a `Newest`, or none that matter."""
    inference = LocalInference(act, parameters or Newest())
    inference.newest(never)
    return Rollout([environment], inference.ask, length, jax.random.PRNGKey(seed))
