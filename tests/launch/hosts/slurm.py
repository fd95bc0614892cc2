"""A SLURM cluster of two nodes on this machine: its real programs, with everything that they write
in one folder, and nothing left of them afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator

import psutil
import pytest

from tests.ports import free_port
from tests.waiting import eventually

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])

# No root, no cgroups, no accounting. Debian's SLURM allows each host name once, and a node's own
# name must be found for others to reach it: the first node is called as this machine is.
_SETTINGS = """
ClusterName=bmg
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/linear
SchedulerParameters=batch_sched_delay=1,sched_interval=2
ReturnToService=2
KillWait=60
MailProg=/bin/true
NodeName={nodes[0]} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName={nodes[1]} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """The cluster, once it runs."""

    def __init__(self, folder: pathlib.Path, nodes: tuple[str, str]):
        self.nodes = nodes
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH}
        self.daemons: list[subprocess.Popen] = []

    def run(self, *command: str, cwd: pathlib.Path | None = None, **variables: str) -> str:
        """What one of SLURM's commands prints; it must succeed."""
        done = subprocess.run(
            command, cwd=cwd, env={**self.environment, **variables},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def about(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job, such as its JobState."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.partition("=")[::2] for word in words)

    def start_soon(self, job: str) -> None:
        """A job that went back into the queue starts in place of after the two minutes that SLURM
        has it wait. Not at once: what a node has revoked holds for what is granted in that second.
        """
        self.run("scontrol", "update", f"jobid={job}", "starttime=now+3")

    def is_ready(self) -> bool:
        """Whether both nodes can take jobs."""
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%D %t"],
            env=self.environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.stdout.split() == ["2", "idle"]


@contextlib.contextmanager
def cluster() -> Iterator[Slurm]:
    """Starts it; skips the test where SLURM is not installed."""
    if missing := [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]:
        pytest.skip(f"needs {', '.join(missing)}, of Debian's packages slurm-wlm and munge")
    host = socket.gethostname().partition(".")[0]
    try:
        socket.gethostbyname(host)
    except OSError:
        pytest.skip(f"needs an address for this machine's name, {host}")
    # A short path: that of a socket has at most 107 characters.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slurm-"))
    slurm = Slurm(folder, (host, f"{host}-b"))
    try:
        _start(slurm, folder)
        yield slurm
    finally:
        _end(slurm)
        shutil.rmtree(folder)


def _start(slurm: Slurm, folder: pathlib.Path) -> None:
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    for name in ("state", *(f"spool.{node}" for node in slurm.nodes)):
        (folder / name).mkdir()
    ports = [free_port() for _ in range(3)]
    text = _SETTINGS.format(
        host=slurm.nodes[0], nodes=slurm.nodes, ports=ports, user=getpass.getuser(), folder=folder
    )
    (folder / "slurm.conf").write_text(text)
    _daemon(
        slurm, folder, "munged", "--foreground", "--force", "--num-threads=1",
        f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid",
        f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed",
    )  # fmt: skip
    eventually((folder / "munge.socket").exists)
    _daemon(slurm, folder, "slurmctld", "-D", "-i")
    for node in slurm.nodes:
        _daemon(slurm, folder, "slurmd", "-D", "-N", node)
    eventually(slurm.is_ready)


def _daemon(slurm: Slurm, folder: pathlib.Path, name: str, *options: str) -> None:
    program = shutil.which(name, path=_PATH)
    log = folder / f"{name}.{len(slurm.daemons)}.log"
    with log.open("w") as output:
        daemon = subprocess.Popen(
            [program, *options], env=slurm.environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip
    slurm.daemons.append(daemon)


def _die_with_parent() -> None:
    """Has the kernel kill this process when the test's is killed, which then tidies nothing up."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, linux/prctl.h


def _ours(slurm: Slurm) -> list[psutil.Process]:
    """Daemons, jobs and what jobs have started: all have the cluster's configuration."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("SLURM_CONF") == slurm.environment["SLURM_CONF"]
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _end(slurm: Slurm) -> None:
    """Ends daemons and jobs, at once."""
    while left := _ours(slurm):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        for daemon in slurm.daemons:
            daemon.wait(timeout=60)
        psutil.wait_procs(left, timeout=60)
