"""Characters as classes: drawn alike everywhere, and no two of them alike."""

from __future__ import annotations

import functools
import gc
import hashlib
import itertools
import pathlib
import sys

import jax
import matplotlib
import numpy as np
import pytest
from fontTools.pens.areaPen import AreaPen
from fontTools.pens.boundsPen import BoundsPen
from fontTools.ttLib import TTFont

from bmg.experiments.few_shot.data import (
    cache,
    deformation,
    glyphs,
    outlines,
    raster,
    selection,
    source,
)
from bmg.experiments.few_shot.data.config import DataConfig
from bmg.experiments.few_shot.data.neighbours import nearest_neighbour_accuracy
from bmg.experiments.few_shot.data.sets import SPLITS

FONTS = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
COUNTS = {"train": 714, "validation": 114, "test": 194}
# Of the images of each split, on every machine and with every NumPy and matplotlib.
DIGESTS = {
    "train": "4ce3d88ef4ed5d341bc478e4008d7b908c5c7d0f644736d3517aa8f6b73ab670",
    "validation": "0ca8ade4c2710dc291960a02e323289bb3ef6a74895e564cfe24be13cfa956d8",
    "test": "fec6b1a747456cf29d05fcf14facd7d2d13cf904833761e3ef3d006742e04c6b",
}


@pytest.fixture(scope="module", autouse=True)
def drawn_once():
    """Tests read each character's outlines, and draw them without deformation, once."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((outlines, "styles"), (selection, "prototypes")):
            patch.setattr(module, name, functools.cache(getattr(module, name)))
        yield


@pytest.fixture(scope="module")
def dataset():
    return glyphs.make(DataConfig())


@pytest.mark.long
def test_the_images_have_the_same_bytes_everywhere(dataset):
    for split, images in zip(SPLITS, dataset):
        assert images.images.shape == (COUNTS[split], 20, 28, 28, 1)
        assert images.images.dtype == np.uint8
        assert hashlib.sha256(images.images.tobytes()).hexdigest() == DIGESTS[split], split


@pytest.mark.long
def test_glyphs_lie_inside_their_images_and_none_is_empty(dataset):
    for images, _ in dataset:
        assert images.max((2, 3)).min() > 100
        inner = images[:, :, 1:-1, 1:-1].sum(dtype=np.int64)
        assert inner > 0.998 * images.sum(dtype=np.int64)


@pytest.mark.long
def test_pixels_tell_classes_apart_and_leave_much_to_learn(dataset):
    """Accuracy of nearest neighbours on the test split, as measured, to within 0.03."""
    for ways, shots, expected in [(5, 1, 0.742), (5, 5, 0.924), (20, 1, 0.551)]:
        accuracy = nearest_neighbour_accuracy(
            dataset.test.images, ways, shots, 400, jax.random.key(1)
        )
        assert float(accuracy) == pytest.approx(expected, abs=0.03)


def test_no_script_and_no_character_is_in_two_splits():
    characters = glyphs.read_characters()
    assert len({each.character for each in characters}) == len(characters) == sum(COUNTS.values())
    assert len({each.name for each in characters}) == len(characters)
    scripts = {split: {x.script for x in characters if x.split == split} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert scripts[one] and scripts[other] and not scripts[one] & scripts[other]
    for each in characters:
        ranges = selection.SCRIPTS[each.split][each.script]
        assert any(first <= ord(each.character) <= last for first, last in ranges)


@pytest.mark.long
def test_the_rule_gives_the_characters_of_the_file():
    assert selection.select() == glyphs.read_characters()


@pytest.mark.long
def test_no_two_characters_look_alike():
    """Every tenth against all others, one difference after the other."""
    drawings = [selection.prototypes(each.character) for each in glyphs.read_characters()]
    every = np.concatenate(drawings)
    owner = np.repeat(np.arange(len(drawings)), [len(x) for x in drawings])
    to_own, to_others = [], []
    for i in range(0, len(drawings), 10):
        for k, drawing in enumerate(drawings[i]):
            distance = np.sqrt(((every - drawing) ** 2).sum(1))
            to_others.append(distance[owner != i].min())
            own = np.delete(distance[owner == i], k)
            to_own += [x for x in [own.min()] if x > 50]  # another style that differs
    assert min(to_others) >= selection.LEAST_DISTANCE
    assert 380 < np.median(to_own) < selection.LEAST_DISTANCE


def test_what_looks_alike_in_two_scripts_is_near():
    for one, other in ["AΑ", "AА", "oо", "OՕ"]:
        apart = selection.prototypes(one)[:, None] - selection.prototypes(other)
        assert (apart**2).sum(2).min() < selection.LEAST_DISTANCE**2


@pytest.mark.parametrize("face", ["DejaVuSans", "STIXGeneralItalic", "DejaVuSerif-Bold"])
def test_outlines_have_the_area_and_the_box_of_the_fonts_own(face):
    """fontTools knows both of curves; polygons within them have a little less."""
    font = TTFont(FONTS / f"{face}.ttf", lazy=True)
    glyph_set, names = font.getGlyphSet(), font.getBestCmap()
    for character in "AgßÅж8&":
        outline = outlines.Face(FONTS / f"{face}.ttf").outline(character)
        area, bounds = AreaPen(glyph_set), BoundsPen(glyph_set)
        glyph_set[names[ord(character)]].draw(area)
        glyph_set[names[ord(character)]].draw(bounds)
        (x0, y0), (x1, y1) = (outline.points / 32).T, (outline.points[outline.following] / 32).T
        assert (x0 * y1 - x1 * y0).sum() / 2 == pytest.approx(area.value, rel=0.02)
        box = [x0.min(), y0.min(), x0.max(), y0.max()]
        np.testing.assert_allclose(box, bounds.bounds, atol=0.01 * font["head"].unitsPerEm)


def test_polygons_are_filled_where_they_wind_around_a_sample():
    """Against the winding number of each sample, one after the other."""
    random = np.random.default_rng(0)
    size, unit = 5, raster.UNIT
    for _ in range(5):
        points = random.integers(-unit, (size + 1) * unit, (9, 2))
        following = np.array([1, 2, 3, 0, 5, 6, 7, 8, 4])  # a polygon of four, one of five
        ink = np.zeros((size, size))
        for row, column in itertools.product(range(4 * size), range(8 * size)):
            x, y = (column + 0.5) * unit / 8, (row + 0.5) * unit / 4
            turns = 0
            for (x0, y0), (x1, y1) in zip(points, points[following]):
                if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x:
                    turns += 1 if y1 > y0 else -1
            ink[row // 4, column // 8] += turns != 0
        image = np.zeros(9, int)
        drawn = raster.rasterise(points, following, image, 1, size)[0]
        # A crossing is rounded down to 1 / UNIT: a sample or two may differ by that.
        assert np.abs(drawn - ink * 255 / 32).max() < 255 / 32 * 1.6
        assert np.mean(np.abs(drawn - ink * 255 / 32) > 1) < 0.05


def test_deformations_fold_nothing_and_keep_glyphs_in_their_places():
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 21)] * 2), -1).reshape(-1, 2)
    nothing = np.zeros(6 + 2 * 16)
    np.testing.assert_allclose(deformation.deformed(grid, nothing), grid, atol=1e-15)
    step = 1e-6
    for numbers in deformation.deformations(0, 65, 200):
        moved = deformation.deformed(grid, numbers)
        dx = (deformation.deformed(grid + [step, 0], numbers) - moved) / step
        dy = (deformation.deformed(grid + [0, step], numbers) - moved) / step
        area = dx[:, 0] * dy[:, 1] - dx[:, 1] * dy[:, 0]
        assert 0.2 < area.min() and area.max() < 3
        assert np.abs(moved - grid).max() < 0.9


def test_a_turn_is_a_rotation():
    numbers = np.zeros(6 + 2 * 16)
    numbers[0] = 1
    (x, y), angle = deformation.deformed(np.array([[1.0, 0]]), numbers)[0], 2 * np.arctan(0.08)
    np.testing.assert_allclose([x, y], [np.cos(angle), np.sin(angle)], rtol=1e-12)


def test_images_depend_on_seed_and_character_and_on_nothing_else():
    images = glyphs.class_images("ж", 6, 28, 0)
    np.testing.assert_array_equal(images[:4], glyphs.class_images("ж", 4, 28, 0))
    assert (images != glyphs.class_images("ж", 6, 28, 1)).any((1, 2)).all()
    large = glyphs.class_images("ж", 6, 56, 0).reshape(6, 28, 2, 28, 2).mean((2, 4))
    assert np.abs(large - images).mean() < 4


def test_uniform_numbers_are_those_of_the_generators_raw_stream():
    raw = np.random.Philox(key=np.array([3, 4], np.uint64)).random_raw(1000)
    expected = np.array([(int(x) >> 11) / 2**52 - 1 for x in raw])
    np.testing.assert_array_equal(deformation.uniforms(3, 4, (1000,)), expected)
    assert -1 <= expected.min() < -0.98 and 0.98 < expected.max() < 1


SMALL = [glyphs.Character(split, split, c) for split, c in zip(SPLITS, "Aжש")]


@pytest.fixture
def few(monkeypatch):
    """One class a split."""
    monkeypatch.setattr(glyphs, "read_characters", lambda: SMALL)


def test_glyphs_are_made_once_and_again_where_the_file_is_damaged(few, tmp_path, monkeypatch):
    config = DataConfig(cache=str(tmp_path / "new" / "cache"), images_per_class=3)
    first = source.load(config)
    (path,) = (tmp_path / "new" / "cache").iterdir()
    content = path.read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(glyphs, "make", lambda config: pytest.fail("made again"))
        second = source.load(config)
    for one, two in zip(first, second):
        np.testing.assert_array_equal(one.images, two.images)
        assert one.names == two.names

    for damaged in (content[: len(content) // 2], b"", content[:300] + b"x" + content[301:]):
        path.write_bytes(damaged)
        third = source.load(config)
        np.testing.assert_array_equal(first.test.images, third.test.images)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]

    source.load(DataConfig(cache=config.cache, images_per_class=4))
    assert len(list(path.parent.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_refused_before_images_are_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/glyphs-.* cannot be written .*another folder") as e:
        source.load(DataConfig(cache=str(tmp_path / "file")))
    assert "\n" not in str(e.value)


def test_a_full_disk_leaves_nothing_in_the_cache(few, small_disk, monkeypatch):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    folder = small_disk / "cache"
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\)"):
        source.load(DataConfig(cache=str(folder), images_per_class=500))
    gc.collect()
    assert list(folder.iterdir()) == [] and ignored == []


def test_the_users_caches_are_where_the_system_has_them(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder("") == tmp_path / "bmg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder("") == tmp_path / ".cache" / "bmg"
    assert cache.folder("here") == pathlib.Path("here")


def test_fonts_that_are_missing_or_damaged_are_refused(tmp_path):
    (tmp_path / "empty.ttf").touch()
    (tmp_path / "half.ttf").write_bytes((FONTS / "cmb10.ttf").read_bytes()[:100])
    (tmp_path / "text.ttf").write_text("no font\n" * 100)
    for name in ("none.ttf", "empty.ttf", "half.ttf", "text.ttf"):
        with pytest.raises(ValueError, match=f"{name} cannot be read .* install") as caught:
            outlines.Face(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_character_without_a_font_is_refused():
    with pytest.raises(ValueError, match=r"no font .* U\+4E2D; install"):
        glyphs.class_images("中", 2, 28, 0)


def test_settings_that_do_not_fit_are_refused():
    for fields, words in [
        ({"source": "folder"}, "path is empty with the source folder; give"),
        ({"validation_share": 0.5, "test_share": 0.5}, "test_share is 0.5 beside"),
        ({"images_per_class": 1}, "images_per_class is 1; allowed are integers from 2"),
        ({"source": "omniglot"}, "source is 'omniglot'; allowed are glyphs"),
    ]:
        with pytest.raises(ValueError, match=words):
            DataConfig(**fields)
    sizes = [DataConfig(source=x, path="p").pixels for x in ("glyphs", "mini-imagenet", "folder")]
    assert sizes == [28, 84, 84]
