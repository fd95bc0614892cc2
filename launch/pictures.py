"""Where a picture goes that a command draws."""

from __future__ import annotations

import pathlib

from bmg.launch.options import check_name
from bmg.storage.files import reason

_KINDS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg", ".eps")


def picture_path(output: str, name: str) -> pathlib.Path:
    """The picture of `--output`: of the kind that it ends in, or .png; `name` in a folder.

    Raises:
      ValueError: of a kind that cannot be drawn; one line.
    """
    path = pathlib.Path(output)
    if path.is_dir() or output.endswith("/"):
        return path / name
    if not path.suffix:
        return path.with_name(f"{path.name}.png")
    check_name("kind of picture", path.suffix.lower(), _KINDS)
    return path


def no_picture(path: pathlib.Path, error: OSError) -> ValueError:
    """What a command raises that could not write one: one line."""
    return ValueError(f"no picture at {path}: {reason(error)}; give another --output.")
