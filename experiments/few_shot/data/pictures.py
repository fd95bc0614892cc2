"""Picture files to arrays of one size."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

Report = Callable[[str], None]
"""Shows a line to the user."""

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "F")  # Pillow's modes of more than 8 bits
_GREY = ("1", "L", "LA", "La", *_DEEP)  # those without colour
_REPORT_EVERY = 10.0  # seconds


class Progress:
    """Reports from time to time how many pictures were read."""

    def __init__(self, total: int, report: Report):
        self._total, self._report = total, report
        self._read, self._reported = 0, time.monotonic()

    def one_more(self) -> None:
        """Counts a picture."""
        self._read += 1
        now = time.monotonic()
        if now - self._reported >= _REPORT_EVERY:
            self._report(f"images: {self._read} of {self._total} are read")
            self._reported = now


def is_picture(path: pathlib.Path) -> bool:
    """Whether its name is that of a visible picture file."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def is_grey(path: pathlib.Path) -> bool:
    """Whether a picture has no colours; only its beginning is read.

    Raises:
      ValueError: it cannot be read; one line.
    """
    return _with_picture(path, lambda picture: picture.mode in _GREY)


def read(path: pathlib.Path, size: int, channels: int) -> np.ndarray:
    """A picture, brought to size x size pixels by Lanczos as MAML does, whatever its shape.

    Args:
      path: of its file.
      size: pixels of a side.
      channels: 1 for grey, 3 for colours.

    Returns:
      uint8 [size, size, channels].

    Raises:
      ValueError: it cannot be read; one line.
    """

    def array(picture: Image.Image) -> np.ndarray:
        picture = _on_white(_eight_bits(picture))
        picture = picture.convert("L" if channels == 1 else "RGB")
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.LANCZOS)
        return np.asarray(picture, np.uint8).reshape(size, size, channels)

    return _with_picture(path, array)


def read_all(
    paths: Sequence[Sequence[pathlib.Path]], size: int, channels: int, progress: Progress
) -> np.ndarray:
    """The pictures of classes of equal numbers: uint8 [classes, images, size, size, channels].

    Raises:
      ValueError: one cannot be read; one line.
    """
    images = np.empty((len(paths), len(paths[0]), size, size, channels), np.uint8)
    for i, of_class in enumerate(paths):
        for j, path in enumerate(of_class):
            images[i, j] = read(path, size, channels)
            progress.one_more()
    return images


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Pillow cuts off what is above 255, where it should be scaled: numbers up to 1 (of "F"), up to
    255, or of 16 bits."""
    if picture.mode not in _DEEP:
        return picture
    x = np.asarray(picture, np.float64)
    largest = x.max(initial=0.0)
    if picture.mode == "F" and largest <= 1:
        x = 255 * x
    elif picture.mode not in ("I", "F") or largest > 255:
        x = x // 257
    return Image.fromarray(x.clip(0, 255).astype(np.uint8))


def _on_white(picture: Image.Image) -> Image.Image:
    """What is transparent shows a white ground, as in most viewers."""
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture)


def _with_picture(path: pathlib.Path, use: Callable):
    try:
        with Image.open(path) as picture:
            return use(picture)
    # What Pillow raises of damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or "damaged, or no picture"
        raise ValueError(
            f"the image {path} cannot be read ({why}); put it right, or remove it."
        ) from None
