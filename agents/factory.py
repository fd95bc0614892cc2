"""The agent that a configuration names."""

from __future__ import annotations

from bmg.agents.agent import Agent, Spec
from bmg.agents.config import ALGORITHMS, AgentConfig
from bmg.storage.modules import load_named


def make_agent(config: AgentConfig, spec: Spec) -> Agent:
    """Calls `make(config, spec)` of a file of this folder, or the function of another's.

    Raises:
      ValueError: no such function, or settings that this agent does not take; one line.
    """
    name = config.algorithm
    make = load_named(f"bmg.agents.{name}:make" if name in ALGORITHMS else name)
    if not callable(make):
        raise ValueError(f"{name} is a {type(make).__name__}; give a function.")
    return make(config, spec)
