"""`bmg benchmark BENCHMARK`: measures, prints a line for each row as it comes and a table of all,
and writes the rows as a JSON list."""

from __future__ import annotations

import importlib
import os
import pathlib

from bmg.launch import environment, signals
from bmg.launch.options import choose, parse_options
from bmg.launch.tables import print_row, print_table
from bmg.storage.compiled import FOLDER
from bmg.storage.files import write_json

_BENCHMARKS = {
    "pipeline": "actors into Reverb and out again, against the bare vector environment",
    "impala": "the whole system as plain IMPALA without replay",
    "runtimes": "the whole system as processes around Reverb, and as threads of one process",
    "in-graph": "one compiled program on MinAtar against threads, and several seeds against one",
    "inference": "one server of actions for all actors, against actors that choose them themselves",
    "replay": "the replay path alone at the paper's frame size, against what its run needs",
    "hosts": "hosts that learn together, against as many runs that do not, on the same cores",
    "layers": "layers of the torsos by several ways, in two precisions, memory kept or not",
    "learner": "one update of STACX and BMG against the plain IMPALA update",
    "two-colors": "environment steps per second of the two-colours agents, on all cores",
    "meta-learners": "how far the meta-gradients of the experiments are from Adam's epsilon",
    "faults": "what a run survives: processes killed and stopped, a full disk, a broken checkpoint",
    "snake": "steps per second and memory of each objective on Snake over the plain A2C",
    "accelerator": "an accelerator: updates at the paper's size, training, experiments, numbers",
    "lpg": "meta-training a learned policy gradient: steps per second and memory",
    "few-shot": "meta-steps of MAML and BMG over tasks, against other libraries",
}
_TIDY_SECONDS = 60.0  # that a benchmark has to end what it started, after Ctrl-C
_MORE = "All take --quick and --json FILE; their own options: bmg benchmark BENCHMARK --help."


def main(arguments: list[str]) -> int:
    """Runs `bmg benchmark BENCHMARK`; the exit code: 0, 1 where a promise was not kept, or 130
    stopped by Ctrl-C.

    Raises:
      ValueError: unknown benchmark; one line.
    """
    name = choose("bmg benchmark", "benchmark", _BENCHMARKS, arguments, _MORE)
    if name is None:
        return 0
    # Compilation is measured as well: before JAX is imported, here and in programs started here.
    os.environ |= environment.expected(os.environ, **{FOLDER: ""})
    benchmark = importlib.import_module(f"bmg.benchmarks.{name.replace('-', '_')}")
    config = parse_options(benchmark.Config, f"bmg benchmark {name}", arguments[1:])
    environment.clean()
    rows = []
    try:
        with signals.interrupting(_TIDY_SECONDS):
            found = benchmark.measure(config)
            for row in found:
                rows.append(row)
                if not isinstance(found, list):  # whose rows come together: the table follows
                    print_row(row)
                if config.json:
                    write_json(pathlib.Path(config.json), rows)
    except KeyboardInterrupt:
        if rows:
            print("stopped; measured so far:")
            print_table(rows)
        return signals.EXIT_CODE
    if not rows:
        raise ValueError(f"nothing to measure; see bmg benchmark {name} --help.")
    print_table(rows)
    broken = [row for row in rows if row.get("kept") is False]  # of `faults`, which judges
    return 1 if broken else 0
