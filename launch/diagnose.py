"""`bmg diagnose`: a run's meta-gradients under every reading of what the paper leaves open."""

from __future__ import annotations

import dataclasses
import math
import pathlib

from bmg.launch import environment
from bmg.launch.config import load_run
from bmg.launch.options import parse_options
from bmg.launch.tables import print_table
from bmg.storage.fields import Count, Natural, Seed, Several, check_fields

# BMG Table 3: variance of the meta-gradient, and "norm variance", read as the ratio of norm and
# variance; by game and column. Of Ms Pacman one row of the extracted text is there twice.
TABLE_3 = {
    "kangaroo": {
        "kl": (0.05, 49), "kl_value": (0.002, 68), "l2": (2.3e-9, 47), "stacx": (6.4e-4, 44),
    },
    "ms_pacman": {
        "kl": (90, 2.1), "kl_value": (0.8, 7.9), "l2": (9.6e-7, 4.2), "stacx": (0.9, 2.1),
    },
    "star_gunner": {
        "kl": (4.2, 6.1), "kl_value": (1.5, 6.6), "l2": (1.9e-7, 11.7), "stacx": (0.06, 6.5),
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DiagnoseConfig:
    """Measure the size of the meta-gradient at a run's newest checkpoint, for BMG and STACX under
    every reading of Table 2 (losses and matching summed or averaged, epsilon in or outside the
    root), beside Table 3 where the game is in it."""

    workdir: str
    """Run directory of `bmg train`, of STACX or BMG."""
    batches: Several = 16
    """Batches of fresh unrolls, played with the checkpoint's policy; each gives a meta-gradient."""
    burn_in: Natural = 20
    """Unrolls that are played before the first batch."""
    online: Count = 6
    """Unrolls of a batch that count as fresh. BMG Table 2."""
    replay: Natural = 12
    """Unrolls of a batch that count as replayed: from the same policy. BMG Table 2."""
    seed: Seed = 1
    """Seeds episodes and actions."""
    output: str = ""
    """JSON file for the rows; empty for diagnosis.json in the run directory."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: list[str]) -> int:
    """Runs `bmg diagnose`: prints a table and writes its rows as JSON.

    Raises:
      ValueError: no run, no usable checkpoint, a run that meta-learns nothing; one line.
    """
    options = parse_options(DiagnoseConfig, "bmg diagnose", arguments)
    environment.clean()
    folder = pathlib.Path(options.output).parent
    if options.output and not folder.is_dir():
        raise ValueError(f"--output is {options.output}, and {folder} is no folder; make it first.")
    config = load_run(options.workdir)
    if config.agent.algorithm not in ("stacx", "bmg"):
        raise ValueError(f"{config.path} is a run of {config.agent.algorithm}; give STACX or BMG.")

    from bmg.actors.rollout import agent_spec
    from bmg.agents import readings
    from bmg.agents.config import AgentConfig, MetaConfig, OptimizerConfig
    from bmg.environments.factory import make_spec
    from bmg.launch.runtimes.assembly import load_newest
    from bmg.storage.files import write_json

    spec = make_spec(config.game, config.atari, config.game_options)
    agent, found, problems = load_newest(config, spec)
    for problem in problems:
        print(problem)
    # Table 2, but for the network and what learned: the size depends on where the agent is.
    table_2 = AgentConfig(
        network=config.agent.network,
        optimizer=dataclasses.replace(OptimizerConfig(), decay_frames=0),
        meta=dataclasses.replace(MetaConfig(), auxiliary_tasks=config.agent.meta.auxiliary_tasks),
    )
    batches = play(config, spec, agent, found.state.agent, options)
    sizes = readings.measure(
        table_2, agent_spec(spec), found.state.agent, batches,
        lambda what: print(f"measuring {what}", flush=True),
    )  # fmt: skip
    rows = [
        {"reading": reading.label, "objective": objective, **size._asdict(),
         **beside_table_3(config.game, objective, size)}
        for (reading, objective), size in sizes.items()
    ]  # fmt: skip
    result = {
        "game": config.game, "frames": found.header["frames"], "batches": options.batches,
        "rows": rows, "distance": distances(config.game, sizes),
    }  # fmt: skip
    print_table(rows)
    if result["distance"]:
        print_table(result["distance"])
    path = pathlib.Path(options.output or config.path / "diagnosis.json")
    write_json(path, result)
    print(path)
    return 0


def play(config, spec, agent, state, options: DiagnoseConfig) -> list:
    """Batches of consecutive unrolls of the checkpoint's policy."""
    import jax

    from bmg.actors.inference import LocalInference
    from bmg.actors.parameters import LocalParameters
    from bmg.actors.rollout import Rollout
    from bmg.agents.messages import VersionedParameters
    from bmg.agents.trajectory import UpdateBatch
    from bmg.environments.factory import make

    published = VersionedParameters(agent.acting_params(state), 0, 0, False)
    inference = LocalInference(agent.act, LocalParameters(lambda: published, jax.devices()[0]))
    inference.newest(lambda: False)
    number = options.online + options.replay
    games = make(
        config.game, number, options.seed, 0, config.atari, num_threads=0,
        options=config.game_options,
    )  # fmt: skip
    try:
        key = jax.random.PRNGKey(options.seed)
        rollout = Rollout([games], inference.ask, config.learner.unroll_length, key)
        for _ in range(options.burn_in):
            rollout.collect(0, lambda: 0.0)
        unrolls = [rollout.collect(0, lambda: 0.0) for _ in range(options.batches)]
    finally:
        games.close()
    return [
        UpdateBatch(
            jax.tree.map(lambda x: x[: options.online], one),
            jax.tree.map(lambda x: x[options.online :], one),
            (),
        )
        for one in unrolls
    ]


def _column(objective: str) -> str:
    return "l2" if objective == "l2_norm" else objective


def beside_table_3(game: str, objective: str, size) -> dict[str, float]:
    """How many times Table 3's variance and norm (ratio x variance) the measured ones are."""
    if game not in TABLE_3:
        return {}
    variance, ratio = TABLE_3[game][_column(objective)]
    return {
        "variance_over_paper": size.variance / variance,
        "norm_over_paper": size.norm / (ratio * variance),
    }


def distances(game: str, sizes: dict) -> list[dict]:
    """For each reading, and each of L2's, by how many powers of ten the four cells of Table 3 are
    missed, root mean square; nearest first."""
    if game not in TABLE_3:
        return []
    rows = []
    for reading in dict.fromkeys(reading for reading, _ in sizes):
        for l2 in ("l2", "l2_norm"):
            missed = [
                beside_table_3(game, objective, sizes[reading, objective])
                for objective in ("kl", "kl_value", l2, "stacx")
            ]
            row = {"reading": f"{reading.label}, {'plain' if l2 == 'l2_norm' else 'squared'} L2"}
            for name in ("variance_over_paper", "norm_over_paper"):
                logs = [math.log10(max(x[name], 1e-30)) for x in missed]
                row[name.replace("over_paper", "distance")] = math.sqrt(
                    sum(x * x for x in logs) / len(logs)
                )
            rows.append(row)
    return sorted(rows, key=lambda row: row["variance_distance"])
