"""A sweep's file: games, seeds and settings, of which every combination is a run of `bmg train`.

games = ["catch"]                  # "atari57" stands for all of them
seeds = [0, 1, 2]
root = "runs/small"                # a run is in root/GAME/SETTING/seed-SEED

[options]                          # of every run, by the names that config.json has
frames = 100_000

[settings.impala]                  # one after another; the table's name is the setting's
agent.algorithm = "impala"

[grid]                             # every combination of these, with every setting
"agent.optimizer.learning_rate" = [1e-3, 3e-3]
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bmg.environments.games import folder_name
from bmg.environments.scores import GAMES
from bmg.launch.config import TrainConfig
from bmg.launch.options import check_name, option_of
from bmg.launch.presets import PRESETS
from bmg.storage.fields import (
    Count,
    Few,
    FieldError,
    Natural,
    Seed,
    check_fields,
    check_lists,
    from_dict,
    shown,
)
from bmg.storage.run_directory import flatten, to_dict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_ALL = "atari57"  # in place of a game
_SUFFIX = ".toml"
# What the sweep itself says of a run.
_OWN = ("game", "seed", "workdir", "resume")
_LARGEST_FILE = 2**20  # bytes
_MOST_RUNS = 100_000
_LONGEST_NAME = 255 - len(".log")  # bytes: a run's is that of its log as well
_LONGEST_SHOWN = 40  # letters of it
Options = dict[str, Any]  # `group.name` -> TOML value


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What stands in the file beside tables of options."""

    games: tuple[str, ...]
    """As `bmg train --game` has them; atari57 for all of Atari's."""
    seeds: tuple[Seed, ...] = (0,)
    """Of each game and setting."""
    root: str = ""
    """Folder of the runs; empty for runs/NAME."""
    parallel: Count = 1
    """Runs at the same time."""
    cores: Natural = 0
    """Of each of them; 0 for the machine's divided by their number."""
    retries: Few = 2
    """How often a run that failed goes on from its newest checkpoint."""

    def __post_init__(self):
        check_fields(self)
        check_lists(self, "games", "seeds")


class Run(NamedTuple):
    """One run."""

    name: str  # GAME/SETTING/seed-SEED
    config: TrainConfig
    arguments: list[str]  # of `bmg`, that start it


class Sweep(NamedTuple):
    """A file that has been read."""

    name: str
    declaration: Declaration
    tables: Mapping[str, Any]  # options, settings and grid as they stand in the file
    slurm: dict[str, Any]  # submitit's parameters


_TABLES = ("options", "settings", "grid", "slurm")


def path_of(name: str) -> pathlib.Path:
    """The file of a sweep: a path, or the name of one that comes along.

    Raises:
      ValueError: there is none; one line.
    """
    from bmg import sweeps

    path = pathlib.Path(name)
    if path.is_file():
        return path
    ours = sorted(pathlib.Path(sweeps.__file__).parent.glob(f"*{_SUFFIX}"))
    for own in ours:
        if own.stem == name:
            return own
    raise ValueError(
        f"no sweep {name}; give a file, or one of {', '.join(x.stem for x in ours)}, which come "
        "along."
    )


def load(path: pathlib.Path) -> Sweep:
    """Reads a file.

    Raises:
      ValueError: it is no sweep; one line.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large")
        values = tomllib.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    try:
        tables = {name: values.pop(name, {}) for name in _TABLES}
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise FieldError(name, f"is {shown(table)}; give a table, [{name}]")
        declaration = from_dict(Declaration, values)
        return Sweep(path.stem, declaration, tables, tables.pop("slurm"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def runs_of(sweep: Sweep, root: pathlib.Path) -> list[Run]:
    """Every run, the first seed of all of them first.

    Args:
      sweep: the file.
      root: folder of the runs.

    Raises:
      ValueError: a run that cannot be; one line.
    """
    declaration = sweep.declaration
    games = list(itertools.chain(*(GAMES if x == _ALL else [x] for x in declaration.games)))
    common = _options(sweep.tables["options"], "options")
    cells = list(_cells(sweep.tables))
    if (count := len(games) * len(cells) * len(declaration.seeds)) > _MOST_RUNS:
        raise ValueError(f"{count:,} runs are too many; allowed are {_MOST_RUNS:,}.")
    plain = []
    for game, (setting, own) in itertools.product(games, cells):
        options = {**common, **own}
        try:
            config = _config(game, options)
        except ValueError as error:
            where = f" with {setting}" if setting else ""
            raise ValueError(f"{game}{where}: {error}") from None
        _check_seeds(declaration.seeds, config.seeds)
        folder = "/".join(filter(None, (folder_name(game), setting)))
        plain.append((folder, game, options, config))
    folders = [folder for folder, *_ in plain]
    if twice := sorted({x for x in folders if folders.count(x) > 1}):
        raise ValueError(f"two runs would be in {twice[0]}; give each game and setting once.")
    runs = [
        _run(root, folder, game, seed, options, config)
        for seed in declaration.seeds
        for folder, game, options, config in plain
    ]
    _check_names([run.name for run in runs])
    return runs


def _check_seeds(seeds: Sequence[int], each: int) -> None:
    """Refuses seeds that two runs would train.

    Args:
      seeds: the first one of each run.
      each: how many a run has.

    Raises:
      ValueError: one line.
    """
    ordered = sorted(seeds)
    for one, other in zip(ordered, ordered[1:]):
        if other - one < each:
            raise ValueError(
                f"seeds has {one} and {other}, and with the option seeds = {each} a run of seed "
                f"{one} trains {one} to {one + each - 1}; leave that option out, or give seeds "
                f"that are {each} apart."
            )


def _check_names(names: Sequence[str]) -> None:
    """Refuses a run's folder inside another run's, and names that no file can have.

    Raises:
      ValueError: one line.
    """
    known = set(names)
    for name in names:
        if inside := known & set(map(str, pathlib.PurePath(name).parents)):
            raise ValueError(
                f"the run {name} would be in the folder of the run {inside.pop()}; give that "
                "setting another name."
            )
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise ValueError(
                f"a run's name has {len(name)} letters, and at most {_LONGEST_NAME} may be in a "
                f"file's; give a shorter setting than that of {name[:_LONGEST_SHOWN]}..."
            )


def _run(
    root: pathlib.Path, folder: str, game: str, seed: int, options: Options, config: TrainConfig
) -> Run:
    name = f"{folder}/seed-{seed}"
    workdir = str(root / name)
    own = {"game": game, "seed": seed, "workdir": workdir, **options}
    # The preset first, as one would type it.
    own = {**({"preset": own.pop("preset")} if "preset" in own else {}), **own}
    arguments = ["train", *itertools.chain(*(_words(x, value) for x, value in own.items()))]
    return Run(name, dataclasses.replace(config, seed=seed, workdir=workdir), arguments)


def _config(game: str, options: Options) -> TrainConfig:
    """A run's configuration: the preset's, changed."""
    preset = options.get("preset", "local")
    check_name("preset", preset, PRESETS)
    values = to_dict(PRESETS[preset](game))
    for name, value in options.items():
        *groups, field = name.split(".")
        target = values
        for group in groups:
            target = target.setdefault(group, {})
            if not isinstance(target, dict):
                raise FieldError(name, f"is no field: {group} is not a group of fields")
        target[field] = value
    return from_dict(TrainConfig, values)


def _cells(tables: Mapping[str, Any]) -> Iterator[tuple[str, Options]]:
    """(name, options) of each setting with each combination of the grid."""
    grid = _options(tables["grid"], "grid")
    for name, values in grid.items():
        if values == []:
            raise ValueError(f"grid: {name} is empty; give at least one value.")
        if not isinstance(values, list):
            raise ValueError(f"grid: {name} is {shown(values)}; give a list of values.")
    shorts = [name.rpartition(".")[2] for name in grid]
    shorts = [x if shorts.count(x) == 1 else name for x, name in zip(shorts, grid)]
    settings = tables["settings"] or {"": {}}
    for (name, table), values in itertools.product(
        settings.items(), itertools.product(*grid.values())
    ):
        parts = [name] if name else []
        parts += [f"{short}={_plain(value)}" for short, value in zip(shorts, values)]
        own = _options(table, f"settings.{name}")
        yield _folder("-".join(parts)), {**own, **dict(zip(grid, values))}


def _folder(name: str) -> str:
    """A setting's name as a folder's."""
    if name in (".", ".."):
        raise ValueError(f"settings: {name!r} is no name; give one with a letter.")
    return "".join(c if c in "=+" else folder_name(c) for c in name)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_plain, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _options(table: Any, where: str) -> Options:
    """Options of a table, with dotted names however they were nested."""
    if not isinstance(table, dict):
        raise ValueError(f"{where} is {shown(table)}; give a table, [{where}].")
    flat = flatten(table)
    for name in flat:
        if name in _OWN:
            raise ValueError(f"{where}: {name} is the sweep's own; leave it out.")
    return flat


def _words(name: str, value: Any) -> list[str]:
    """An option as one types it."""
    option = option_of(name)
    if isinstance(value, bool):
        head, _, tail = option[2:].rpartition(".")
        return [option] if value else [f"--{head}.no-{tail}" if head else f"--no-{tail}"]
    if isinstance(value, list):
        return [option, *map(str, value)]
    return [option, str(value)]
