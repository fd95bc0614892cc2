"""Meta-steps of few-shot learning: MAML and BMG as `bmg few-shot` runs them, and MAML elsewhere.

Tasks are by default of MAML's size: 5 ways, 5 shots, 15 queries of each class, meta-batches of 4,
images of 84x84 RGB, which are random. All methods with the same K take turns, so that what else the
machine does meets all of them.

Reference: Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, table 5.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from bmg.benchmarks.config import BenchmarkConfig
from bmg.benchmarks.peer_process import Peer
from bmg.benchmarks.peers.burst import burst
from bmg.benchmarks.progress import show, turns
from bmg.experiments.few_shot.config import FewShotConfig
from bmg.experiments.few_shot.lifetime import Images, make_lifetime
from bmg.experiments.few_shot.network import NUM_CONVOLUTIONS, Shape
from bmg.experiments.runner import Runner, count_cores, use_all_cores
from bmg.storage.fields import MANY, Count, Lookahead, Pause, Pixels, Several

_CLASSES = 64  # of MiniImagenet's, for training
_QUICK_ROUNDS = 2

PEERS = ("torch-func", "torchopt", "learn2learn")
_PEER_PROGRAM = pathlib.Path(__file__).with_name("peers") / "few_shot.py"


class Case(NamedTuple):
    """One meta-learner."""

    method: str  # "maml", "fomaml", "anil", "bmg", or a peer, which is MAML
    K: int  # inner steps
    L: int  # steps to the bootstrapped target; 0 where there is none


# Meta-steps per second in table 5.
PAPER_RATES = {
    Case("maml", 1, 0): 14.3, Case("bmg", 1, 1): 12.4, Case("bmg", 1, 5): 6.9,
    Case("bmg", 1, 10): 4.4,
    Case("maml", 5, 0): 4.4, Case("bmg", 5, 1): 4.2, Case("bmg", 5, 5): 3.2,
    Case("bmg", 5, 10): 2.5,
    Case("maml", 10, 0): 2.3,
}  # fmt: skip
CASES = (*PAPER_RATES, *(Case(method, k, 0) for method in ("fomaml", "anil") for k in (1, 5)))


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Meta-steps per second, FLOPs and memory of MAML and BMG, and of MAML in other libraries."""

    peers: str = ""
    """Python interpreter of an environment with other libraries, see benchmarks/peers/few_shot.py;
    empty for none of them."""
    inner_steps: tuple[Lookahead, ...] = (1, 5, 10)
    """K; of 10 there is MAML alone. A quick measurement has the first."""
    rounds: Count = 5
    """Turns of each method; medians are told. A quick measurement has 2."""
    seconds: Pause = 3.0
    """That a turn lasts; at least one meta-step."""
    side: Pixels = 84
    """Of the square images, from 16."""
    channels: Count = 3
    """Of the images: 3 for RGB, 1 for grey."""
    ways: Several = 5
    """Classes of a task."""
    shots: Count = 5
    """Images of a class in the support set."""
    queries: Count = 15
    """Images of a class in the query set. MAML."""


class Program(NamedTuple):
    """A compiled meta-step of ours."""

    run: Callable[[], None]  # takes one
    flops: float  # XLA's count
    temporary_bytes: int  # beside arguments and results, on all devices
    compile_seconds: float


def layer_flops(config: FewShotConfig, shape: Shape) -> list[int]:
    """FLOPs of each layer in a forward pass over one image: multiplications and additions of the
    four convolutions, without those of the padding, and of the linear layer."""
    height, width, inputs = shape
    found = []
    for _ in range(NUM_CONVOLUTIONS):
        # At an edge one of three neighbours is missing.
        found.append(2 * (3 * height - 2) * (3 * width - 2) * inputs * config.filters)
        height, width, inputs = height // 2, width // 2, config.filters
    return [*found, 2 * height * width * inputs * config.ways]


def floor_flops(config: FewShotConfig, shape: Shape) -> int:
    """FLOPs of a meta-step's convolutions and linear layers, if nothing is computed twice.

    With F for one image's forward pass through all layers and f for its first layer,

        forward pass                  F           y = x * w in each layer
        gradient                      2 F - f     of w and of x, except for the image
        forward pass with tangents    3 F - f     y' = x' * w + x * w', where the image has no x'
        reverse pass over that        6 F - 4 f   x, w from y; x, x', w, w' from y'; of the image's
                                                  layer w from y and w' from y' alone

    The reverse pass over tangents differentiates an inner step, whose own gradient is among its
    results (w'), so that an inner step costs 9 F - 5 f. MAML's query loss costs a forward pass and
    its gradient. BMG has L + 1 of these: a target step is one, the target's own predictions and the
    gradient of the distance to them are another; the predictions that are compared with them are
    those of the first target step.

    Args:
      config: of the full meta-gradient of all steps of all weights, neither FOMAML nor ANIL.
      shape: of an image, [H, W, C].
    """
    first, *others = layer_flops(config, shape)
    forward = first + sum(others)
    inner_step = 9 * forward - 5 * first
    query_step = 3 * forward - first
    support, query = config.ways * config.shots, config.ways * config.queries
    query_steps = config.target_steps + 1 if config.objective == "bmg" else 1
    task = support * config.inner_steps * inner_step + query * query_steps * query_step
    return config.meta_batch * task


def config_of(case: Case, config: Config) -> FewShotConfig:
    """The experiment of a case of ours, without evaluations; of a peer, that of our MAML."""
    return FewShotConfig(
        objective="bmg" if case.method == "bmg" else "maml", inner_steps=case.K,
        target_steps=max(case.L, 1), first_order=case.method == "fomaml",
        head_only=case.method == "anil", ways=config.ways, shots=config.shots,
        queries=config.queries, evaluate_every=MANY,
    )  # fmt: skip


def random_images(config: Config) -> Images:
    """Enough for training; there is no evaluation."""
    shape = (max(_CLASSES, config.ways), config.shots + config.queries, *shape_of(config))
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Images(images, images[:1], images[:1])


def shape_of(config: Config) -> Shape:
    """Of an image."""
    return config.side, config.side, config.channels


def compile_case(config: FewShotConfig, images: Images) -> Program:
    """Compiles a meta-step and takes one."""
    lifetime = make_lifetime(config, images)
    runner = Runner(lifetime, 1, 0, config.record_every, counted=config.counted)
    begin = time.perf_counter()
    compiled = runner.compile()
    compile_seconds = time.perf_counter() - begin
    runner.advance()
    devices = len(runner.devices)
    return Program(
        runner.advance,
        flops=compiled.cost_analysis()["flops"] * devices,
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes * devices,
        compile_seconds=compile_seconds,
    )


def start_peers(config: Config, ending: contextlib.ExitStack) -> dict[str, Peer]:
    """Starts the programs of other libraries, with as many threads as there are cores for us.

    Args:
      config: whose peers, and sizes.
      ending: what ends them.

    Raises:
      ValueError: there is no such interpreter; one line.
    """
    interpreter = config.peers
    if not interpreter:
        return {}
    if shutil.which(interpreter) is None:
        raise ValueError(
            f"peers is {interpreter!r}, which is no program; allowed is the Python interpreter of "
            "an environment with torch, torchopt and learn2learn."
        )
    names = ("side", "channels", "ways", "shots", "queries")
    sizes = {name: getattr(config, name) for name in names}
    ours = FewShotConfig()
    sizes |= {"filters": ours.filters, "meta_batch": ours.meta_batch, "threads": count_cores()}
    started = {}
    for name in PEERS:
        command = [interpreter, str(_PEER_PROGRAM), name, json.dumps(sizes)]
        started[name] = ending.enter_context(contextlib.closing(Peer(command)))
    for peer in started.values():
        peer.wait_until_ready()
    return started


def rows_of(
    seconds: Mapping[Case, float | None],
    programs: Mapping[Case, Program],
    peers: Mapping[str, Peer],
    one_step: Mapping[Case, int],
    config: Config,
) -> list[dict]:
    """Rows of `measure`, of all methods with the same K.

    Args:
      seconds: of a meta-step, ours first; None where a peer has failed.
      programs: ours, one of them MAML.
      peers: what has run.
      one_step: temporary bytes of the same methods with K = 1, as far as they are known.
      config: of the benchmark.
    """
    maml = next(case for case in programs if case.method == "maml")
    others = [x for case, x in seconds.items() if case not in programs and x is not None]
    rows = []
    for case, value in seconds.items():
        experiment = config_of(case, config)
        row = {
            **case._asdict(),
            "method": experiment.method if case in programs else case.method,
            "meta_steps_per_second": None if value is None else 1 / value,
            "time_over_maml": None if value is None else value / seconds[maml],
            "paper_time_over_maml": None,
            "over_fastest_peer": min(others) / value if case == maml and others else None,
            "gflop": None,
            "gflop_floor": None,
            "temporary_bytes": None,
            "temporary_over_one_step": None,
            "compile_seconds": None,
            "note": peers[case.method].note if case.method in peers else "",
        }
        if not experiment.first_order and not experiment.head_only:
            row["gflop_floor"] = floor_flops(experiment, shape_of(config)) / 1e9
        if case in PAPER_RATES:
            row["paper_time_over_maml"] = PAPER_RATES[maml] / PAPER_RATES[case]
        if program := programs.get(case):
            row["gflop"] = program.flops / 1e9
            row["temporary_bytes"] = program.temporary_bytes
            if before := one_step.get(case._replace(K=1)):
                row["temporary_over_one_step"] = program.temporary_bytes / before
            row["compile_seconds"] = program.compile_seconds
        rows.append(row)
    return rows


def measure(config: Config) -> Iterator[dict]:
    """Rows of each method, ours and then the peers', for K = 1, 5 and 10:

    meta_steps_per_second, a median of turns; time_over_maml, over our MAML's with the same K, and
    what it is in the paper; over_fastest_peer, the rate of our MAML over that of the fastest peer;
    GFLOP of a meta-step, as XLA counts them in the compiled program and as `floor_flops` does;
    temporary_bytes of the compiled program, and over those with K = 1; compile_seconds; note, the
    versions of a peer or why it was not measured.

    Raises:
      ValueError: there is no such interpreter for the peers, the images are too small, or there are
        no cases of that K; one line.
    """
    use_all_cores(FewShotConfig().most_devices)
    images = random_images(config)
    one_step: dict[Case, int] = {}
    with contextlib.ExitStack() as ending:
        peers = start_peers(config, ending)
        for inner_steps in config.inner_steps[: 1 if config.quick else None]:
            cases = [case for case in CASES if case.K == inner_steps]
            if not cases:
                every = sorted({case.K for case in CASES})
                raise ValueError(f"inner_steps has {inner_steps}; allowed are {every}.")
            programs = {}
            for case in cases:
                programs[case] = compile_case(config_of(case, config), images)
                took = programs[case].compile_seconds
                show(f"{case.method}, K = {case.K}, L = {case.L}: {took:.1f} s to compile")
            if inner_steps == 1:
                one_step = {case: program.temporary_bytes for case, program in programs.items()}
            seconds = take_turns(programs, peers, inner_steps, config)
            yield from rows_of(seconds, programs, peers, one_step, config)


def take_turns(
    programs: Mapping[Case, Program], peers: Mapping[str, Peer], inner_steps: int, config: Config
) -> dict[Case, float | None]:
    """Median seconds of a meta-step of each; None where a peer has failed."""
    bursts = {
        case: functools.partial(burst, program.run, config.seconds)
        for case, program in programs.items()
    }
    for name, peer in peers.items():
        bursts[Case(name, inner_steps, 0)] = functools.partial(
            peer.ask, inner_steps=inner_steps, seconds=config.seconds
        )
    times: dict[Case, list[float | None]] = {case: [] for case in bursts}
    for _ in turns(_QUICK_ROUNDS if config.quick else config.rounds):
        for case, burst_of in bursts.items():
            times[case].append(burst_of())
    return {
        case: None if None in values else statistics.median(values)
        for case, values in times.items()
    }
