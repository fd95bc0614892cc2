"""What is left of runs of lifetimes, whoever has written over it."""

from __future__ import annotations

import json
import re
import types

import pytest

from bmg.experiments import runner
from bmg.experiments.lpg.config import LpgConfig
from bmg.experiments.records import read_csv
from bmg.launch import lifetimes
from bmg.launch.lifetimes import _is_complete
from bmg.storage.checkpoint import list_checkpoints
from tests.launch.commands import files

pytestmark = pytest.mark.usefixtures("quick_compilation", "kept_programs")

SMALL = "--actor-critic.hidden 8 --actor-critic.meta-hidden 4"


@pytest.mark.parametrize(
    ("content", "complete"),
    [
        (b'{"complete": true, "steps": 100}', True),
        (b'{"complete": true, "steps": 200}', False),
        (b'{"complete": false, "steps": 100}', False),
        (b'{"complete": "no", "steps": 100}', False),
        *((content, False) for content in (
            b"", b"[]", b'["complete", "steps"]', b"null", b"5", b'"complete"', b"{}", b"\xff\xfe",
            b'{"complete": true}', b"[" * 100_000,
        )),
    ],
)  # fmt: skip
def test_only_results_of_so_many_steps_are_complete(tmp_path, content, complete):
    assert _is_complete(tmp_path, 100) is False
    (tmp_path / "results.json").write_bytes(content)
    assert _is_complete(tmp_path, 100) is complete


def test_results_are_there_with_each_checkpoint(command, monkeypatch, tmp_path):
    """A process that is killed leaves what its newest checkpoint holds."""
    run_chunk, found = runner.Runner._run_chunk, []

    def look(self):
        if self.records.steps:
            result = json.loads((tmp_path / "run/results.json").read_text())
            steps, columns = read_csv(tmp_path / "run/results.csv")
            (newest,) = list_checkpoints(tmp_path / "run/checkpoints")[-1:]
            assert int(re.findall(r"\d+", newest.name)[0]) == self.records.steps == steps[-1]
            found.append((result["steps"], result["complete"], len(columns["reward"])))
        run_chunk(self)

    monkeypatch.setattr(runner.Runner, "_run_chunk", look)
    options = "two-colors --steps 6000 --seeds 2 --checkpoint-interval 0 --workdir run"
    assert command(*options.split(), *SMALL.split())[0] == 0
    assert found == [(1_904, False, 2), (3_808, False, 2), (5_712, False, 2)]


def test_a_full_disk_ends_no_run(command, monkeypatch, tmp_path):
    """Its results are printed, and what is missing is named; with room again it goes on."""
    from bmg.storage import files as files_lib

    options = f"two-colors --steps 4000 --seeds 1 --checkpoint-interval 0 --workdir run {SMALL}"
    sync, full = files_lib.os.fsync, []

    def fsync(descriptor):
        if full and any(name.endswith(("npz", "csv")) for name in opened()):
            raise OSError(28, "No space left on device")
        sync(descriptor)

    def opened():
        return [path.name.rpartition(".tmp")[0].rpartition(".")[0]
                for path in (tmp_path / "run").rglob("*.tmp")]  # fmt: skip

    monkeypatch.setattr(files_lib.os, "fsync", fsync)
    full.append(True)
    code, out, err = command(*options.split())
    assert code == 1
    result = json.loads("{" + out.partition("{")[2])
    assert result["complete"] is True and result["steps"] == 4_000
    assert "(No space left on device) cannot be written; the run goes on" in out
    (line,) = err.splitlines()
    assert (
        re.search(r"the checkpoint of \d,\d{3} environment steps", line) and "results.csv" in line
    )
    assert not any(name.endswith(("npz", "csv")) for name in files(tmp_path))
    full.clear()
    code, out, _ = command("two-colors", "--workdir", "run", "--resume")
    assert code == 0 and "no checkpoint in run: the run begins at 0 environment steps again" in out
    assert json.loads((tmp_path / "run/results.json").read_text())["complete"] is True


@pytest.mark.parametrize("arguments", [
    "few-shot --filters 200000", "two-colors --actor-critic.hidden 2000000 2000000",
    "lpg --rule.units 1000000", "lpg --environments 20000000 --lifetime-scale 9000000",
    "snake --seeds 100000",
])  # fmt: skip
def test_lifetimes_larger_than_the_memory_are_refused(command, monkeypatch, arguments):
    """Before anything of it is asked for."""
    monkeypatch.setattr(runner, "total_memory", lambda: 2**36)
    line = command.refused(*arguments.split(), "--workdir", "run")
    assert " GiB (the largest array of each has " in line, line
    assert "64.0 GiB of memory; give smaller sizes" in line
    assert ("or fewer seeds" in line) == ("1 lifetime holds" not in line)


@pytest.mark.parametrize(("error", "words"), [
    (MemoryError("Unable to allocate 28.3 GiB for an array"), "memory (Unable to allocate 28.3"),
    (MemoryError(), "not enough memory (of this machine); give smaller sizes"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"), "allocating 9"),
])  # fmt: skip
def test_no_memory_left_is_one_line(command, monkeypatch, error, words):
    def full(*arguments):
        raise error

    monkeypatch.setattr(runner.Runner, "advance", full)
    code, _, err = command("mrp", "--workdir", "run")
    (line,) = err.splitlines()
    assert code == 2 and words in line and "give smaller sizes, such as of batches" in line, line


def test_a_table_that_is_gone_or_damaged_is_written_again(command, tmp_path):
    assert command(*"mrp --steps 640 --record-every 320 --workdir run".split())[0] == 0
    path, resume = tmp_path / "run/results.csv", "mrp --workdir run --resume".split()
    content, written = path.read_bytes(), (tmp_path / "run/results.json").read_bytes()
    assert command(*resume)[0] == 0
    assert (tmp_path / "run/results.json").read_bytes() == written, "what is complete is left alone"
    for damaged in (b"no table", content[: len(content) // 2], None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        assert command(*resume)[0] == 0
        assert path.read_bytes() == content


@pytest.mark.parametrize("arguments", [
    "mrp --workdir file", "mrp all --root file/below", "train --game catch --workdir file",
    "sweep small --root file",
])  # fmt: skip
def test_a_file_where_a_folder_should_be_is_one_line(command, tmp_path, arguments):
    (tmp_path / "file").touch()
    line = command.refused(*arguments.split())
    assert "file is no folder; give another one." in line or "Not a directory" in line, line


@pytest.mark.parametrize("arguments", ["mrp", "snake", "two-colors"])
def test_a_table_that_lacks_a_column_is_one_line(command, tmp_path, arguments):
    folder = tmp_path / "runs" / "other"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "results.csv").write_text("seed,step,other\n0,16,1\n0,32,1\n")
    code, _, err = command(arguments, "figures", "--root", "runs")
    assert code == 2 and len(err.splitlines()) == 1 and "results.csv has no column" in err


def test_lifetimes_that_are_not_finite_are_said_once(monkeypatch, capsys):
    """By their seeds, which begin with the first one."""
    monkeypatch.setattr(lifetimes, "_LOOK_SECONDS", 0.0)
    found = []
    running = types.SimpleNamespace(
        not_finite=lambda: found, records=types.SimpleNamespace(steps=1_500)
    )
    config = LpgConfig(first_seed=7, seeds=4, workdir="run")
    watch = lifetimes._Watch(config, running)
    watch.update()
    assert capsys.readouterr().out == ""
    for broken, words in (
        ([2], "seed 9 not finite after 1,500 meta-updates"),
        ([0, 2, 3], "seeds 7, 10 not finite"),
    ):
        found[:] = broken
        watch.update()
        watch.update()
        out = capsys.readouterr().out
        assert out.count("\n") == 1 and out.startswith("run: ") and words in out
    assert lifetimes.not_finite_seeds(config, running) == [7, 9, 10]
