"""One learner update: STACX and BMG against the plain IMPALA update on the same batch.

Needs only JAX, Haiku and Optax, and matplotlib for the picture; on a machine that has nothing else,

    python -c "from bmg.benchmarks.learner import *; [print(row) for row in measure(Config())]"

Every case takes turns with the plain IMPALA update, so that a noisy machine disturbs both alike;
ratios are of medians, within one run.

Reference: Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, appendix C.4 and Fig. 16.
"""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import functools
import io
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmg.agents.agent import Spec
from bmg.agents.config import AgentConfig, MetaConfig, NetworkConfig
from bmg.agents.factory import make_agent
from bmg.agents.trajectory import Trajectory, UpdateBatch
from bmg.benchmarks.config import BenchmarkConfig
from bmg.benchmarks.progress import show
from bmg.learner.guard import guarded
from bmg.learner.update import with_precision
from bmg.storage.fields import Lookahead, Pause
from bmg.storage.files import whole_file
from bmg.storage.memory import out_of_memory

_ONLINE, _REPLAY, _LENGTH, STACK, _REPEAT = 6, 12, 20, 4, 4  # BMG Table 2
ACTIONS = 6  # Pong's
FRAMES = {"light": (84, 84, 1), "paper": (210, 160, 3)}
NETWORKS = {
    "shallow": NetworkConfig(torso="shallow"),
    "1x": NetworkConfig(channels=(16, 32, 32, 16)),
    "2x": NetworkConfig(channels=(32, 64, 64, 32)),
    "4x": NetworkConfig(channels=(64, 128, 128, 64)),
}


class Case(NamedTuple):
    """One update rule."""

    algorithm: str
    K: int  # updates that are backpropagated through
    L: int  # steps to the bootstrapped target; 0 where there is none
    differentiation: str = "mixed"


IMPALA = Case("impala", 1, 0)
_QUICK = (IMPALA, Case("stacx", 1, 0), Case("bmg", 1, 1))


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Time, FLOPs and peak memory of one learner update over the plain IMPALA update's."""

    networks: tuple[Literal["shallow", "1x", "2x", "4x"], ...] = ("1x", "2x", "4x")
    """Sizes of BMG App. C.4: channels 16 32 32 16, times 1, 2 and 4; shallow is the local preset's.
    On two cores 1x takes half an hour, 4x most of a day."""
    horizons: tuple[Lookahead, ...] = (1, 2, 4, 8)
    """K of STACX and of BMG with L = 1, and L of BMG with K = 1, one after the other."""
    plain: tuple[Lookahead, ...] = (1, 2)
    """K for which reverse-over-reverse differentiation is measured as well."""
    frames: Literal["light", "paper"] = "light"
    """84x84 grey, or the paper's 210x160 RGB; four of them stacked."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of activations; auto is bfloat16 on an accelerator and float32 on a CPU."""
    seconds: Pause = 20.0
    """For each case's repetitions, of which there is at least one."""
    output: str = ""
    """Folder for learner.csv and learner.png, figure 16 of the paper anew, written after each row;
    empty for neither."""


def cases(config: Config) -> list[Case]:
    """What is measured on each network, without IMPALA itself."""
    rows = []
    for steps in config.horizons:
        rows += [Case("stacx", steps, 0), Case("bmg", steps, 1)]
        if steps > 1:
            rows.append(Case("bmg", 1, steps))
    for steps in config.plain:
        rows += [Case("stacx", steps, 0, "plain"), Case("bmg", steps, 1, "plain")]
    return rows


def random_trajectories(
    rng: np.random.Generator, batch: int, frame: tuple[int, int, int]
) -> Trajectory:
    """Unrolls of random frames and actions, [batch] of each field."""
    frames = (batch, STACK + _LENGTH, *frame)
    return Trajectory(
        frames=rng.integers(0, 256, frames, dtype=np.uint8),
        age=np.full((batch, _LENGTH + 1), STACK - 1, np.int32),
        action=rng.integers(0, ACTIONS, (batch, _LENGTH), dtype=np.int32),
        reward=rng.normal(size=(batch, _LENGTH)).astype(np.float32),
        discount=np.ones((batch, _LENGTH), np.float32),
        reset=np.zeros((batch, _LENGTH), bool),
        behaviour_logits=rng.normal(size=(batch, _LENGTH, ACTIONS)).astype(np.float32),
        episode_return=np.full((batch, _LENGTH), np.nan, np.float32),
        parameter_version=np.zeros(batch, np.int32),
    )


class Update(NamedTuple):
    """A compiled update."""

    run: Callable[[], float]  # takes one update; seconds
    flops: float
    peak_bytes: int
    compile_seconds: float


def compile_update(
    case: Case, network: NetworkConfig, frame: tuple[int, int, int], warm_up: bool = True
) -> Update:
    """Compiles a case, for a batch that is on the device already.

    Args:
      case: the update rule.
      network: of the agent.
      frame: [H, W, C] of one.
      warm_up: whether to run it once; otherwise the first run takes longer.
    """
    meta = MetaConfig(
        inner_steps=case.K, target_steps=max(case.L, 1), differentiation=case.differentiation
    )
    agent_config = AgentConfig(algorithm=case.algorithm, network=network, meta=meta)
    height, width, channels = frame
    agent = make_agent(agent_config, Spec((height, width, STACK * channels), ACTIONS))
    rng = np.random.default_rng(0)
    draw = lambda size: random_trajectories(rng, size, frame)  # noqa: E731
    extra = tuple(draw(_REPLAY) for _ in range(agent.num_extra_batches))
    batch = UpdateBatch(draw(_ONLINE), draw(_REPLAY), extra)
    whole = guarded(agent, _ONLINE * _LENGTH * _REPEAT)
    state, batch = jax.device_put((jax.jit(whole.init)(jax.random.PRNGKey(0)), batch))
    start = time.perf_counter()
    lowered = jax.jit(whole.update).lower(state, batch)
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()

    def run() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(compiled(state, batch))
        return time.perf_counter() - begin

    if warm_up:
        run()
    return Update(
        run,
        flops=count_flops(compiled, whole.update, state, batch),
        peak_bytes=memory.temp_size_in_bytes + memory.argument_size_in_bytes,
        compile_seconds=compile_seconds,
    )


def count_flops(compiled: jax.stages.Compiled, function: Callable, *arguments) -> float:
    """XLA's count of a function's compiled program; on an accelerator, whose convolutions are calls
    of a library that it does not count, that of the program before XLA has changed it."""
    if jax.default_backend() == "cpu":
        return compiled.cost_analysis()["flops"]
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    with jax.default_device(jax.devices("cpu")[0]):  # others count nothing before compilation
        return jax.jit(function).lower(*shapes).cost_analysis()["flops"]


def take_turns(first: Update, second: Update, seconds: float) -> tuple[float, float]:
    """Median seconds of two updates that take turns for about so long."""
    times: tuple[list[float], list[float]] = ([], [])
    begin = time.perf_counter()
    while not times[0] or time.perf_counter() - begin < seconds:
        times[0].append(first.run())
        times[1].append(second.run())
    return statistics.median(times[0]), statistics.median(times[1])


def product_rate(precision: str) -> float:
    """FLOP/s of a large matrix product on this device, the rate that an update is held against."""
    size, count = (8192, 20) if jax.default_backend() != "cpu" else (2048, 1)
    x = jax.random.normal(jax.random.PRNGKey(0), (size, size)).astype(precision)
    product = jax.jit(jnp.matmul)
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        # Some at once: a single one may take no longer than to ask for it.
        jax.block_until_ready([product(x, x) for _ in range(count)])
        times.append(time.perf_counter() - begin)
    return 2.0 * size**3 * count / min(times)


def measure(config: Config) -> Iterator[dict[str, Any]]:
    """Measures every case on every network; yields a row as soon as it is there."""
    wanted = AgentConfig(network=NetworkConfig(precision=config.precision))
    precision = with_precision(wanted, jax.devices()[0]).network.precision
    best_rate = product_rate(precision)
    seconds = 0.0 if config.quick else config.seconds
    rows: list[dict[str, Any]] = []
    for name in ("1x",) if config.quick else config.networks:
        network = dataclasses.replace(NETWORKS[name], precision=precision)
        frame = FRAMES[config.frames]
        compiled = functools.partial(compile_update, network=network, frame=frame)
        if config.quick:  # as fast as the cores allow; K = 8 would need too much memory for this
            with concurrent.futures.ThreadPoolExecutor() as pool:
                ready = dict(zip(_QUICK, pool.map(compiled, _QUICK)))
        else:
            ready = {IMPALA: compiled(IMPALA)}
        impala = ready[IMPALA]
        for case in _QUICK if config.quick else [IMPALA, *cases(config)]:
            try:
                update = ready.get(case) or compiled(case)
                base, median = take_turns(impala, update, seconds)
            except jax.errors.JaxRuntimeError as error:
                if not out_of_memory(error):
                    raise
                show(f"{name} {case}: out of memory")
                continue
            rows.append(
                {
                    **case._asdict(),
                    "network": name,
                    "frames": config.frames,
                    "precision": precision,
                    "seconds": median,
                    "flops": update.flops,
                    "peak_bytes": update.peak_bytes,
                    "time_over_impala": median / base,
                    "flops_over_impala": update.flops / impala.flops,
                    "share_of_product_rate": update.flops / median / best_rate,
                    "compile_seconds": update.compile_seconds,
                }
            )
            if config.output:
                write_csv(rows, pathlib.Path(config.output) / "learner.csv")
                draw(rows, pathlib.Path(config.output) / "learner.png")
            yield rows[-1]


def write_csv(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Writes the rows as a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    with whole_file(path) as file:
        file.write(text.getvalue().encode())


def draw(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Figure 16: time and memory over the horizon, a column for each network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    networks = list(dict.fromkeys(row["network"] for row in rows))
    curves = {
        "STACX, H = K": lambda r: r["algorithm"] == "stacx" and r["K"],
        "BMG, H = K, L = 1": lambda r: r["algorithm"] == "bmg" and r["L"] == 1 and r["K"],
        "BMG, H = L, K = 1": lambda r: r["algorithm"] == "bmg" and r["K"] == 1 and r["L"],
    }
    quantities = {
        "time over IMPALA's": lambda r: r["time_over_impala"],
        "peak memory (GB)": lambda r: r["peak_bytes"] / 1e9,
    }
    ticks = sorted({max(row["K"], row["L"]) for row in rows})
    figure, axes = plt.subplots(
        2, len(networks), figsize=(4.2 * len(networks), 6.4), squeeze=False, sharex=True
    )
    for column, network in enumerate(networks):
        for axis, (quantity, value) in zip(axes[:, column], quantities.items()):
            for differentiation, style in (("mixed", "o-"), ("plain", "x:")):
                for index, (label, horizon) in enumerate(curves.items()):
                    points = sorted(
                        (horizon(row), value(row)) for row in rows
                        if row["network"] == network and horizon(row)
                        and row["differentiation"] == differentiation
                    )  # fmt: skip
                    if not points:
                        continue
                    suffix = "" if differentiation == "mixed" else ", reverse over reverse"
                    axis.plot(*zip(*points), style, color=f"C{index}", label=label + suffix)
            axis.set_ylabel(quantity)
            axis.set_xscale("log", base=2)
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
        axes[0, column].set_title(network)
        axes[1, column].set_xlabel("meta-learning horizon H")
    if axes[0, 0].lines:
        axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
