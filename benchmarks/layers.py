"""Convolutions of the plain torsos on this machine, by the ways that they can be computed.

    strides           XLA's convolution as it is declared
    space to depth    squares of pixels become channels first; the smaller kernel moves by one
    memory kept       what XLA frees stays with the process, for its next execution
    memory fetched    glibc's default: large arrays come from the system, which clears them

Ways are measured in turns; of each the least time counts. Frames are 84x84, four of them stacked,
as many as a batch of unrolls of 20 steps has.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bmg.agents.convolution import strided
from bmg.agents.networks import CONVOLUTIONS
from bmg.benchmarks.config import BenchmarkConfig
from bmg.storage.fields import Count
from bmg.storage.memory import keeping_freed_memory

_SHAPE = (84, 84, 4)
_WAYS = {"strides": False, "space to depth": True}
_PROGRAM = "from bmg.benchmarks import layers; layers.answer()"


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Measure the convolutions of torsos: by strides and by space to depth, memory kept or not."""

    torsos: tuple[Literal["dqn", "shallow"], ...] = ("dqn", "shallow")
    """Which ones."""
    unrolls: Count = 8
    """In a batch; each has 21 observations."""
    turns: Count = 20
    """Of each measurement."""


def measure(config: Config) -> Iterator[dict]:
    """A row for each torso, way and kind of memory; each kind in a process of its own."""
    asked = dataclasses.replace(config, turns=3) if config.quick else config
    for memory, variables in {"fetched": {}, "kept": keeping_freed_memory(os.environ)}.items():
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM], input=json.dumps(dataclasses.asdict(asked)),
            stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **variables},
        )  # fmt: skip
        for row in json.loads(done.stdout):
            yield {"memory": memory, **row}


def answer() -> None:
    """The program of a process: reads settings, writes rows."""
    print(json.dumps(list(_measured(**json.loads(sys.stdin.read())))))


def _measured(torsos: list[str], unrolls: int, turns: int, **_) -> Iterator[dict]:
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.integers(0, 256, (21 * unrolls, *_SHAPE)), jnp.uint8)
    for torso in torsos:
        weights, channels = [], _SHAPE[-1]
        for depth, size, _ in CONVOLUTIONS[torso]:
            shape = (size, size, channels, depth)
            weight = rng.normal(size=shape) / np.sqrt(size * size * channels)
            weights.append(jnp.asarray(weight, jnp.float32))
            channels = depth
        compiled = {way: _functions(torso, flag) for way, flag in _WAYS.items()}
        least: dict[tuple[str, str], float] = {}
        for _ in range(turns + 1):  # the first one compiles
            for way, functions in compiled.items():
                for name, function in functions.items():
                    begin = time.perf_counter()
                    jax.block_until_ready(function(weights, frames))
                    spent = 1_000 * (time.perf_counter() - begin)
                    least[way, name] = min(least.get((way, name), np.inf), spent)
        for way, functions in compiled.items():
            own = {f"{name}_ms": least[way, name] for name in functions}
            yield {"torso": torso, "way": way, "frames": len(frames), **own}


def _functions(torso: str, space_to_depth: bool) -> dict:
    """The forward pass, the gradient, and what a meta-gradient takes of it."""

    def loss(weights, frames):
        x = frames.astype(jnp.float32) / 255
        for w, (_, _, stride) in zip(weights, CONVOLUTIONS[torso]):
            x = jax.nn.relu(strided(x, w, stride, space_to_depth))
        return jnp.mean(jnp.square(x))

    gradient = jax.grad(loss)

    def derivative(weights, frames):
        of_weights = functools.partial(gradient, frames=frames)
        return jax.jvp(of_weights, (weights,), (weights,))[1]

    return {
        "forward": jax.jit(loss),
        "gradient": jax.jit(gradient),
        "derivative_of_gradient": jax.jit(derivative),
    }
