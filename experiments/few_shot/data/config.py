"""Which images tasks are drawn from."""

from __future__ import annotations

import dataclasses
from typing import Literal

from bmg.storage.fields import FieldError, OpenShare, Pixels, Seed, Several, check_fields


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images, and their shares for training, validation and test."""

    source: Literal["glyphs", "mini-imagenet", "folder"] = "glyphs"
    """Characters drawn from the fonts of matplotlib; MiniImagenet; or folders of images, one a
    class. Ours; MiniImagenet in BMG section 6."""
    path: str = ""
    """Folder of MiniImagenet or of the class folders; glyphs need none."""
    image_size: Pixels | None = None
    """Pixels of a side. Left out: 28 for glyphs, as Omniglot in MAML, else 84, as MiniImagenet."""
    images_per_class: Several = 20
    """Glyphs: images made of each character, as many as Omniglot has."""
    min_images_per_class: Several = 20
    """Folder: classes with fewer images are refused. Ours."""
    validation_share: OpenShare = 0.2
    """Folder without train, validation and test: share of the classes for validation. Ours."""
    test_share: OpenShare = 0.2
    """The same for test. Ours."""
    seed: Seed = 0
    """Of the deformations of glyphs, of the shares of classes, and of which images are kept where
    classes differ in their number."""
    cache: str = ""
    """Folder that keeps images made or read once. Left out: bmg in the user's folder of caches."""

    @property
    def pixels(self) -> int:
        """Of a side, the source's default where none was given."""
        return self.image_size or (28 if self.source == "glyphs" else 84)

    def __post_init__(self):
        check_fields(self)
        if self.validation_share + self.test_share >= 1:
            raise FieldError(
                "test_share",
                f"is {self.test_share:g} beside a validation_share of {self.validation_share:g}; "
                "allowed are numbers that leave some classes for training",
            )
        if self.source != "glyphs" and not self.path:
            raise FieldError(
                "path", f"is empty with the source {self.source}; give the folder of its images"
            )
