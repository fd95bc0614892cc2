"""What the configurations of all experiments have in common."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import ClassVar

from bmg.storage.fields import Count, FieldError, Lifetimes, Pause, Seed, check_fields, check_seeds


@dataclasses.dataclass(frozen=True)
class LifetimesConfig:
    """How many lifetimes run for how long, and where they are kept."""

    counted: ClassVar[str] = "environment steps"
    """What `steps` counts, in the plural, as console, results and errors name it."""

    seeds: Lifetimes = 1
    """How many lifetimes, side by side."""
    first_seed: Seed = 0
    """The first one's seed; the others follow."""
    steps: Count = 1_000_000
    """Length of each lifetime."""
    record_every: Count = 2_000
    """Steps that a row of the results averages; at least those of an update."""
    checkpoint_interval: Pause = 60.0
    """Seconds between checkpoints; one is left at the end and at Ctrl-C as well."""
    resume: bool = False
    """Go on from the run directory's checkpoint."""
    wandb: str = ""
    """Project of Weights & Biases that results are sent to as well; empty for none."""

    @property
    def most_devices(self) -> int:
        """The largest useful number of devices."""
        return self.seeds

    @property
    def path(self) -> pathlib.Path:
        """The run directory, which every experiment has a default for."""
        return pathlib.Path(self.workdir)


def check_lifetimes(config: LifetimesConfig, steps_per_update: int) -> None:
    """Refuses what `LifetimesConfig` does not allow beside its fields.

    Raises:
      FieldError: one line.
    """
    if config.record_every < steps_per_update:
        raise FieldError(
            "record_every",
            f"is {config.record_every}; allowed are integers from {steps_per_update}, the "
            f"{config.counted} of an update",
        )
    check_seeds("first_seed", config.first_seed, config.seeds)


@dataclasses.dataclass(frozen=True)
class SuiteOptions:
    """Run every method, one after the other; go on where it was stopped."""

    seeds: Lifetimes = 1
    """Lifetimes of each method."""
    steps: Count = 1_000_000
    """Length of each lifetime."""
    root: str = "runs"
    """Folder of the run directories."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class FiguresOptions:
    """Redraw the figures from the runs in a folder, and print what they came to."""

    root: str = "runs"
    """Folder of the run directories, as `all` leaves it."""
    output: str = ""
    """Folder for the pictures; empty for `figures` in the folder of the runs."""

    @property
    def folder(self) -> pathlib.Path:
        """Where pictures go."""
        return pathlib.Path(self.output or pathlib.Path(self.root) / "figures")

    @property
    def of_runs(self) -> bool:
        """Whether any of them shows the runs in that folder."""
        return True

    def __post_init__(self):
        check_fields(self)
