"""One learner update: STACX and BMG against the plain IMPALA update on the same batch.

Needs only JAX, Haiku and Optax. Times are medians over interleaved repetitions, so that a noisy
machine disturbs all rows alike; ratios are within one run.
"""

from __future__ import annotations

import statistics
import time

import jax
import numpy as np

from agents.agent import UpdateBatch, make_agent
from agents.config import AgentConfig, MetaConfig, NetworkConfig
from agents.trajectory import Trajectory

_ONLINE, _REPLAY, _LENGTH = 6, 12, 20  # BMG Table 2
_ACTIONS, _STACK, _SIZE = 6, 4, 84  # Pong, 84x84 grey

NETWORKS = {
    "shallow": NetworkConfig(torso="shallow"),
    "1x": NetworkConfig(channels=(16, 32, 32, 16)),
}
CASES = [("impala", 1, 0), ("stacx", 1, 0), ("bmg", 1, 1), ("bmg", 1, 4)]


def random_trajectories(rng: np.random.Generator, batch: int) -> Trajectory:
    """Unrolls of random frames and actions, [batch] of each field."""
    frames = (batch, _STACK + _LENGTH, _SIZE, _SIZE, 1)
    return Trajectory(
        frames=rng.integers(0, 256, frames, dtype=np.uint8),
        age=np.full((batch, _LENGTH + 1), _STACK - 1, np.int32),
        action=rng.integers(0, _ACTIONS, (batch, _LENGTH), dtype=np.int32),
        reward=rng.normal(size=(batch, _LENGTH)).astype(np.float32),
        discount=np.ones((batch, _LENGTH), np.float32),
        behaviour_logits=rng.normal(size=(batch, _LENGTH, _ACTIONS)).astype(np.float32),
        episode_return=np.full((batch, _LENGTH), np.nan, np.float32),
        parameter_version=np.zeros(batch, np.int32),
    )


def compile_update(algorithm: str, network: NetworkConfig, inner_steps: int, target_steps: int):
    """A compiled update with its state and batch on the device."""
    meta = MetaConfig(inner_steps=inner_steps, target_steps=max(target_steps, 1))
    config = AgentConfig(algorithm=algorithm, network=network, meta=meta)
    agent = make_agent(config, (_SIZE, _SIZE, _STACK), _ACTIONS, _ONLINE * _LENGTH * 4)
    rng = np.random.default_rng(0)
    extra = [random_trajectories(rng, _REPLAY) for _ in range(config.num_extra_batches)]
    batch = UpdateBatch(
        random_trajectories(rng, _ONLINE), random_trajectories(rng, _REPLAY), tuple(extra)
    )
    state, batch = jax.device_put((agent.init(jax.random.PRNGKey(0)), batch))
    return jax.jit(agent.update).lower(state, batch).compile(), state, batch


def measure(quick: bool) -> list[dict]:
    """Times every case; the networks one after the other."""
    rows = []
    for name in ["1x"] if quick else NETWORKS:
        compiled = {case: compile_update(case[0], NETWORKS[name], *case[1:]) for case in CASES}
        seconds: dict = {case: [] for case in CASES}
        for repetition in range(4 if quick else 8):
            for case, (update, state, batch) in compiled.items():
                start = time.perf_counter()
                jax.block_until_ready(update(state, batch))
                if repetition:  # the first one warms up
                    seconds[case].append(time.perf_counter() - start)
        median = {case: statistics.median(times) for case, times in seconds.items()}
        flops = {case: update.cost_analysis()["flops"] for case, (update, _, _) in compiled.items()}
        for case in CASES:
            memory = compiled[case][0].memory_analysis()
            rows.append(
                {
                    "algorithm": case[0],
                    "network": name,
                    "K": case[1],
                    "L": case[2],
                    "seconds": median[case],
                    "flops": flops[case],
                    "peak_bytes": memory.temp_size_in_bytes + memory.argument_size_in_bytes,
                    "time_over_impala": median[case] / median[CASES[0]],
                    "flops_over_impala": flops[case] / flops[CASES[0]],
                    "differentiation": "plain",
                }
            )
    return rows
