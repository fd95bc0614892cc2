"""Images of the user's: MiniImagenet in both formats, and folders; what is refused."""

from __future__ import annotations

import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from bmg.experiments.few_shot.data import mini_imagenet, pictures, source
from bmg.experiments.few_shot.data.config import DataConfig
from bmg.experiments.few_shot.data.sets import SPLITS, check_tasks

CLASSES = {"train": ["n01", "n02", "n03"], "val": ["n04", "n05"], "test": ["n06", "n07"]}
COUNT = 4  # images of a class


def load(path: pathlib.Path, kind: str, **fields):
    """The images, and what was reported."""
    lines: list[str] = []
    config = DataConfig(
        source=kind, path=str(path), cache=str(path.parent / "cache"), min_images_per_class=2,
        **fields,
    )  # fmt: skip
    return source.load(config, lines.append), lines


def refused(path: pathlib.Path, kind: str, **fields) -> str:
    with pytest.raises(ValueError) as caught:
        load(path, kind, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def content_of(split: str) -> dict:
    names = CLASSES[split]
    images = pixels(len(names) * COUNT, 84, 84, 3, seed=len(split))
    members = {name: list(range(COUNT * i, COUNT * (i + 1))) for i, name in enumerate(names)}
    return {"image_data": images, "class_dict": members}


def write_pickles(path: pathlib.Path, protocol: int = 4, middle: str = "val", **changed) -> dict:
    """What is written for each split."""
    path.mkdir(exist_ok=True)
    written = {}
    for split in CLASSES:
        written[split] = content_of(split)
        name = middle if split == "val" else split
        value = {**written[split], **(changed if split == "test" else {})}
        (path / f"mini-imagenet-cache-{name}.pkl").write_bytes(pickle.dumps(value, protocol))
    return written


@pytest.mark.parametrize("protocol,middle", [(2, "val"), (4, "validation"), (5, "val")])
def test_pickles_come_back_as_they_were_written(tmp_path, protocol, middle):
    written = write_pickles(tmp_path / "mini", protocol, middle)
    dataset, lines = load(tmp_path / "mini", "mini-imagenet")
    for split, (images, names) in zip(CLASSES, dataset):
        assert list(names) == CLASSES[split]
        expected = written[split]["image_data"].reshape(len(names), COUNT, 84, 84, 3)
        np.testing.assert_array_equal(images, expected)
    check_tasks([each.images for each in dataset], ways=2, shots=1, queries=3)
    assert "are 3 / 2 / 2 with 4 / 4 / 4 images each; MiniImagenet has 64 / 16 / 20" in lines[-1]


def test_classes_of_other_sizes_keep_equal_numbers_of_images(tmp_path):
    members = {"a": [7, 0, 5], b"b": np.array([1, 2, 3, 4])}
    written = write_pickles(tmp_path / "mini", class_dict=members)["test"]["image_data"]
    dataset, lines = load(tmp_path / "mini", "mini-imagenet")
    assert dataset.test.names == ("a", "b") and dataset.test.images.shape[:2] == (2, 3)
    for images, indices in zip(dataset.test.images, members.values()):
        found = [int(np.flatnonzero((written == x).all((1, 2, 3)))[0]) for x in images]
        assert len(set(found)) == 3 and set(found) <= set(map(int, indices))
    assert any("3 to 4 images; 3 of each" in line for line in lines)
    again, _ = load(tmp_path / "mini", "mini-imagenet")
    np.testing.assert_array_equal(again.test.images, dataset.test.images)


@pytest.mark.parametrize(
    "changed,words",
    [
        ({"image_data": pixels(8, 32, 32, 3)}, "test.pkl holds images of uint8 [32, 32, 3]; all"),
        ({"image_data": np.zeros((8, 84, 84, 3))}, "test.pkl holds images of float64"),
        ({"image_data": None}, "test.pkl has no image_data and class_dict"),
        ({"class_dict": {}}, "test.pkl has no image_data and class_dict"),
        ({"class_dict": {"a": [0, 8]}}, "test.pkl has a class 'a' whose images are not in it"),
        ({"class_dict": {"a": ["0"]}}, "test.pkl has a class 'a' whose images are not in it"),
        ({"class_dict": {"a": [0, 1], "b": [1, 2]}}, "an image that is in its class_dict twice"),
        ({"class_dict": {"n02": [0, 1]}}, "the class 'n02' is in the splits train and test"),
    ],
)
def test_pickles_of_another_content_are_refused(tmp_path, changed, words):
    write_pickles(tmp_path / "mini", **changed)
    assert words in refused(tmp_path / "mini", "mini-imagenet")


class Program:
    """A pickle that writes a file where it is read."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self._path,)


def test_pickles_that_run_programs_are_refused(tmp_path):
    write_pickles(tmp_path / "mini", image_data=Program(tmp_path / "touched"))
    assert "holds more than arrays" in refused(tmp_path / "mini", "mini-imagenet")
    assert not (tmp_path / "touched").exists()


def test_damaged_pickles_are_refused(tmp_path):
    write_pickles(tmp_path / "mini")
    path = tmp_path / "mini" / "mini-imagenet-cache-test.pkl"
    content = path.read_bytes()
    for damaged in (content[:1000], b"", b"no pickle", b"\x80\x04.", content[:-9] + b"\0" * 9):
        path.write_bytes(damaged)
        assert f"{path} " in refused(tmp_path / "mini", "mini-imagenet")


def test_arrays_of_all_protocols_are_read(tmp_path):
    value = {"a": [np.arange(3.0), np.float32(2), np.array(["x"])], "b": (1, "two", b"3", None)}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "file").write_bytes(pickle.dumps(value, protocol))
        found = mini_imagenet.read_pickle(tmp_path / "file")
        np.testing.assert_array_equal(found["a"][0], [0, 1, 2])
        assert found["a"][1] == 2 and found["a"][2] == "x" and found["b"] == value["b"]


def test_other_sizes_than_those_of_the_pickles_are_refused(tmp_path):
    write_pickles(tmp_path / "mini")
    assert "image_size is 28, but" in refused(tmp_path / "mini", "mini-imagenet", image_size=28)


def test_a_folder_without_miniimagenet_is_told_what_is_expected(tmp_path):
    assert "nothing of it" in refused(tmp_path / "none", "mini-imagenet")
    write_pickles(tmp_path / "mini")
    (tmp_path / "mini" / "mini-imagenet-cache-test.pkl").unlink()
    text = refused(tmp_path / "mini", "mini-imagenet")
    assert "only mini-imagenet-cache-train.pkl, mini-imagenet-cache-val.pkl" in text
    assert "train.csv, val.csv, test.csv" in text


def write_tables(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The picture behind each file name, as it was before JPEG."""
    (path / "images").mkdir(parents=True)
    written = {}
    for split, names in CLASSES.items():
        rows = ["filename,label"]
        for i in range(COUNT):  # the classes take turns
            for name in names:
                file = f"{name}{i:08d}.jpg"
                written[file] = np.kron(pixels(5, 7, 3, seed=len(written)), np.ones((20, 20, 1)))
                Image.fromarray(written[file].astype(np.uint8)).save(
                    path / "images" / file, quality=95
                )
                rows.append(f"{file},{name}")
        (path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return written


def test_tables_are_read_and_resized_and_kept(tmp_path):
    path = tmp_path / "mini"
    write_tables(path)
    dataset, lines = load(path, "mini-imagenet")
    assert any("28 are read once" in line for line in lines)
    for split, (images, names) in zip(CLASSES, dataset):
        assert list(names) == CLASSES[split] and images.shape[1:] == (COUNT, 84, 84, 3)
        with Image.open(path / "images" / f"{names[1]}00000002.jpg") as picture:
            resized = picture.resize((84, 84), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(images[1, 2], np.asarray(resized))

    again, lines = load(path, "mini-imagenet")
    assert not any("are read once" in line for line in lines)
    np.testing.assert_array_equal(again.train.images, dataset.train.images)
    Image.new("RGB", (84, 84), (255, 0, 0)).save(path / "images" / "n0600000000.jpg")
    changed, lines = load(path, "mini-imagenet")
    assert any("are read once" in line for line in lines)
    assert changed.test.images[0, 0, ..., 0].min() > 250


def test_tables_that_are_wrong_are_refused(tmp_path):
    path = tmp_path / "mini"
    write_tables(path)
    (path / "images" / "n0600000001.jpg").write_bytes(b"\xff\xd8\xff no JPEG")
    assert "n0600000001.jpg cannot be read (damaged" in refused(path, "mini-imagenet")
    (path / "images" / "n0600000001.jpg").unlink()
    assert "test.csv lists n0600000001.jpg, but" in refused(path, "mini-imagenet")
    for text, words in [
        ("a,b\n1,2\n", "has no columns filename and label"),
        ("filename,label\n", "lists no image"),
        ("filename,label\nn0600000000.jpg,\n", "lacks a filename or a label in line 2"),
        ("filename,label\nn0100000000.jpg,n01\n", "the class 'n01' is in the splits train and"),
    ]:
        (path / "test.csv").write_text(text)
        assert words in refused(path, "mini-imagenet")
    assert not list((tmp_path / "cache").glob("*"))


def write_classes(path: pathlib.Path, counts: dict[str, int], color: bool = False) -> None:
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for i in range(count):
            shape = (10 + i, 12, 3) if color else (10, 12 + i)
            Image.fromarray(pixels(*shape, seed=i)).save(path / name / f"{i}.png")
    (path / ".hidden").mkdir(exist_ok=True)
    (path / "notes.txt").touch()


def test_class_folders_are_shared_out(tmp_path):
    path = tmp_path / "data"
    write_classes(path, {f"class {i}": 3 for i in range(10)})
    dataset, lines = load(path, "folder", image_size=8, validation_share=0.1, test_share=0.3)
    assert [each.images.shape for each in dataset] == [(n, 3, 8, 8, 1) for n in (6, 1, 3)]
    assert sorted(sum((list(each.names) for each in dataset), [])) == sorted(
        f"class {i}" for i in range(10)
    )
    assert any("10 classes, shared out with the seed 0" in x and "6 / 1 / 3" in x for x in lines)
    with Image.open(path / dataset.test.names[0] / "1.png") as picture:
        resized = picture.resize((8, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(dataset.test.images[0, 1, ..., 0], np.asarray(resized))
    same, _ = load(path, "folder", image_size=8, validation_share=0.1, test_share=0.3)
    assert same.test.names == dataset.test.names
    others = {load(path, "folder", image_size=8, seed=i)[0].test.names for i in range(1, 6)}
    assert len(others) > 1


def test_folders_of_splits_stay_as_they_are(tmp_path):
    for split, names in zip(SPLITS, CLASSES.values()):
        write_classes(tmp_path / "data" / split, {x: 3 + i for i, x in enumerate(names)}, True)
    dataset, lines = load(tmp_path / "data", "folder", image_size=8)
    for names, each in zip(CLASSES.values(), dataset):
        assert list(each.names) == names and each.images.shape == (len(names), 3, 8, 8, 3)
    assert any("train: classes have 3 to 5 images; 3 of each" in line for line in lines)


def test_one_picture_with_colours_gives_all_three_channels(tmp_path):
    write_classes(tmp_path / "data", {f"{i}": 2 for i in range(5)})
    Image.new("RGB", (9, 9), (200, 10, 10)).save(tmp_path / "data" / "0" / "0.png")
    dataset, _ = load(tmp_path / "data", "folder", image_size=8)
    assert all(each.images.shape[-1] == 3 for each in dataset)


def test_pictures_of_sixteen_bits_are_scaled(tmp_path):
    write_classes(tmp_path / "data", {f"{i}": 2 for i in range(3)})
    for path in (tmp_path / "data").glob("*/*.png"):
        Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)).save(path)
    dataset, _ = load(tmp_path / "data", "folder", image_size=8)
    assert all((each.images == 128).all() and each.images.shape[-1] == 1 for each in dataset)


@pytest.mark.parametrize(
    "picture, expected",
    [
        (Image.fromarray(np.full((8, 8), 128 * 257, ">u2")), 128),
        (Image.fromarray(np.full((8, 8), 0.5, np.float32)), 127),
        (Image.fromarray(np.full((8, 8), 200, np.int32)), 200),
        (Image.fromarray(np.full((8, 8), 128 * 257, np.int32)), 128),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 255),
        (Image.new("LA", (8, 8), (0, 255)), 0),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_and_transparent_pictures_keep_what_they_show(tmp_path, picture, expected, channels):
    path = tmp_path / "one.tif"
    picture.save(path)
    assert np.all(pictures.read(path, 8, channels) == expected)


def test_a_file_that_is_there_twice_is_refused(tmp_path):
    """By a link in another class: it would be learned, and asked for."""
    path = tmp_path / "data"
    write_classes(path, {f"{i}": 2 for i in range(5)})
    (path / "3" / "0.png").unlink()
    (path / "3" / "0.png").symlink_to(path / "1" / "0.png")
    assert "are one file; remove one" in refused(path, "folder")


def test_classes_of_the_same_images_are_named(tmp_path):
    """In whatever splits they are."""
    path = tmp_path / "data"
    for i in range(6):
        (path / f"{i}").mkdir(parents=True)
        for j in range(3):
            Image.fromarray(pixels(8, 8, seed=3 * i + j)).save(path / f"{i}" / f"{j}.png")
    _, lines = load(path, "folder", image_size=8)
    assert not any(line.startswith("images:") for line in lines)
    shutil.copytree(path / "2", path / "copy")
    _, lines = load(path, "folder", image_size=8)
    (line,) = [line for line in lines if line.startswith("images:")]
    assert "have the same:" in line and {"'2'", "'copy'"} < set(line.split())
    for name in ("4", "5"):
        shutil.copytree(path / "2", path / name, dirs_exist_ok=True)
    _, lines = load(path, "folder", image_size=8)
    assert "the same, and 2 more those of another class:" in lines[-1]


def test_a_folder_or_a_picture_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    """As the system has it; whoever runs the tests may read everything."""
    path = tmp_path / "data"
    write_classes(path, {f"{i}": 3 for i in range(5)})
    denied, scan = path / "3" / "below", os.scandir
    denied.mkdir()

    def scandir(place):
        if str(place) == str(denied):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        with pytest.raises(PermissionError, match="3/below"):
            load(path, "folder")

    def open_picture(place):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(Image, "open", open_picture)
    assert "0/0.png cannot be read (Permission denied)" in refused(path, "folder")


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    assert "is no folder; give one" in refused(tmp_path / "none", "folder")
    path = tmp_path / "data"
    write_classes(path, {"a": 3, "b": 3})
    assert "has 2 folders; allowed are 3 or more" in refused(path, "folder")
    write_classes(path, {"c": 1})
    assert f"class {path / 'c'} has 1 images; allowed are 2 or more" in refused(path, "folder")
    write_classes(path, {"d": 3, "e": 3})
    (path / "c" / "more.png").write_bytes((path / "a" / "0.png").read_bytes()[:40])
    assert "more.png cannot be read (damaged" in refused(path, "folder")
    (path / "c" / "more.png").unlink()
    Image.new("L", (5, 5)).save(path / "c" / "more.png")
    assert "leaves none of its 5" in refused(path, "folder", validation_share=0.6, test_share=0.39)
    write_classes(path, {"train": 2})
    assert "has train but lacks validation, test" in refused(path, "folder")

    for split in SPLITS:
        write_classes(tmp_path / "splits" / split, {"same": 2})
    text = refused(tmp_path / "splits", "folder")
    assert "the class 'same' is in the splits train and validation" in text
