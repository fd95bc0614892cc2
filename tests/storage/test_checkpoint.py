"""Checkpoints: what is written comes back bit for bit, what is broken is refused in one line."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.agents.config import NetworkConfig
from bmg.learner.update import first
from bmg.storage import checkpoint
from bmg.storage.checkpoint import CheckpointError
from tests.learner import fakes

HEADER = {"updates": 3, "returns": [1.0, -2.5], "evaluation": None, "game": "catch"}


@pytest.fixture(scope="module")
def state(agent):
    """A real state after a few updates, on the host."""
    state = agent.replicate(agent.init(jax.random.PRNGKey(0)))
    for seed in range(3):
        state, _ = agent.update(state, agent.shard(fakes.update_batch(seed)))
    return first(state)


@pytest.fixture(scope="module")
def template(agent):
    """Shapes alone, as `bmg evaluate` has them."""
    return jax.eval_shape(agent.init, jax.random.PRNGKey(0))


@pytest.fixture
def saved(tmp_path, state) -> pathlib.Path:
    return checkpoint.save(tmp_path / "checkpoints", 3, state, HEADER, keep=2)


def refused(path: pathlib.Path, template) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path, template)
    text = fakes.one_line(caught.value)
    assert str(path) in text
    return text


def test_a_state_comes_back_bit_for_bit(saved, state, template):
    assert saved.name == "checkpoint_0000000003.npz"
    found = checkpoint.load(saved, template)
    fakes.assert_same(found.state, state)
    assert {k: found.header[k] for k in HEADER} == HEADER
    fakes.assert_same(checkpoint.load(saved, state).state, state)  # arrays are a template as well
    kinds = {np.asarray(x).dtype.kind for x in jax.tree.leaves(state)}
    assert kinds >= {"f", "i", "u"}, "parameters, counters and the random key were to be compared"
    assert list(saved.parent.iterdir()) == [saved]


def test_special_values_come_back(tmp_path):
    state = {
        "half": np.array([1.5, -0.0, np.inf], np.float16),
        "nan": np.array([np.nan, np.float32(1e-45)], np.float32),
        "big": np.array(2**63, np.uint64),
        "flag": np.array([True, False]),
        "none": np.zeros((0, 3), np.int8),
    }
    path = checkpoint.save(tmp_path, 1, state, {}, keep=1)
    fakes.assert_same(checkpoint.load(path, state).state, state)


def test_continuing_from_a_checkpoint_is_continuing(agent, tmp_path, template):
    """N updates, a checkpoint, N more updates: bit-equal to 2N updates in a row."""
    batches = [fakes.update_batch(seed) for seed in range(6)]

    def learn(state, batches):
        state = agent.replicate(state)
        for batch in batches:
            state, _ = agent.update(state, agent.shard(batch))
        return first(state)

    start = agent.init(jax.random.PRNGKey(4))
    straight = learn(start, batches)
    path = checkpoint.save(tmp_path, 3, learn(start, batches[:3]), {}, keep=1)
    fakes.assert_same(learn(checkpoint.load(path, template).state, batches[3:]), straight)


def test_truncated_files_are_refused(saved, template):
    content = saved.read_bytes()
    size = len(content)
    lengths = {0, 1, 3, 4, 20, 100, 1000, size - 1, size - 2, size - 21, size - 22, size - 100}
    for length in sorted(lengths | set(range(0, size, size // 40))):
        saved.write_bytes(content[:length])
        assert "truncated" in refused(saved, template), length
    saved.write_bytes(content)
    checkpoint.load(saved, template)


def test_damaged_files_are_refused(saved, state, template):
    """A file of the right length whose middle was lost, as after a crash of the machine."""
    content = saved.read_bytes()
    size = len(content)
    count = 0
    for start in range(0, size, size // 25):
        end = min(start + size // 25, size)
        saved.write_bytes(content[:start] + bytes(end - start) + content[end:])
        try:
            found = checkpoint.load(saved, template)
        except CheckpointError as error:
            assert str(saved) in fakes.one_line(error)
            count += 1
        else:  # where nothing but padding was lost
            fakes.assert_same(found.state, state)
    assert count >= 20


@pytest.mark.parametrize(
    "content",
    [
        lambda file: file.write(b"not a checkpoint at all\n" * 50),
        lambda file: np.save(file, np.arange(10.0)),
        lambda file: np.savez(file, weights=np.arange(10.0)),
        lambda file: np.savez(file, header=np.arange(10.0)),
        lambda file: np.savez(file, header=np.frombuffer(b"[1, 2]", np.uint8)),
        lambda file: np.savez(file, header=np.frombuffer(b'{"format": 99}', np.uint8)),
        lambda file: np.savez(file, header=np.frombuffer(b"{}", np.uint8)),
    ],
    ids=["text", "npy", "npz", "other_header", "list_header", "other_format", "empty_header"],
)
def test_foreign_files_are_refused(tmp_path, template, content):
    path = tmp_path / "checkpoint_0000000001.npz"
    with open(path, "wb") as file:
        content(file)
    refused(path, template)


class Evil:
    """Unpickling it leaves a trace."""

    trace: pathlib.Path

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_nothing_is_unpickled(saved, state, template, tmp_path):
    Evil.trace = tmp_path / "unpickled"
    with np.load(saved) as file:
        arrays = dict(file)
    name = next(name for name in arrays if name != "header")
    evil = np.empty(arrays[name].shape, object)
    evil[...] = Evil()
    np.savez(saved, **{**arrays, name: evil})
    refused(saved, template)
    assert not Evil.trace.exists()
    with np.load(saved, allow_pickle=True) as file:  # the trap works
        _ = file[name]
    assert Evil.trace.exists()


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(
            fakes.AGENT, network=NetworkConfig("mlp", features=9, head_hidden=(6,))
        ),
        dataclasses.replace(fakes.AGENT, network=NetworkConfig("mlp", features=8, head_hidden=())),
        dataclasses.replace(fakes.AGENT, algorithm="impala"),
        dataclasses.replace(
            fakes.AGENT, meta=dataclasses.replace(fakes.AGENT.meta, auxiliary_tasks=1)
        ),
    ],
    ids=["features", "heads", "algorithm", "tasks"],
)
def test_another_agents_checkpoint_is_refused(saved, other):
    template = jax.eval_shape(fakes.make_agent(other).init, jax.random.PRNGKey(0))
    assert "another agent" in refused(saved, template)
    with pytest.raises(CheckpointError, match="another agent"):
        checkpoint.load_newest(saved.parent, template)


def test_another_type_is_another_agent(saved, template):
    other = template._replace(updates=jax.ShapeDtypeStruct((), np.float32))
    assert "updates" in refused(saved, other)


def test_the_newest_that_can_be_read_is_taken(tmp_path, state, template):
    directory = tmp_path / "checkpoints"
    paths = []
    for updates in (5, 20, 100, 1000):
        numbered = state._replace(updates=np.int32(updates))
        paths.append(checkpoint.save(directory, updates, numbered, {"updates": updates}, keep=9))
    found, problems = checkpoint.load_newest(directory, template)
    assert found.header["updates"] == 1000 and problems == []

    paths[3].write_bytes(paths[3].read_bytes()[:-100])
    paths[2].write_bytes(b"")
    found, problems = checkpoint.load_newest(directory, template)
    assert found.header["updates"] == 20 and int(found.state.updates) == 20
    assert len(problems) == 2 and not any("\n" in problem for problem in problems)
    assert str(paths[3]) in problems[0] and str(paths[2]) in problems[1]

    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_newest(directory, template)
    assert str(paths[3]) in fakes.one_line(caught.value)


def test_no_checkpoint_at_all(tmp_path, template):
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load_newest(directory, template)
        assert str(directory) in fakes.one_line(caught.value)


def test_what_is_no_checkpoint(saved, state, template):
    """Directories, links to nothing or to themselves, pipes and other names are passed over; what
    cannot be read is a problem."""
    folder = saved.parent
    name = "checkpoint_00000000{}.npz".format
    (folder / name(10)).mkdir()
    (folder / name(11)).symlink_to(folder / "nothing")
    (folder / name(12)).symlink_to(folder / name(12))
    os.mkfifo(folder / name(13))
    for other in ("_0000000009.tmp", "_9.npz", "_00000000014.npz", "_-000000015.npz", "_best.npz",
                  "_0000000016.npz.npz", "_0000000017\n.npz", "_٠٠٠٠٠٠٠٠١٨.npz"):  # fmt: skip
        (folder / f"checkpoint{other}").write_bytes(b"half")
    assert checkpoint.list_checkpoints(folder) == [saved]
    found, problems = checkpoint.load_newest(folder, template)
    fakes.assert_same(found.state, state)
    assert problems == []

    (folder / name(11)).unlink()
    (folder / name(11)).symlink_to(saved)  # a file all the same
    assert checkpoint.load_newest(folder, template)[0].number == 11


def test_a_file_that_cannot_be_read_gives_way_to_another(saved, state, template, monkeypatch):
    newest = checkpoint.save(saved.parent, 4, state, HEADER, keep=2)

    def refusing(path, *args):
        if path == newest:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open(path, *args)

    monkeypatch.setattr(checkpoint, "open", refusing, raising=False)
    found, (problem,) = checkpoint.load_newest(saved.parent, template)
    assert found.number == 3 and problem == f"{newest} cannot be opened: Permission denied."


def test_whatever_has_a_checkpoints_name_later_ones_are_written(tmp_path):
    """Directories (one of them full) and links stand where files are to be written, removed or put
    aside."""
    template = {"x": np.zeros(2)}
    folders = [tmp_path / f"checkpoint_{n:010d}.npz" for n in (1, 4, 9)]
    for folder in folders:
        folder.mkdir()
        (folder / "kept").touch()
    (tmp_path / "checkpoint_0000000005.npz").symlink_to(tmp_path / "nothing")
    (tmp_path / "checkpoint_0000000006.npz").symlink_to(folders[0])
    (tmp_path / "checkpoint_0000000008.npz").touch()
    (tmp_path / "checkpoint_0000000008.npz.abandoned").mkdir()
    for updates in (2, 3, 4, 5, 6, 7):
        path = checkpoint.save(tmp_path, updates, {"x": np.full(2, updates)}, {}, keep=2)
        assert path in checkpoint.list_checkpoints(tmp_path)
        found, problems = checkpoint.load_newest(tmp_path, {"x": np.zeros(2, int)})
        assert found.number == updates and (found.state["x"] == updates).all() and not problems
    assert [path.name[-5:-4] for path in checkpoint.list_checkpoints(tmp_path)] == ["6", "7"]
    assert len(list(tmp_path.rglob("kept"))) == 3, "nothing that is not ours is removed"
    assert (tmp_path / "checkpoint_0000000008.npz.abandoned.1").is_file()
    with pytest.raises(CheckpointError, match="another agent"):
        checkpoint.load_newest(tmp_path, template)


@pytest.mark.parametrize("updates, keep", [(4, 0), (4, -1), (-1, 1)])
def test_a_save_out_of_range_changes_nothing(saved, state, updates, keep):
    with pytest.raises(ValueError, match=f"keep {keep}, updates {updates}"):
        checkpoint.save(saved.parent, updates, state, HEADER, keep=keep)
    with pytest.raises(ValueError, match="header of"):
        checkpoint.save(saved.parent, 4, state, {"text": "x" * 2**20}, keep=1)
    assert list(saved.parent.iterdir()) == [saved]


def test_what_a_check_refuses_gives_way_to_the_one_before(tmp_path, state, template):
    """Numbers that are not finite can be saved and loaded; whoever cannot use them refuses them."""
    finite = lambda found: checkpoint.check_finite(found.state.agent)  # noqa: E731
    checkpoint.save(tmp_path, 3, state, HEADER, keep=9)
    leaves, treedef = jax.tree.flatten(state)
    floats = [i for i, x in enumerate(leaves) if x.dtype.kind == "f" and x.size]
    for value in (np.nan, np.inf, -np.inf):
        wrong = [x.copy() for x in leaves]
        wrong[floats[0]].flat[-1] = value
        newest = checkpoint.save(tmp_path, 4, jax.tree.unflatten(treedef, wrong), HEADER, keep=9)
        assert checkpoint.load_newest(tmp_path, template)[0].number == 4
        found, (problem,) = checkpoint.load_newest(tmp_path, template, check=finite)
        fakes.assert_same(found.state, state)
        assert str(newest) in problem and "not finite" in problem and "\n" not in problem


def test_the_newest_are_kept(tmp_path):
    for updates in (2, 10, 9_999_999, 10_000_000, 123_456_789):
        checkpoint.save(tmp_path, updates, {"x": np.zeros(2)}, {}, keep=3)
    names = [path.name for path in checkpoint.list_checkpoints(tmp_path)]
    assert names == [f"checkpoint_{n:010d}.npz" for n in (9_999_999, 10_000_000, 123_456_789)]


@pytest.mark.parametrize("keep", [1, 2])
def test_what_was_just_written_is_kept(tmp_path, keep):
    """A run that fell back to an older checkpoint counts up from there, below the broken ones."""
    checkpoint.save(tmp_path, 10, {"x": np.zeros(2)}, {}, keep=9)
    for broken in (30, 40):
        checkpoint.save(tmp_path, broken, {"x": np.zeros(2)}, {}, keep=9).write_bytes(b"broken")
    path = checkpoint.save(tmp_path, 20, {"x": np.ones(2)}, {}, keep=keep)
    assert path.exists()
    found, _ = checkpoint.load_newest(tmp_path, {"x": np.zeros(2)})
    np.testing.assert_array_equal(found.state["x"], [1, 1])


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(file, **arrays):
    file.write(b"PK\x03\x04 the beginning")
    full()


@pytest.mark.parametrize(
    ("target", "replacement"),
    [("numpy.savez", half_written), ("os.fsync", full), ("os.replace", full)],
)
def test_a_full_disk_leaves_what_was_there(
    saved, state, template, monkeypatch, target, replacement
):
    before = saved.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(target, replacement)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(saved.parent, 4, state, HEADER, keep=1)
    assert list(saved.parent.iterdir()) == [saved]
    assert saved.read_bytes() == before
    # With room again, the next one is written.
    checkpoint.save(saved.parent, 5, state, HEADER, keep=1)
    found, problems = checkpoint.load_newest(saved.parent, template)
    fakes.assert_same(found.state, state)
    assert problems == []


def test_a_disk_that_is_really_full(small_disk):
    template = {"x": np.zeros(75_000, np.float32)}  # 300 kB
    directory = small_disk / "checkpoints"
    for updates in (1, 2):
        checkpoint.save(directory, updates, {"x": template["x"] + updates}, {}, keep=9)
    (small_disk / "filler").write_bytes(bytes(200_000))
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(directory, 3, template, {}, keep=9)
    assert [p.name for p in sorted(directory.iterdir())] == [
        "checkpoint_0000000001.npz",
        "checkpoint_0000000002.npz",
    ]
    found, problems = checkpoint.load_newest(directory, template)
    assert problems == [] and (found.state["x"] == 2).all()


def test_the_header_is_json_of_this_format(saved):
    with np.load(saved) as file:
        header = json.loads(bytes(file["header"]))
    assert header == {"format": checkpoint.FORMAT, **HEADER}


def test_a_checkpoint_belongs_to_its_run(tmp_path, state, template):
    """The same arrays, but of another game: refused, and the one before it is used."""
    ours, theirs = {"game": "pong", "seed": 1}, {"game": "breakout", "seed": 1}
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, 3, state, {**HEADER, "identity": ours}, keep=5)
    foreign = checkpoint.save(folder, 4, state, {**HEADER, "identity": theirs}, keep=5)
    with pytest.raises(CheckpointError, match="game was 'breakout', not 'pong'") as caught:
        checkpoint.load(foreign, template, ours)
    assert str(foreign) in fakes.one_line(caught.value)
    found, problems = checkpoint.load_newest(folder, template, ours)
    assert found.header["identity"] == ours and len(problems) == 1
    assert checkpoint.load(foreign, template, theirs).header["identity"] == theirs
    assert checkpoint.load(foreign, template).header["identity"] == theirs


def test_arrays_of_jaxs_own_types_come_back(tmp_path):
    """numpy's format has no bfloat16."""
    state = {"half": jnp.arange(5, dtype=jnp.bfloat16) / 3, "whole": np.float32([1.5, np.pi])}
    path = checkpoint.save(tmp_path, 1, state, {}, keep=1)
    found = checkpoint.load(path, jax.eval_shape(lambda: state)).state
    fakes.assert_same(found, jax.tree.map(np.asarray, state))
    with pytest.raises(CheckpointError, match="half"):
        checkpoint.load(path, {**state, "half": np.zeros(5, np.float32)})
