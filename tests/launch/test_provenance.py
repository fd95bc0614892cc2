"""Where results come from: the commit of a repository of the program's own alone."""

from __future__ import annotations

import subprocess

from bmg import __version__
from bmg.launch import provenance
from tests.launch import commands


def test_a_commit_says_whether_files_were_changed(tmp_path, monkeypatch):
    def git(*words):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        run = subprocess.run(["git", *names, *words], cwd=tmp_path, check=True, capture_output=True)
        return run.stdout.decode().strip()

    git("init", "-q")
    assert provenance.commit(tmp_path) is None, "nothing was committed"
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    head = git("rev-parse", "HEAD")
    provenance.commit.cache_clear()
    assert provenance.commit(tmp_path) == head and len(head) == 40
    git("tag", "v1")
    (tmp_path / "file").write_text("2")
    provenance.commit.cache_clear()
    assert provenance.commit(tmp_path) == f"{head}-dirty"
    (tmp_path / "inside").mkdir()
    assert provenance.commit(tmp_path / "inside") is None, "installed in another's repository"
    # What an image says, which holds no repository.
    monkeypatch.setenv("BMG_COMMIT", "abc")
    provenance.commit.cache_clear()
    assert provenance.commit(tmp_path / "inside") == "abc"
    assert provenance.commit(tmp_path) == f"{head}-dirty"
    monkeypatch.setenv("BMG_COMMIT", "")
    provenance.commit.cache_clear()
    assert provenance.commit(tmp_path / "inside") is None


def test_results_say_where_they_come_from(tmp_path):
    """Of an experiment, and of a run and each of its seeds."""
    words = ["mrp", "--steps", "640", "--record-every", "320", "--seeds", "2", "--workdir", "a b"]
    code, _, err = commands.bmg(*words, cwd=tmp_path)
    assert code == 0, err
    results = commands.json_of(tmp_path / "a b/results.json")
    assert results["command"] == "bmg mrp --steps 640 --record-every 320 --seeds 2 --workdir 'a b'"
    assert results["versions"] == {**provenance.versions(), "bmg": __version__}
    code, _, err = commands.bmg(
        "train", "--game", "catch", "--runtime", "in-graph", "--seeds", "2", "--frames", "400",
        "--agent.algorithm", "impala", "--workdir", "run", cwd=tmp_path,
    )  # fmt: skip
    assert code == 0, err
    for name in ("run", "run/seed-0", "run/seed-1"):
        results = commands.json_of(tmp_path / name / "results.json")
        assert results["command"].startswith("bmg train --game catch --runtime in-graph")
        assert results["versions"] == provenance.versions()
