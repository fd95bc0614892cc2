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
    workdir: str = ""
    """Run directory."""
    resume: bool = False
    """Go on from the run directory's checkpoint."""

    @property
    def path(self) -> pathlib.Path:
        """The run directory."""
        return pathlib.Path(self.workdir)

    @property
    def steps_per_update(self) -> int:
        """Environment steps of an update."""
        raise NotImplementedError

    def __post_init__(self):
        self.check_integers(seeds=1, first_seed=0, steps=1, record_every=self.steps_per_update)

    def check_integers(self, **least: int) -> None:
        """Refuses fields below their least value.

        Raises:
          ValueError: one line.
        """
        for name, bound in least.items():
            if getattr(self, name) < bound:
                option = "--" + name.replace("_", "-")
                raise ValueError(
                    f"{option} is {getattr(self, name)}; allowed are integers from {bound}."
                )
