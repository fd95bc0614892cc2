"""Which characters are classes: the rule that wrote characters.csv.

    .venv/bin/python -m bmg.experiments.few_shot.data.selection

A character is a class if the fonts have it in at least two styles, and none that was taken before
looks like it, of whatever script: of A in Latin, Greek and Cyrillic only the first is taken. Two
characters look alike if in any two styles, drawn in the same box, they are less than
`LEAST_DISTANCE` apart.
"""

from __future__ import annotations

import csv
import io

import numpy as np

from bmg.experiments.few_shot.data import glyphs, outlines
from bmg.experiments.few_shot.data.sets import SPLITS
from bmg.storage.files import whole_file

# Split -> script -> its characters, from the first to the last of each range. The splits for
# evaluation come first: they have fewer scripts.
SCRIPTS: dict[str, dict[str, list[tuple[int, int]]]] = {
    "test": {
        "Armenian": [(0x531, 0x556), (0x561, 0x587)],
        "Tifinagh": [(0x2D30, 0x2D6F)],
        "Lao": [(0xE81, 0xEB0), (0xEB2, 0xEB3), (0xEBD, 0xEC6), (0xED0, 0xEDD)],
        "Arabic": [(0x621, 0x64A), (0x660, 0x669), (0x671, 0x6D3), (0x6F0, 0x6F9)],
    },
    "validation": {
        "Hebrew": [(0x5D0, 0x5EA)],
        "Georgian": [(0x10A0, 0x10FA), (0x2D00, 0x2D25)],
        "N'Ko": [(0x7C0, 0x7EA)],
        "Ogham": [(0x1681, 0x169A)],
    },
    "train": {
        "Latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x2AF),
                  (0x2C60, 0x2C7F), (0xA722, 0xA787)],
        "Greek": [(0x370, 0x3FF)],
        "Cyrillic": [(0x400, 0x481), (0x48A, 0x52F), (0xA640, 0xA66E)],
        "Canadian syllabics": [(0x1401, 0x1676)],
        "signs": [(0x21, 0x40), (0x20A0, 0x20BF), (0x2100, 0x214F)],
        "arrows": [(0x2190, 0x21FF), (0x27F0, 0x27FF), (0x2900, 0x297F)],
        "mathematics": [(0x2200, 0x22FF), (0x27C0, 0x27EF), (0x2980, 0x29FF), (0x2A00, 0x2AFF)],
    },
}  # fmt: skip

# The root of the sum of squared differences between two drawings of 14 x 14 pixels, the size at
# which pixels forgive a shift of a stroke. From one style of a character to its nearest other one
# that differs, it is about 430 in the median over the classes: characters are further apart. Ours.
LEAST_DISTANCE = 450
_SIZE = 14


def prototypes(character: str) -> np.ndarray:
    """float64 [styles, `_SIZE` ** 2]: the character in each of its styles, not deformed.

    They are integers, so that sums and products of them are exact.
    """
    shapes = [(glyphs.boxed(points), after) for points, after in outlines.styles(character)]
    if not shapes:
        return np.zeros((0, _SIZE**2))
    return glyphs.draw(shapes, _SIZE).reshape(len(shapes), -1).astype(np.float64)


def select() -> list[glyphs.Character]:
    """The classes, by the rule, in the order of `SPLITS`."""
    kept: list[glyphs.Character] = []
    drawings, squares = np.zeros((0, _SIZE**2)), np.zeros(0)  # of all that are kept
    for split, scripts in SCRIPTS.items():
        for script, ranges in scripts.items():
            for first, last in ranges:
                for character in map(chr, range(first, last + 1)):
                    new = prototypes(character)
                    if len(new) < 2 or _nearest(new, drawings, squares) < LEAST_DISTANCE**2:
                        continue
                    kept.append(glyphs.Character(split, script, character))
                    drawings = np.concatenate([drawings, new])
                    squares = np.concatenate([squares, (new**2).sum(1)])
    return sorted(kept, key=lambda each: SPLITS.index(each.split))


def _nearest(new: np.ndarray, drawings: np.ndarray, squares: np.ndarray) -> float:
    """The least squared distance of one of the new drawings to one of the others, whose sums of
    squares are given."""
    if not len(drawings):
        return np.inf
    return ((new**2).sum(1)[:, None] + squares - 2 * new @ drawings.T).min()


def main() -> None:
    """Writes characters.csv anew."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["split", "script", "character"])
    for each in select():
        rows.writerow([each.split, each.script, f"{ord(each.character):04X}"])
    with whole_file(glyphs.CHARACTERS) as file:
        file.write(text.getvalue().encode())


if __name__ == "__main__":
    main()
