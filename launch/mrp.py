"""`bmg mrp`: value prediction on the Markov reward process, its discounts meta-learned."""

from __future__ import annotations

from experiments.multistep.config import MrpConfig
from launch.lifetimes import Experiment, parse, run


def main(arguments: list[str]) -> int:
    """Runs `bmg mrp`.

    Returns:
      The exit code: 0 complete, 130 stopped by Ctrl-C.

    Raises:
      ValueError: bad input, one line.
    """
    return run(EXPERIMENT, parse(EXPERIMENT, arguments))


def _make_lifetime(config: MrpConfig):
    from experiments.multistep.mrp import make_lifetime

    return make_lifetime(config)


def _summarise(config: MrpConfig, steps, columns) -> dict:
    """The last row's values, means over seeds."""
    last = {name: float(values[:, -1].mean()) for name, values in columns.items()}
    discounts = [last.pop(f"discount_{i}") for i in range(10)]
    return {
        "objective": config.objective,
        "inner_steps": config.inner_steps,
        **last,
        "discounts": discounts,
    }


EXPERIMENT = Experiment("mrp", MrpConfig, _make_lifetime, _summarise)
