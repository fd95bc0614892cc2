"""Options of `bmg pod create|run|status|logs|stop|resume`."""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import re

from bmg.launch.hosts.tpu_scripts import CODE
from bmg.storage.fields import Natural, check_fields, shown

# Cores or chips of the smallest slice that has whole hosts; larger ones are multiples of 8.
_SMALLEST = {"v2": 8, "v3": 8, "v4": 8, "v5litepod": 1, "v5p": 8, "v6e": 1}
_OTHER_NAMES = {"v5e": "v5litepod", "v5lite": "v5litepod", "v5": "v5p", "v6": "v6e"}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Which TPU slice is meant."""

    name: str = "bmg"
    """The TPU VM's name."""
    zone: str = ""
    """Where it is, such as us-central2-b; empty for gcloud's own (compute/zone)."""
    project: str = ""
    """Google Cloud project; empty for gcloud's own."""
    dry_run: bool = False
    """Print the commands that would be executed, one per line, and execute nothing."""

    def __post_init__(self):
        check_fields(self)
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", self.name):
            raise ValueError(
                f"name is {self.name!r}; give small letters, digits and hyphens, a letter first."
            )
        if self.zone and not re.fullmatch(r"[a-z]+-[a-z]+[0-9]+-[a-z]", self.zone):
            raise ValueError(f"zone is {self.zone!r}; give one that looks like us-central2-b.")
        if self.project and not re.fullmatch(r"[a-z0-9.:-]*[a-z0-9]", self.project):
            raise ValueError(f"project is {self.project!r}; give a project's ID.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Create(Slice):
    """Make a TPU slice. It costs money until `bmg pod stop --delete`."""

    accelerator_type: str
    """Generation and size: v2-8, v3-32, v4-32, v5litepod-16, v5p-8, v6e-8 and so on."""
    version: str = "tpu-ubuntu2204-base"
    """Runtime image: this one for v2 to v4, v2-alpha-tpuv5-lite for v5litepod, v2-alpha-tpuv5 for
    v5p, v2-alpha-tpuv6e for v6e."""
    spot: bool = False
    """Cheaper, and taken away at any time with everything on it."""

    def __post_init__(self):
        super().__post_init__()
        check_accelerator_type(self.accelerator_type)


@dataclasses.dataclass(frozen=True)
class Workers(Slice):
    """A slice, and the run directory on its workers."""

    workdir: str = "bmg/run"
    """Run directory on the workers, from the home folder."""

    def __post_init__(self):
        super().__post_init__()
        path = pathlib.PurePosixPath(self.workdir)
        fits = re.fullmatch(r"[A-Za-z0-9._/][A-Za-z0-9._/-]*", self.workdir) and (
            ".." not in path.parts
        )
        code = pathlib.PurePosixPath(CODE)
        if not fits or path in (code, *code.parents) or code in path.parents:
            raise ValueError(
                f"workdir is {self.workdir!r}; give a folder of its own such as bmg/run, in "
                "letters, digits and ._/-, beside bmg/code."
            )


@dataclasses.dataclass(frozen=True)
class Results(Workers):
    """The same, and where its results are brought."""

    results: str = ""
    """Folder here that worker 0's run directory is brought to; empty for runs/NAME."""

    def __post_init__(self):
        super().__post_init__()
        if ":" in self.results or self.results.startswith("-"):  # scp would take it for a host
            raise ValueError(f"results is {self.results!r}; give a folder here without a colon.")

    @property
    def folder(self) -> str:
        """The folder here."""
        return self.results or f"runs/{self.name}"


@dataclasses.dataclass(frozen=True)
class Run(Results):
    """Start a run on all workers and show worker 0's console until it ends; then bring its results.
    What follows `--` are options of bmg train: bmg pod run --name x -- --preset paper --game pong.
    Shipped are the files that git tracks, as they are now. Ctrl-C ends the showing, not the run."""


@dataclasses.dataclass(frozen=True)
class Resume(Results):
    """Go on with a run that is on the workers, with the code as it is here now; else as `run`.
    What follows `--` are options of bmg train that change: bmg pod resume -- --frames 400000000."""


@dataclasses.dataclass(frozen=True)
class Status(Workers):
    """The slice's state, and of each worker whether a run goes on, with its last line."""


@dataclasses.dataclass(frozen=True)
class Logs(Results):
    """Show a worker's console until the run ends, or bring its run directory as it is now."""

    worker: Natural = 0
    """Which worker's."""
    fetch: bool = False
    """Bring its run directory to --results, in place of the console."""


@dataclasses.dataclass(frozen=True)
class Stop(Workers):
    """End the run on all workers, after a checkpoint; a second time: at once, without one."""

    delete: bool = False
    """Then delete the slice and all that is on it; bring results before, with logs --fetch."""


def check_accelerator_type(value: str) -> None:
    """Refuses what cannot be a TPU slice.

    Raises:
      ValueError: one line that names what is allowed and what is nearest.
    """
    generation, _, size = value.partition("-")
    smallest = _SMALLEST.get(generation)
    if smallest and re.fullmatch("[1-9][0-9]{0,5}", size):
        if int(size) % 8 == 0 or (smallest == 1 and int(size) in (1, 4)):
            return
    pattern, near_value = r"(.*?)(?:[-_ ]+([0-9]{1,6}))?", value[:100].lower()
    generation, size = re.fullmatch(pattern, near_value, re.DOTALL).groups()
    generation = _OTHER_NAMES.get(generation, generation)
    (near,) = difflib.get_close_matches(generation, _SMALLEST, n=1, cutoff=0.0)
    allowed = ", ".join(f"{x}-SIZE" for x in _SMALLEST)
    raise ValueError(
        f"accelerator type is {shown(value)}; give {allowed}, with a SIZE of 8, 16, 32 and so on "
        f"(v5litepod and v6e also 1 and 4), such as {near}-{max(8, round(int(size or 8) / 8) * 8)}."
    )
