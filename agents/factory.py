"""The agent that a configuration names."""

from __future__ import annotations

import inspect

from bmg.agents.agent import Agent, Spec
from bmg.agents.config import ALGORITHMS, AgentConfig
from bmg.storage.modules import load_function, raised


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
    except SystemExit as error:
        raise ValueError(f"{name} cannot be made: {raised(error)}") from error
    if not isinstance(agent, Agent):
        raise ValueError(f"{name} gives a {type(agent).__name__}, not an Agent.")
    return agent
