"""`bmg benchmark NAME`: measures, prints a table, and writes its rows as a JSON list."""

from __future__ import annotations

import importlib
import pathlib

from launch.options import check_name, parse_options
from launch.tables import print_table
from storage.files import write_json

_BENCHMARKS = {
    "pipeline": "actors into Reverb and out again, against the bare vector environment",
    "impala": "the whole system as plain IMPALA without replay",
    "runtimes": "the whole system as processes around Reverb, and as threads of one process",
    "inference": "one server of actions for all actors, against actors that choose them themselves",
    "replay": "the replay path alone at the paper's frame size, against what its run needs",
    "hosts": "hosts that learn together, against as many runs that do not, on the same cores",
    "learner": "one update of STACX and BMG against the plain IMPALA update",
    "two-colors": "environment steps per second of the two-colours agents, on all cores",
    "faults": "what a run survives: processes killed and stopped, a full disk, a broken checkpoint",
    "snake": "steps per second and memory of each objective on Snake over the plain A2C",
}


def main(arguments: list[str]) -> int:
    """Runs `bmg benchmark NAME`.

    Raises:
      ValueError: unknown benchmark; one line.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: bmg benchmark NAME [--json FILE] [--quick]\n")
        print("\n".join(f"  {name:<10} {text}" for name, text in _BENCHMARKS.items()))
        return 0
    name = arguments[0]
    check_name("benchmark", name, _BENCHMARKS)
    benchmark = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
    config = parse_options(benchmark.Config, f"bmg benchmark {name}", arguments[1:])
    rows = []
    for row in benchmark.measure(config):
        rows.append(row)
        if config.json:
            write_json(pathlib.Path(config.json), rows)
    print_table(rows)
    return 0
