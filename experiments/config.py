"""What the configurations of all experiments have in common."""

from __future__ import annotations

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class LifetimesConfig:
    """How many lifetimes run for how long, and where they are kept."""

    seeds: int = 1
    """How many lifetimes, side by side."""
    first_seed: int = 0
    """The first one's seed; the others follow."""
    steps: int = 1_000_000
    """Environment steps of each lifetime."""
    record_every: int = 2_000
    """Environment steps that a row of the results averages; at least an update."""
    checkpoint_interval: float = 60.0
    """Seconds between checkpoints; one is left at the end and at Ctrl-C as well."""
    resume: bool = False
    """Go on from the run directory's checkpoint."""

    @property
    def path(self) -> pathlib.Path:
        """The run directory, which every experiment has a default for."""
        return pathlib.Path(self.workdir)


def check_lifetimes(config: LifetimesConfig, steps_per_update: int) -> None:
    """Refuses what `LifetimesConfig` does not allow.

    Raises:
      ValueError: one line.
    """
    check_integers(config, seeds=1, first_seed=0, steps=1, record_every=steps_per_update)


def check_integers(config, **least: int) -> None:
    """Refuses fields below their least value, also inside of tuples.

    Raises:
      ValueError: one line.
    """
    for name, bound in least.items():
        value = getattr(config, name)
        if min(value if isinstance(value, tuple) else (value,), default=bound) < bound:
            option, shown = "--" + name.replace("_", "-"), str(value).strip("(,)")
            raise ValueError(f"{option} is {shown}; allowed are integers from {bound}.")
