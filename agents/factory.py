"""The agent that a configuration names."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp

from bmg.agents.agent import Agent, Spec
from bmg.agents.config import ALGORITHMS, AgentConfig
from bmg.storage.modules import FAILURES, failing_as, load_function, raised


def make_agent(config: AgentConfig, spec: Spec) -> Agent:
    """Calls `make(config, spec)` of a file of this folder, or the function of another's.

    Raises:
      ValueError: no such function, or settings that this agent does not take; one line.
    """
    name = config.algorithm
    make = load_function(f"bmg.agents.{name}:make" if name in ALGORITHMS else name)
    try:
        inspect.signature(make).bind(config, spec)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be called as make(config, spec): {error}.") from None
    try:
        agent = make(config, spec)
    except ValueError:  # of settings that it does not take
        raise
    except FAILURES as error:
        raise ValueError(f"{name} cannot be made: {raised(error)}") from error
    if not isinstance(agent, Agent):
        raise ValueError(f"{name} gives a {type(agent).__name__}, not an Agent.")
    return agent


def check_agent(name: str, agent: Agent, spec: Spec, dtype: str) -> None:
    """Traces an agent's `init` and `act`, without any array.

    Args:
      name: of the agent.
      agent: what it made.
      spec: that it was made for.
      dtype: of observations.

    Raises:
      ValueError: a function of it fails, or gives something else than `Agent` says; one line.
    """

    def traced(method: str, *arguments):
        with failing_as(f"{name} fails in {method}"):
            return jax.eval_shape(getattr(agent, method), *arguments)

    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    params = traced("acting_params", traced("init", key))
    observations = jax.ShapeDtypeStruct((2, *spec.observation_shape), dtype)
    found = traced("act", params, observations, jax.ShapeDtypeStruct((2, 2), jnp.uint32))
    shapes = [getattr(x, "shape", None) for x in found] if isinstance(found, (tuple, list)) else []
    if shapes != [(2,), (2, spec.num_actions)] or not jnp.issubdtype(found[0].dtype, jnp.integer):
        given = ", ".join(f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(found))
        raise ValueError(
            f"{name} gives {given or 'nothing'} in act for two observations; allowed are two "
            f"actions, int32[2], and their logits, float32[2, {spec.num_actions}]."
        )
