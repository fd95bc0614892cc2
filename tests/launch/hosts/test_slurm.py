"""The script for SLURM, in a real cluster of it: two nodes of this machine. A job is preempted and
goes on, runs out of time and goes on, is cancelled; another one brings its run to the end."""

from __future__ import annotations

import pathlib
import shlex

import pytest

from bmg.storage.checkpoint import list_checkpoints
from tests.launch.commands import BMG, ROOT, environment, json_of, learner_rows
from tests.launch.hosts.slurm import Slurm, cluster
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = ROOT / "deploy" / "slurm" / "train.sbatch"
OPTIONS = (
    "--game catch --actors.num-actors 1 --learner.replay-batch 4 --learner.log-interval 0.5 "
    "--learner.checkpoint-interval 1 --evaluator.num-evaluators 0"
).split()


@pytest.fixture
def slurm():
    with cluster() as running:
        yield running


def submit(slurm: Slurm, folder: pathlib.Path, *options: str) -> str:
    """The job of the script, as a user submits it in the folder of a checkout; its number."""
    program = folder / ".venv/bin/bmg"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.join(BMG)} "$@"\n')
    program.chmod(0o755)
    command = ["sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", str(SCRIPT)]
    command += [*OPTIONS, *options]
    variables = {**environment(), "JAX_PLATFORMS": "cpu", **slurm.environment}
    return slurm.run(*command, cwd=folder, **variables)


def newest(run: pathlib.Path) -> int:
    """Updates of the newest checkpoint; 0 where there is none."""
    there = list_checkpoints(run / "checkpoints")
    return int(there[-1].stem.partition("_")[2]) if there else 0


def test_a_job_on_two_nodes_is_preempted_and_goes_on_to_the_end(slurm, tmp_path):
    endless = ["--frames", "2000000000"]
    job = submit(slurm, tmp_path, *endless)
    run, log = tmp_path / f"runs/slurm-{job}", tmp_path / f"bmg-{job}.log"

    def state() -> str:
        found = slurm.about(job)["JobState"]
        text = log.read_text() if log.exists() else ""
        assert found not in ("FAILED", "NODE_FAIL", "TIMEOUT"), text
        return found

    eventually(lambda: state() == "RUNNING" and newest(run) > 0)
    hosts = json_of(run / "config.json")["hosts"]
    assert (hosts["cluster"], hosts["count"], hosts["index"]) == ("slurm", 2, 0)
    assert hosts["coordinator"].startswith(f"{slurm.nodes[0]}:6")
    assert json_of(run / "hosts/1/config.json")["hosts"] == {**hosts, "index": 1}

    def begin_again(times: int) -> int:
        """Waits until the job is in the queue again; the updates that it has behind it."""
        eventually(lambda: state() == "PENDING")
        assert slurm.about(job)["Restarts"] == str(times)
        # It was asked to leave, and had the time for a checkpoint of its last update.
        assert log.read_text().count("stopped; go on with --resume, on all hosts") == 2 * times
        stopped = newest(run)
        assert learner_rows(run)[-1]["learner/updates"] <= stopped
        slurm.start_soon(job)
        return stopped

    slurm.run("scontrol", "requeue", job)
    stopped = begin_again(1)
    eventually(lambda: state() == "RUNNING" and newest(run) > stopped)
    # What SLURM does shortly before the job's time is over, to what srun has started alone.
    slurm.run("scancel", "--signal=TERM", job)
    begin_again(2)
    eventually(lambda: state() == "RUNNING" and log.read_text().count("0: host 0 of 2") == 3)
    slurm.run("scancel", job)
    eventually(lambda: state() == "CANCELLED")
    rows = [row["learner/updates"] for row in learner_rows(run)]
    assert rows == sorted(set(rows)), "no update was made twice"

    reached = newest(run)
    final = ["--workdir", str(run), "--frames", str(80 * (reached + 50))]
    job = submit(slurm, tmp_path, *final)
    log = tmp_path / f"bmg-{job}.log"
    eventually(lambda: state() == "COMPLETED")
    results = json_of(run / "results.json")
    assert results["complete"] and results["updates"] == reached + 50
    assert results["frames"] == 80 * results["updates"]
    text = log.read_text()
    assert "0: host 0 of 2" in text and "1: host 1 of 2" in text, text
