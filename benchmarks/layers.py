"""Layers of the torsos on this machine, by the ways that they can be computed.

    layers    way                 what it is
    dqn,      strides             XLA's convolutions as they are declared
    shallow   space to depth      squares of pixels become channels first; the smaller kernel then
                                  moves by one
    resnet    XLA's               its first section: 3x3 convolutions, pooling and residual blocks
              im2col              each convolution as one product of all nine neighbours
    pooling   select and scatter  XLA's derivative of a 3x3 maximum with stride 2
              masks               `agents.pooling`: a sum over the nine offsets

    memory    kept                what XLA frees stays with the process, for its next execution
              fetched             glibc's default: large arrays come from the system, which clears
                                  them

Ways are measured in turns; of each the least time counts. Frames are 84x84, four of them stacked,
as many as a batch of unrolls of 20 steps has.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bmg.agents.convolution import conv3x3, strided
from bmg.agents.networks import CONVOLUTIONS
from bmg.agents.pooling import max_pool_3x3
from bmg.benchmarks.config import BenchmarkConfig
from bmg.storage.fields import Count
from bmg.storage.memory import keeping_freed_memory

_SHAPE = (84, 84, 4)
_SCALE = np.float32(1 / 255)  # of pixels
_CHANNELS = 16  # of the first section of IMPALA's ResNet
_PROGRAM = "from bmg.benchmarks import layers; layers.answer()"

Layers = Literal["dqn", "shallow", "resnet", "pooling"]
Precision = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Measure the layers of torsos by several ways, with memory kept or not."""

    layers: tuple[Layers, ...] = ("dqn", "shallow", "resnet", "pooling")
    """Which ones: two torsos, a section of a third, its pooling alone."""
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    """Of weights and activations."""
    unrolls: Count = 8
    """In a batch; each has 21 observations."""
    turns: Count = 20
    """Of each measurement."""


def measure(config: Config) -> Iterator[dict]:
    """A row for each kind of memory, precision, layers and way; each kind of memory in a process of
    its own."""
    asked = dataclasses.replace(config, turns=3) if config.quick else config
    for memory, variables in {"fetched": {}, "kept": keeping_freed_memory(os.environ)}.items():
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, **variables},
        )  # fmt: skip
        with process:
            try:
                process.stdin.write(json.dumps(dataclasses.asdict(asked)))
                process.stdin.close()
                for line in process.stdout:
                    yield {"memory": memory, **json.loads(line)}
            except BaseException:  # nobody wants the rest
                process.kill()
                raise
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)


def answer() -> None:
    """The program of a process: reads settings, writes a row a line, as they come."""
    for row in _measured(**json.loads(sys.stdin.read())):
        print(json.dumps(row), flush=True)


def _measured(
    layers: list[Layers], precisions: list[Precision], unrolls: int, turns: int, **_
) -> Iterator[dict]:
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.integers(0, 256, (21 * unrolls, *_SHAPE)), jnp.uint8)
    for precision, name in itertools.product(precisions, layers):
        shapes, ways = _WAYS[name]
        weights = [
            jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), precision)
            for shape in shapes
        ]
        x = frames if name != "pooling" else jnp.repeat(frames, _CHANNELS // _SHAPE[-1], axis=-1)
        compiled = {way: _functions(layer, precision) for way, layer in ways.items()}
        least: dict[tuple[str, str], float] = {}
        for _ in range(turns + 1):  # the first one compiles
            for way, functions in compiled.items():
                for kind, function in functions.items():
                    begin = time.perf_counter()
                    jax.block_until_ready(function(weights, x))
                    spent = 1_000 * (time.perf_counter() - begin)
                    least[way, kind] = min(least.get((way, kind), np.inf), spent)
        for way, functions in compiled.items():
            own = {f"{kind}_ms": least[way, kind] for kind in functions}
            yield {
                "precision": precision, "layers": name, "way": way, "frames": len(frames), **own,
            }  # fmt: skip


def _functions(layer: Callable, precision: Precision) -> dict[str, Callable]:
    """The forward pass, the gradient in the weights, and what a meta-gradient takes of it."""

    def loss(weights, frames):
        x = layer(weights, frames.astype(precision) * jnp.asarray(_SCALE, precision))
        return jnp.mean(jnp.square(x.astype(jnp.float32)))

    gradient = jax.grad(loss)

    def derivative(weights, frames):
        return jax.jvp(functools.partial(gradient, frames=frames), (weights,), (weights,))[1]

    return {
        "forward": jax.jit(loss),
        "gradient": jax.jit(gradient),
        "derivative_of_gradient": jax.jit(derivative),
    }


def _torso(weights, x, layers, space_to_depth: bool):
    for w, (_, _, stride) in zip(weights, layers):
        x = jax.nn.relu(strided(x, w, stride, space_to_depth))
    return x


def _section(weights, x, convolution):
    """The first section of IMPALA's ResNet: a convolution, pooling, two blocks of two each."""
    first, *blocks = weights
    x = max_pool_3x3(conv3x3(x, first, convolution))
    for one, other in zip(blocks[::2], blocks[1::2]):
        y = conv3x3(jax.nn.relu(x), one, convolution)
        x = x + conv3x3(jax.nn.relu(y), other, convolution)
    return x


def _plain_pooling(x):
    window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, "SAME")


def _of_torso(name: str):
    layers = CONVOLUTIONS[name]
    channels = [_SHAPE[-1], *(depth for depth, _, _ in layers)]
    shapes = [(size, size, before, depth) for before, (depth, size, _) in zip(channels, layers)]
    ways = {"strides": False, "space to depth": True}
    return shapes, {
        way: functools.partial(_torso, layers=layers, space_to_depth=flag)
        for way, flag in ways.items()
    }


# Shapes of the weights, and way -> (weights, frames) -> activations.
_WAYS = {
    **{name: _of_torso(name) for name in CONVOLUTIONS},
    "resnet": (
        [(3, 3, before, _CHANNELS) for before in (_SHAPE[-1], *[_CHANNELS] * 4)],
        {
            "XLA's": functools.partial(_section, convolution="lax"),
            "im2col": functools.partial(_section, convolution="im2col"),
        },
    ),
    "pooling": (
        [()],  # a factor of the frames, so that there is a gradient
        {
            "select and scatter": lambda weights, x: _plain_pooling(weights[0] * x),
            "masks": lambda weights, x: max_pool_3x3(weights[0] * x),
        },
    ),
}
