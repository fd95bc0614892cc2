"""deploy/slurm/train.sbatch, with stand-ins for srun and scontrol. tests/launch/hosts/test_slurm.py
runs it in a cluster."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "slurm" / "train.sbatch"
SRUN = '#!/bin/bash\nprintf \'%s\\n\' "$@" >"$HOME/started"\nexit ${CODE:-0}\n'
SCONTROL = '#!/bin/bash\necho "$@" >"$HOME/queued"\n'


@pytest.fixture
def job(tmp_path):
    """Runs the script in a folder, as a job's first node does."""
    for name, text in {"bin/srun": SRUN, "bin/scontrol": SCONTROL}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(*options: str, **variables: str) -> subprocess.CompletedProcess:
        environment = {
            "HOME": str(tmp_path), "PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8", **variables,
        }  # fmt: skip
        return subprocess.run(
            ["bash", str(SCRIPT), *options], cwd=tmp_path, env=environment,
            capture_output=True, text=True,
        )  # fmt: skip

    return run


def test_a_folder_without_the_program_is_refused_in_one_line(job, tmp_path):
    done = job("--game", "pong")
    assert done.returncode == 2 and not (tmp_path / "started").exists()
    assert len(done.stderr.splitlines()) == 1
    assert f"no .venv/bin/bmg in {tmp_path}; run make setup" in done.stderr


def test_a_run_that_is_there_goes_on_and_a_job_out_of_time_is_queued_again(job, tmp_path):
    program = tmp_path / ".venv/bin/bmg"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    start = ["--hosts.cluster", "slurm", "--workdir"]
    assert job("--game", "pong").returncode == 0
    words = (tmp_path / "started").read_text().splitlines()
    assert words[words.index("bmg") + 2 :] == [*start, "runs/slurm-7", "--game", "pong"]
    assert not (tmp_path / "queued").exists()

    run = tmp_path / "mine"
    run.mkdir()
    (run / "config.json").touch()
    assert job("--workdir=mine", CODE="130").returncode == 130
    words = (tmp_path / "started").read_text().splitlines()
    assert words[words.index("bmg") + 2 :] == [*start, "mine", "--resume", "--workdir=mine"]
    assert (tmp_path / "queued").read_text() == "requeue 7\n"
