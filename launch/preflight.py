"""What is found out about a run, and refused, before any process starts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from typing import Any, NamedTuple

from bmg.launch.config import TrainConfig
from bmg.launch.runtimes.choice import check_runtime, choose_runtime


class Plan(NamedTuple):
    """What was found out about a run before it starts."""

    spec: Any  # the environment's shapes
    central_inference: bool  # whether the learner's process chooses the actors' actions


def check(config: TrainConfig) -> Plan:
    """Refuses what could only fail later, before any process starts.

    Raises:
      ValueError: one line.
    """
    from bmg.environments.factory import make_spec

    check_runtime(config.runtime)
    if config.gate_port and (runtime := choose_runtime(config.runtime)[0]) != "launchpad":
        raise ValueError(
            f"--gate-port {config.gate_port}: actors on other machines write to a Reverb server, "
            f"and this run's runtime is {runtime}; give --runtime launchpad, or --gate-port 0."
        )
    spec = make_spec(config.game, config.atari, config.game_options)
    if config.learner.replay_batch and not config.replay.replay_capacity:
        raise ValueError("replay_batch needs replay; give --replay.replay-capacity.")
    from bmg.actors.rollout import agent_spec
    from bmg.agents.config import ALGORITHMS
    from bmg.agents.factory import check_agent, make_agent
    from bmg.learner.hosts import check_port
    from bmg.learner.placement import split
    from bmg.learner.update import check_batch

    made_for = agent_spec(spec)
    agent = make_agent(config.agent, made_for)
    if config.agent.algorithm not in ALGORITHMS:
        check_agent(config.agent.algorithm, agent, made_for, spec.dtype)
    if config.runtime == "in-graph":
        return _check_in_graph(config, agent, spec)
    threads = choose_runtime(config.runtime)[0] == "local-threads"
    check_port(config.hosts)
    choice = config.actors.inference
    if _slice_of_several_hosts(config):  # whose devices come up together, in the learners alone
        central_inference = threads or choice != "actor"
    else:
        platform, there = look_at_devices(config.learner.platform)
        central_inference = (
            threads or choice == "server" or (choice == "auto" and platform != "cpu")
        )
        learning = split(config.devices, there, platform, central_inference).learner
        check_batch(config.learner, agent, learning * config.hosts.count)
    if threads:
        from bmg.actors.rollout import trajectory_signature
        from bmg.replay.memory import check_memory

        check_memory(trajectory_signature(spec, config.learner.unroll_length), config.replay)
    return Plan(spec, central_inference)


def _check_in_graph(config: TrainConfig, agent, spec) -> Plan:
    """Likewise, of what runs as one compiled program."""
    from bmg.environments.factory import make_world
    from bmg.experiments.runner import count_cores
    from bmg.learner.update import check_batch

    make_world(config.game, config.game_options)
    check_batch(config.learner, agent, 1)
    for given, option in (
        (config.hosts.count > 1, "hosts"), (config.devices.inference, "devices.inference"),
        (config.learner.profile_updates, "learner.profile-updates"),
    ):  # fmt: skip
        if given:
            raise ValueError(f"--runtime in-graph has no --{option}; leave it out.")
    platform, there = look_at_devices(config.learner.platform)
    if platform == "cpu":  # see `use_all_cores`
        there = max(there, min(count_cores(), config.seeds))
    if config.devices.learner > there:
        raise ValueError(
            f"devices.learner is {config.devices.learner}, and there are {there}; give fewer."
        )
    return Plan(spec, central_inference=False)


def _slice_of_several_hosts(config: TrainConfig) -> bool:
    """Whether this is one host of a TPU slice."""
    here = importlib.util.find_spec("libtpu") is not None
    return here and config.hosts.count > 1 and config.learner.platform in ("", "tpu")


def look_at_devices(platform: str) -> tuple[str, int]:
    """What devices the learner's process will find: their platform, and how many.

    They are looked at in a process of its own, as whoever opens an accelerator keeps it; and not at
    all where there can be nothing but the one CPU.

    Raises:
      ValueError: a platform that is not there; one line.
    """
    several = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    accelerators = importlib.metadata.entry_points(group="jax_plugins") or (
        importlib.util.find_spec("libtpu")
    )
    if not several and (platform == "cpu" or not platform and not accelerators):
        return "cpu", 1
    code = (
        "import sys; from bmg.learner.placement import local_devices\n"
        f"try: devices = local_devices({platform!r})\n"
        "except ValueError as error: sys.exit('error: ' + str(error))\n"
        "print(devices[0].platform, len(devices))"
    )
    looked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if looked.returncode:
        lines = looked.stderr.strip().splitlines() or ["the devices could not be looked at."]
        raise ValueError(lines[-1].removeprefix("error: "))
    found, number = looked.stdout.split()[-2:]
    return found, int(number)
