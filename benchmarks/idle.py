"""An agent that acts and learns nothing: what is measured is the rest of the system."""

from __future__ import annotations

from bmg.agents import impala
from bmg.agents.agent import Agent, Spec
from bmg.agents.config import AgentConfig


def make(config: AgentConfig, spec: Spec) -> Agent:
    """IMPALA whose update only consumes its data."""

    def update(state, batch, frames, key):
        return state, {}

    return impala.make(config, spec)._replace(update=update)
