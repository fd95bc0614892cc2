"""What there is to know of an accelerator, in parts that need no Launchpad and no Reverb.

    learner      updates at the paper's size: updates/s, FLOP/s against a large matrix product's
    training     `bmg train` on Pong and Catch as threads: frames/s, what the learner waits for
    in-graph     the same on MinAtar as one compiled program, with one and with many seeds
    experiments  two colours, Snake and few-shot learning with one and with many seeds; LPG
    correctness  one update there and on the CPU; a checkpoint from the CPU, and back

Each part runs in a process of its own, which has the device to itself, and ends with its share of
the time. What has not run by then is named.

Reference: Flennerhag et al., "Bootstrapped Meta-Learning", ICLR 2022, table 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from bmg.benchmarks.config import BenchmarkConfig
from bmg.storage.fields import Count, Lifetimes, Lookahead, Pause, Positive
from bmg.storage.files import whole_file, write_json
from bmg.storage.memory import out_of_memory
from bmg.storage.processes import PROGRAM, child_environment

Part = Literal["learner", "training", "in-graph", "experiments", "correctness"]
# Of the time; what a part leaves falls to those after it.
_SHARES = {"learner": 5, "training": 3, "in-graph": 2, "experiments": 3, "correctness": 2}
PAPER_UPDATES = 4.82  # a second: 200 M frames in a day, 480 frames an update


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Measure an accelerator: the learner at the paper's size, training, experiments, numbers."""

    parts: tuple[Part, ...] = ("learner", "training", "in-graph", "experiments", "correctness")
    """What is measured, in this order."""
    minutes: Positive = 8.5
    """For all of it."""
    network: Literal["shallow", "1x", "2x", "4x"] = "4x"
    """Of the learner's updates; the paper's is 4x."""
    frames: tuple[Literal["light", "paper"], ...] = ("paper", "light")
    """Of the learner's updates: 210x160 RGB, then 84x84 grey."""
    horizons: tuple[Lookahead, ...] = (2, 4, 8)
    """K of the learner's further updates, after those with K = 1."""
    seeds: tuple[Lifetimes, ...] = (1, 16, 256)
    """Of in-graph runs and of experiments, side by side."""
    lifetimes: tuple[Count, ...] = (4, 32)
    """Of LPG, in each of its nine worlds."""
    seconds: Pause = 4.0
    """That each update and each experiment is repeated for; training lasts five times as long."""
    output: str = ""
    """Folder for accelerator.json and accelerator.md, written after each row; empty for neither."""


def row(part: Part, case: str, rate: float | None = None, unit: str = "", **more: Any) -> dict:
    """A row of the table: all have the same columns, and None where there is nothing to say.

    Args:
      part: of the benchmark.
      case: what was measured.
      rate: in `unit`.
      unit: such as updates/s.
      **more: of the other columns.
    """
    others = ("tflops", "share_of_product", "peak_gb", "compile_seconds", "difference", "kept")
    return {
        "part": part, "case": case, "rate": rate, "unit": unit,
        **{name: more.pop(name, None) for name in others}, "note": "", **more,
    }  # fmt: skip


def measure(config: Config) -> Iterator[dict]:
    """Rows of each part, see `row`, as they come."""
    began, rows = time.monotonic(), []
    deadline = began + 60 * config.minutes
    parts = list(config.parts)
    while parts:
        left = max(deadline - time.monotonic(), 0.0)
        own = left * _SHARES[parts[0]] / sum(_SHARES[part] for part in parts)
        for found in _in_own_process(parts.pop(0), config, own):
            rows.append(found)
            if config.output:
                write(rows, pathlib.Path(config.output))
            yield found


def _in_own_process(part: Part, config: Config, seconds: float) -> Iterator[dict]:
    """Rows of a part, which is ended when its time is over."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(part, config, seconds, sender))
    deadline = time.monotonic() + seconds
    process.start()
    sender.close()
    try:
        while receiver.poll(max(deadline - time.monotonic(), 0)):
            try:
                found = receiver.recv()
            except EOFError:
                return
            yield found
        yield row(part, "the rest", note="no time left")
    finally:
        process.terminate()
        process.join()


def _run(part: Part, config: Config, seconds: float, sender) -> None:
    """In the part's own process: sends its rows."""
    deadline = time.monotonic() + seconds
    rows = _PARTS[part](config, lambda: deadline - time.monotonic())
    try:
        for found in rows:
            sender.send(found)
    except Exception as error:  # noqa: BLE001 the parts after it can be measured all the same
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        sender.send(row(part, "the rest", kept=False, note=reason[:500]))
    finally:
        sender.close()


def learner_rows(config: Config, left: Callable[[], float]) -> Iterator[dict]:
    """Updates of IMPALA, STACX and BMG.

    One after the other: a GPU's compiler measures kernels, which programs compiled side by side
    would disturb.
    """
    import jax

    from bmg.agents.config import AgentConfig
    from bmg.benchmarks import learner
    from bmg.learner.update import with_precision

    network = learner.NETWORKS[config.network]
    network = with_precision(AgentConfig(network=network), jax.devices()[0]).network
    best = learner.product_rate(network.precision)
    yield row(
        "learner", f"matrix product, {network.precision}", best / 1e12, "TFLOP/s",
        note=f"{jax.devices()[0].device_kind}, JAX {jax.__version__}",
    )  # fmt: skip
    cases = [learner.IMPALA, learner.Case("bmg", 1, 1)]
    if not config.quick:
        cases += [learner.Case("bmg", 1, 4), learner.Case("stacx", 1, 0)]
        cases += [learner.Case("bmg", k, 1) for k in config.horizons]
    for frames in config.frames[: 1 if config.quick else None]:
        for case in cases:
            yield _update_row(case, network, learner.FRAMES[frames], config, best)


def _update_row(case, network, frame: tuple[int, int, int], config: Config, best: float) -> dict:
    """Times an update."""
    import jax

    from bmg.benchmarks import learner

    update = learner.compile_update(case, network, frame, warm_up=False)
    name = f"{case.algorithm}, K = {case.K}" + (f", L = {case.L}" if case.L else "")
    name += f", {config.network}, {'x'.join(map(str, frame))}"
    about = {"compile_seconds": update.compile_seconds, "peak_gb": update.peak_bytes / 1e9}
    try:
        update.run()
        begin, times = time.perf_counter(), []
        while not times or time.perf_counter() - begin < config.seconds:
            times.append(update.run())
    except jax.errors.JaxRuntimeError as error:
        if not out_of_memory(error):
            raise
        return row("learner", name, note="out of memory", **about)
    rate = 1 / statistics.median(times)
    flops = update.flops * rate
    return row(
        "learner", name, rate, "updates/s", tflops=flops / 1e12, share_of_product=flops / best,
        note=f"{rate / PAPER_UPDATES:.2f} of the paper's run" if frame[0] > 100 else "", **about,
    )  # fmt: skip


_THREADS = ("--runtime", "local-threads", "--evaluator.num-evaluators", "0")
_TRAINING = {
    "catch, local": ("--preset", "local", "--game", "catch"),
    "pong, local": ("--preset", "local", "--game", "pong"),
    "pong, local, 4 actors of 32": (
        "--preset", "local", "--game", "pong",
        "--actors.num-actors", "4", "--actors.envs-per-actor", "32",
    ),
    "pong, paper": ("--preset", "paper", "--game", "pong"),
}  # fmt: skip


def training_rows(config: Config, left: Callable[[], float]) -> Iterator[dict]:
    """`bmg train` for a while."""
    from bmg.benchmarks.system import run_and_measure

    chosen = dict(list(_TRAINING.items())[: 1 if config.quick else None])
    for case, options in chosen.items():
        if left() < 10 * config.seconds:
            yield row("training", case, note="no time left")
            continue
        arguments = [*options, *_THREADS, "--frames", "1000000000000"]
        found = run_and_measure(arguments, 5 * config.seconds)
        yield row(
            "training", case, found["frames_per_second"], "frames/s",
            peak_gb=found["peak_bytes"] / 1e9,
            note=f"{found['updates_per_second']:.3g} updates/s; learner waits "
            f"{found['learner_waiting']:.1%}; occupancy {found['occupancy']:.0%}; "
            f"lag {found['policy_lag']:.1f}; first update {found['first_update_seconds']:.0f} s",
        )  # fmt: skip


def in_graph_rows(config: Config, left: Callable[[], float]) -> Iterator[dict]:
    """`bmg train` as one compiled program for a while; agent steps of all seeds."""
    from bmg.benchmarks.system import run_and_measure

    for algorithm in ("impala", "bmg")[: 1 if config.quick else None]:
        for seeds in config.seeds[: 1 if config.quick else None]:
            case = f"minatar/breakout, {algorithm}, {_seeds(seeds)}"
            if left() < 10 * config.seconds:
                yield row("in-graph", case, note="no time left")
                continue
            arguments = ["--preset", "local", "--game", "minatar/breakout", "--runtime", "in-graph"]
            arguments += ["--agent.algorithm", algorithm, "--seeds", str(seeds)]
            arguments += ["--evaluator.num-evaluators", "0", "--frames", "1000000000000"]
            folder = "seed-0" if seeds > 1 else ""
            found = run_and_measure(arguments, 5 * config.seconds, folder=folder)
            yield row(
                "in-graph", case, seeds * found["frames_per_second"], "steps/s",
                peak_gb=found["peak_bytes"] / 1e9,
                note=f"{found['updates_per_second']:.3g} updates/s of each seed; "
                f"first update {found['first_update_seconds']:.0f} s",
            )  # fmt: skip


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count > 1)}"


def experiment_rows(config: Config, left: Callable[[], float]) -> Iterator[dict]:
    """Lifetimes side by side, and one alone."""
    from bmg.experiments.runner import Runner

    for case, unit, lifetime in _experiments(config):
        for seeds in config.seeds[: 1 if config.quick else None]:
            runner = Runner(lifetime, seeds, 0, lifetime.steps_per_update)
            compile_seconds, rate = _compile_and_run(runner, config.seconds)
            name = f"{case}, {_seeds(seeds)}"
            yield row("experiments", name, seeds * rate, unit, compile_seconds=compile_seconds)
    for case, steps, lifetime in () if config.quick else _populations(config):
        compile_seconds, rate = _compile_and_run(Runner(lifetime, 1, 0, 1), config.seconds)
        note = f"{rate:.3g} meta-updates/s"
        yield row(
            "experiments", case, steps * rate, "steps/s", compile_seconds=compile_seconds, note=note
        )


def _experiments(config: Config) -> Iterator[tuple[str, str, Any]]:
    """(case, unit, lifetime)."""
    from bmg.benchmarks import few_shot
    from bmg.experiments.few_shot.lifetime import make_lifetime as few_shot_lifetime
    from bmg.experiments.snake.a2c import make_lifetime as snake_lifetime
    from bmg.experiments.snake.config import SnakeConfig
    from bmg.experiments.two_colors.config import TwoColorsConfig
    from bmg.experiments.two_colors.experiment import make_lifetime as two_colors_lifetime

    two_colors = TwoColorsConfig(method="bmg")
    yield "two colours, BMG, L = 7", "steps/s", two_colors_lifetime(two_colors)
    if config.quick:
        return
    bmg = SnakeConfig(objective="bmg", inner_steps=3)
    for case, snake in (("Snake, 1 step", SnakeConfig(inner_steps=1)), ("Snake, BMG, L = 3", bmg)):
        yield case, "steps/s", snake_lifetime(snake)
    glyphs = few_shot.Config(side=28, channels=1, shots=1, queries=5)
    for sizes, shape in ((glyphs, "28x28, 1 shot"), (few_shot.Config(), "84x84x3, 5 shots")):
        images = few_shot.random_images(sizes)
        for case in (few_shot.Case("maml", 1, 0), few_shot.Case("bmg", 1, 5)):
            own = few_shot.config_of(case, sizes)
            lifetime = few_shot_lifetime(own, images)
            yield f"few-shot, {own.method}, {shape}", "meta-batches/s", lifetime


def _populations(config: Config) -> Iterator[tuple[str, int, Any]]:
    """(case, environment steps of a meta-update, lifetime)."""
    from bmg.benchmarks.lpg import steps_of
    from bmg.experiments.lpg.config import LpgConfig
    from bmg.experiments.lpg.lifetime import make_lifetime

    for lifetimes in config.lifetimes:
        own = LpgConfig(lifetimes=lifetimes)
        case = f"LPG, {own.rule.units} units, {len(own.worlds)} worlds x {lifetimes} lifetimes"
        yield case, steps_of(own), make_lifetime(own)


def _compile_and_run(runner, seconds: float) -> tuple[float, float]:
    """Seconds of compilation; steps per second of each lifetime, after a chunk that does not
    count."""
    begin = time.perf_counter()
    runner.compile()
    compile_seconds = time.perf_counter() - begin
    runner.advance()
    begin, before = time.perf_counter(), runner.records.steps
    while runner.records.steps == before or time.perf_counter() - begin < seconds:
        runner.advance()
    return compile_seconds, (runner.records.steps - before) / (time.perf_counter() - begin)


# Of the change in each part of the state, relative to the CPU's in float32. TF32 keeps 10 bits of
# a factor, bfloat16 7.
_ALLOWED = {"float32, exact products": 2e-3, "float32": 5e-2, "bfloat16": 0.3}


def correctness_rows(config: Config, left: Callable[[], float]) -> Iterator[dict]:
    """A run that goes from the CPU there and back; one update of BMG there and on the CPU."""
    yield from _run_there_and_back(left)  # while this process does not hold the device
    yield from _update_there_and_here(config)


def _update_there_and_here(config: Config) -> Iterator[dict]:
    import jax
    import numpy as np

    from bmg.agents.agent import Spec
    from bmg.agents.config import AgentConfig, NetworkConfig
    from bmg.agents.factory import make_agent
    from bmg.agents.trajectory import UpdateBatch
    from bmg.benchmarks import learner
    from bmg.learner.guard import guarded

    frame = learner.FRAMES["light"]
    rng = np.random.default_rng(0)
    batch = UpdateBatch(*(learner.random_trajectories(rng, 2, frame) for _ in range(2)), ())

    def change(precision: str, device: jax.Device, products: str | None) -> dict[str, np.ndarray]:
        network = NetworkConfig(torso="dqn", precision=precision)
        spec = Spec((*frame[:2], learner.STACK * frame[2]), learner.ACTIONS)
        whole = guarded(make_agent(AgentConfig(network=network), spec), 1)
        with jax.default_device(device), jax.default_matmul_precision(products):
            before = jax.jit(whole.init)(jax.random.PRNGKey(0))
            after, _ = jax.jit(whole.update)(before, batch)
        before, after = jax.device_get((before.agent, after.agent))
        groups = {
            "parameters": (before.inner.params, after.inner.params),
            "gradient": (before.inner.opt_state, after.inner.opt_state),
            "meta-gradient": (before.meta.opt_state, after.meta.opt_state),
        }
        return {name: _difference(*pair) for name, pair in groups.items()}

    cpu, there = jax.devices("cpu")[0], jax.devices()[0]
    expected = change("float32", cpu, "highest")
    for case, allowed in _ALLOWED.items():
        found = change(case.partition(",")[0], there, "highest" if "exact" in case else None)
        for name, value in found.items():
            error = float(np.linalg.norm(value - expected[name]) / np.linalg.norm(expected[name]))
            yield row(
                "correctness", f"{name}, {case}", difference=error, kept=error <= allowed,
                note=f"allowed {allowed:g}; {there.device_kind} against the CPU in float32",
            )  # fmt: skip


def _difference(before, after):
    """All floating-point numbers of a tree, after minus before."""
    import jax
    import numpy as np

    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after))
    return np.concatenate([
        np.ravel(b).astype(np.float64) - np.ravel(a)
        for a, b in pairs if np.issubdtype(b.dtype, np.floating)
    ])  # fmt: skip


def _run_there_and_back(left: Callable[[], float]) -> Iterator[dict]:
    """Catch on the CPU, on the device, on the CPU again: each goes on where the other stopped."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "run"
        options = ["--preset", "local", "--game", "catch", *_THREADS]
        for number, (name, platform) in enumerate(
            (("CPU", "cpu"), ("device", ""), ("CPU again", "cpu")), 1
        ):
            frames = 6_400 * number
            command = [*PROGRAM, "train", "--workdir", str(workdir), "--frames", str(frames)]
            command += ["--resume"] if number > 1 else options
            environment = child_environment()
            environment |= {"JAX_PLATFORMS": platform} if platform else {}
            ended = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=max(left(), 1.0),
            )  # fmt: skip
            result = {}
            with contextlib.suppress(FileNotFoundError):
                result = json.loads((workdir / "results.json").read_text())
            kept = ended.returncode == 0 and result.get("frames", 0) >= frames
            lines = (ended.stdout + ended.stderr).strip().split("\n")
            note = f"{result.get('frames', 0):,} frames" if kept else lines[-1][-300:]
            yield row("correctness", f"checkpoint: {name}", kept=kept, note=note)


_PARTS = {
    "learner": learner_rows,
    "training": training_rows,
    "in-graph": in_graph_rows,
    "experiments": experiment_rows,
    "correctness": correctness_rows,
}


def write(rows: Sequence[dict], folder: pathlib.Path) -> None:
    """Writes the rows as JSON and as a Markdown table for each part."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "accelerator.json", list(rows))
    with whole_file(folder / "accelerator.md") as file:
        file.write(markdown(rows).encode())


def markdown(rows: Sequence[dict]) -> str:
    """A table for each part, without the columns that it leaves empty."""
    tables = []
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part]
        names = [n for n in own[0] if n != "part" and any(r[n] not in (None, "") for r in own)]
        lines = [names, ["---"] * len(names), *([_cell(r[n]) for n in names] for r in own)]
        tables.append(f"{part}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(tables)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
