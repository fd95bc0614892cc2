"""One place that turns a configuration into images."""

from __future__ import annotations

import functools
import hashlib

from bmg.experiments.few_shot.data import cache, folder, glyphs, mini_imagenet
from bmg.experiments.few_shot.data.config import DataConfig
from bmg.experiments.few_shot.data.pictures import Report
from bmg.experiments.few_shot.data.sets import DataSet, same_classes
from bmg.storage.fields import shown

_show = functools.partial(print, flush=True)
_GLYPHS_VERSION = 1  # another one where the drawing changes


def load(config: DataConfig, report: Report = _show) -> DataSet:
    """The images, made or read once and then kept in the cache.

    Args:
      config: which ones.
      report: shows a line to the user, of what takes long or was left out.

    Raises:
      ValueError: they cannot be had; one line that says what is missing where.
    """
    found = _load(config, report)
    if pairs := same_classes(found):
        more = f", and {len(pairs) - 1} more those of another class" if len(pairs) > 1 else ""
        names = " and ".join(map(shown, pairs[0]))
        report(f"images: the classes {names} have the same{more}: tasks ask to tell them apart")
    return found


def _load(config: DataConfig, report: Report) -> DataSet:
    if config.source == "mini-imagenet":
        return mini_imagenet.load(config, report)
    if config.source == "folder":
        return folder.load(config, report)
    characters = hashlib.sha256(glyphs.CHARACTERS.read_bytes()).hexdigest()
    content = [_GLYPHS_VERSION, characters, config.pixels, config.images_per_class, config.seed]
    return cache.kept(
        cache.folder(config.cache), "glyphs", content, functools.partial(glyphs.make, config)
    )
