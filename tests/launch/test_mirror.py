"""`bmg wandb` and `--wandb`: what Weights & Biases gets, read from its own files (offline mode)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import pytest

from bmg.launch import mirror
from bmg.storage.rows import read_rows
from tests.launch import commands
from tests.launch.test_cli import ROW, save_run

pytest.importorskip("wandb")
OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}


def records(content: bytes) -> Iterator[bytes]:
    """Of a file in LevelDB's log format, after a header of seven bytes: blocks of 32 kB, in which
    a record is whole (1), or begins (2), goes on (3) and ends (4)."""
    at, data = 7, b""
    while at + 7 <= len(content):
        if (left := 32_768 - at % 32_768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        data += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield data
            data = b""


def kept(folder) -> tuple[list[dict], dict]:
    """Rows and configuration in the files that are there for `wandb sync`, oldest first."""
    from wandb.proto import wandb_internal_pb2 as proto

    rows, config = [], {}
    paths = folder.glob("wandb/offline-run-*/*.wandb")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        for data in records(path.read_bytes()):
            record = proto.Record.FromString(data)
            if items := record.history.item:
                names = {"/".join(item.nested_key) or item.key: item for item in items}
                row = {k: json.loads(x.value_json) for k, x in names.items()}
                rows.append({k: v for k, v in row.items() if not k.startswith("_")})
            config |= {x.key: json.loads(x.value_json) for x in record.run.config.update}
    return rows, config


def bmg(tmp_path, *arguments):
    with commands.started(*map(str, arguments), cwd=tmp_path, variables=OFFLINE) as run:
        return run.finish()


def test_rows_are_sent_once(tmp_path):
    """Also after the run went on from an older checkpoint; other keys than before included."""
    folder = tmp_path / "runs/one"
    save_run(folder, seed=3)
    rows = [{**ROW, "frames": 100.0 * i, "learner/frames": 100.0 * i, "a/b": i} for i in (1, 2)]
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = bmg(tmp_path, "wandb", "--project", "trial")
    assert code == 0 and "2 rows of 1 runs sent to the project trial" in out, out + err
    found, config = kept(folder)
    assert [(row["frames"], row["a/b"]) for row in found] == [(100, 1), (200, 2)]
    assert config["seed"] == 3 and config["game"] == "catch"
    identity = commands.json_of(folder / "wandb-3.json")["id"]

    with path.open("a") as file:
        file.write(json.dumps({"frames": 300, "evaluation/return": 5.0}) + "\n")
    code, out, _ = bmg(tmp_path, "wandb", "runs/one", "--project", "trial")
    assert code == 0 and "1 rows of 1 runs" in out
    assert kept(folder)[0][2:] == [{"frames": 300, "evaluation/return": 5.0}]
    assert commands.json_of(folder / "wandb-3.json")["id"] == identity
    assert "0 rows of 1 runs" in bmg(tmp_path, "wandb", "runs/one")[1]

    path.write_text(json.dumps(rows[0]) + "\n")  # the rest was abandoned
    assert "1 rows of 1 runs" in bmg(tmp_path, "wandb", "runs/one")[1]


@pytest.mark.slow
def test_runs_of_both_kinds_send_what_they_write(tmp_path):
    words = "train --game catch --runtime in-graph --frames 4000 --seeds 2 --workdir run".split()
    words += ["--agent.algorithm", "impala", "--wandb", "trial"]
    code, out, err = bmg(tmp_path, *words)
    assert code == 0 and err == "", err
    for seed in (0, 1):
        folder = tmp_path / f"run/seed-{seed}"
        expected = [row for row in read_rows(folder / "metrics.jsonl") if "session" not in row]
        found, config = kept(folder)
        assert len(found) == len(expected) > 0 and config["seed"] == seed
        assert [row["frames"] for row in found] == [row["frames"] for row in expected]
    words = ["mrp", "--steps", "640", "--record-every", "320", "--seeds", "2", "--workdir", "mrp"]
    code, out, err = bmg(tmp_path, *words, "--wandb", "trial")
    assert code == 0 and "Weights & Biases ended" not in out, out + err
    found, _ = kept(tmp_path / "mrp")
    assert [row["frames"] for row in found] == [320, 640, 320, 640]
    assert "4 rows of 2 runs" in (tmp_path / "mrp/logs/wandb.log").read_text()


def test_what_cannot_be_is_one_line(command, tmp_path, monkeypatch):
    assert "no runs in nowhere" in command.refused("wandb", "nowhere")
    own = ["train", "--game", "catch", "--wandb", "trial", "--runtime"]
    monkeypatch.setattr(mirror.importlib.util, "find_spec", lambda name: None)
    for words in (["wandb"], [*own, "local-threads"], ["mrp", "--wandb", "trial"]):
        assert "pip install 'bmg[wandb]'" in command.refused(*words)
    assert not list(tmp_path.iterdir())


def test_a_login_that_is_missing_is_one_line(command, tmp_path, monkeypatch):
    import wandb

    def init(**_):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    save_run(tmp_path / "runs/one", seed=3)
    (tmp_path / "runs/one/metrics.jsonl").write_text(json.dumps(ROW) + "\n")
    monkeypatch.setattr(wandb, "init", init)
    line = command.refused("wandb", "runs")
    assert "runs/one" in line and "No API key" in line and "WANDB_MODE=offline" in line


@pytest.mark.launchpad
def test_a_private_network_reaches_nobody(tmp_path):
    words = ["train", "--game", "catch", "--runtime", "launchpad", "--wandb", "trial"]
    code, out, line = commands.bmg(*words, cwd=tmp_path)
    assert code == 2 and out == "" and not list(tmp_path.iterdir())
    assert line.count("\n") == 1 and "--network host" in line
    assert "bmg wandb runs/catch --project trial --follow" in line
