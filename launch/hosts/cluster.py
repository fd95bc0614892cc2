"""Which host of a run this process is, from what a batch system sets in its environment.

| `--hosts.cluster` | started by | what is found |
| --- | --- | --- |
| slurm | `srun`, one task for each host | all |
| mpi | Open MPI 4 | all |
| mpi | Open MPI 5, MPICH, Intel MPI | count and index |
| kubernetes | a Job of `completionMode: Indexed` | the index |
| tpu | Google's Kubernetes, or a Cloud TPU VM | all |

`jax.distributed` finds the same by itself, with the same variables; but its modules for it are
private, and it takes a shell of a SLURM job for one of the job's tasks, which would wait for the
others without end. This table needs no JAX, and counts only what `srun` itself has started.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bmg.storage.fields import number, shown

# As JAX does it: above the ports that Linux gives to connections, one of 4096.
_FIRST_PORT, _PORTS = 61440, 4096
# Where each host has a network address of its own, there is nothing that it could collide with.
PORT = 8476  # as JAX has it on TPUs
_METADATA_SECONDS = 5.0
_LONGEST_ANSWER = 2**20  # bytes; a worker has about twenty in it


class Found(NamedTuple):
    """What the environment has of a host; None for what it does not have."""

    count: int | None  # hosts of the run
    index: int | None  # which of them this is
    coordinator: str | None  # ADDRESS:PORT of host 0


class _Cluster(NamedTuple):
    """A kind of batch system."""

    find: Callable[[Mapping[str, str]], Found | None]  # None: this is not a process of it
    sign: str  # what is missing then
    remedy: str  # what starts a process of it


def find_host(
    cluster: str, given: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Which host this is.

    Args:
      cluster: `--hosts.cluster`. auto takes what is complete and has several hosts, and is one host
        where there is no such thing.
      given: `count`, `index` and `coordinator`, as far as the user has given them: these count.
      environment: the process's variables.

    Returns:
      `count`, `index` and `coordinator` of `HostsConfig`; nothing for none, and for no cluster.

    Raises:
      ValueError: the process belongs to no such cluster, or the cluster does not have everything;
        one line.
    """
    if cluster == "auto":
        for find in _OF_AUTO:
            found = _merged(find(environment), given)
            if None not in found.values() and found["count"] != 1:
                return found
        return {"count": 1, "index": 0, "coordinator": "", **given}
    if (known := _CLUSTERS.get(cluster)) is None:
        return {}
    there = known.find(environment)
    if there is None:
        raise ValueError(
            f"hosts cluster is {cluster}, and there is no {known.sign} here; {known.remedy}, or "
            "give --hosts.cluster none."
        )
    found = _merged(there, given)
    if found["count"] == 1:  # there is nobody to meet
        found = {**found, "coordinator": found["coordinator"] or ""}
    if missing := [f"--hosts.{name}" for name, value in found.items() if value is None]:
        raise ValueError(
            f"hosts cluster is {cluster}, which does not have everything; give "
            f"{' and '.join(missing)} as well, the same on all hosts."
        )
    return found


def _merged(there: Found | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, else what is there."""
    values = there._asdict() if there else dict.fromkeys(Found._fields)
    return {**values, **given}


def _find_slurm(environment: Mapping[str, str]) -> Found | None:
    """A task of a job step. The batch script and a shell of salloc have SLURM_PROCID and
    SLURM_NTASKS as well; only `srun` sets those of a step."""
    if "SLURM_STEP_NUM_TASKS" not in environment:
        return None
    # Steps of one job may run on the same node at the same time, as jobs may.
    job = _integer(environment, "SLURM_JOB_ID") + 67 * _integer(environment, "SLURM_STEP_ID")
    node = _first_node(environment.get("SLURM_STEP_NODELIST", ""))
    return Found(
        _integer(environment, "SLURM_STEP_NUM_TASKS"),
        _integer(environment, "SLURM_PROCID"),
        f"{node}:{_FIRST_PORT + job % _PORTS}" if node else None,
    )


def _first_node(nodes: str) -> str:
    """The first name of SLURM's list: `gpu[003-005,9]-x,b` -> `gpu003-x`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def _find_mpi(environment: Mapping[str, str]) -> Found | None:
    """A rank of mpirun. Others than Open MPI 4 have no address that all ranks know; mpi4py could
    ask rank 0, but a process that has joined MPI cannot execute another program in its place."""
    for count, index in (
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK"),
    ):  # fmt: skip
        if count in environment and index in environment:
            coordinator = _mpirun(environment.get("OMPI_MCA_orte_hnp_uri", ""))
            return Found(_integer(environment, count), _integer(environment, index), coordinator)
    return None


def _mpirun(uri: str) -> str | None:
    """Where mpirun is, on rank 0's host: `1531576320.0;tcp://10.96.0.1,10.1.0.1:34911`."""
    job = re.match(r"[0-9]{1,10}", uri)
    address = re.search(r"tcp://([^,:]+)|tcp6://(\[[^\],]+)", uri)
    if not job or not address:
        return None
    host = address[1] or address[2] + "]"
    return f"{host}:{_FIRST_PORT + int(job[0]) // 4096 % _PORTS}"  # it is a multiple of 4096


def _find_kubernetes(environment: Mapping[str, str]) -> Found | None:
    """A pod of an indexed Job. How many there are and what host 0's name is stands in the Job's
    manifest, which can give them as options; JAX asks Kubernetes, and needs a permission for it."""
    if "JOB_COMPLETION_INDEX" not in environment:
        return None
    return Found(None, _integer(environment, "JOB_COMPLETION_INDEX"), None)


def _find_tpu(environment: Mapping[str, str]) -> Found | None:
    """A worker of one or several slices, in Google's Kubernetes."""
    names = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    workers = [x for name in names if (x := name.strip())]
    if "TPU_WORKER_ID" not in environment or not workers:
        return None
    index, slices, address = _integer(environment, "TPU_WORKER_ID"), 1, workers[0]
    if environment.get("MEGASCALE_NUM_SLICES"):
        slices = _integer(environment, "MEGASCALE_NUM_SLICES")
        index += len(workers) * _integer(environment, "MEGASCALE_SLICE_ID")
        address = environment.get("MEGASCALE_COORDINATOR_ADDRESS", "")
        address = re.match(r"\[[^\]]*\]|[^:]*", address)[0]  # without its port
    return Found(len(workers) * slices, index, f"{address}:{PORT}" if address else None)


def _find_tpu_or_ask(environment: Mapping[str, str]) -> Found | None:
    """Likewise; else a worker of a slice of VMs, whose metadata server is asked."""
    if found := _find_tpu(environment):
        return found
    index = number(_metadata("agent-worker-number", environment))
    workers = _metadata("worker-network-endpoints", environment).split(",")
    addresses = [worker.split(":")[2] for worker in workers if worker.count(":") >= 2]
    if not isinstance(index, int) or not addresses:
        return None
    return Found(len(addresses), index, f"{addresses[0]}:{PORT}")


def _metadata(name: str, environment: Mapping[str, str]) -> str:
    """An attribute of this Google Cloud VM; nothing elsewhere."""
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{name}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        with direct.open(request, timeout=_METADATA_SECONDS) as answer:
            return answer.read(_LONGEST_ANSWER).decode().strip()
    return ""


def _integer(environment: Mapping[str, str], name: str) -> int:
    """A number that a batch system has set.

    Raises:
      ValueError: it has not; one line.
    """
    text = environment.get(name, "")
    if not re.fullmatch("[0-9]{1,15}", text):
        raise ValueError(
            f"{name} is {shown(text)} in the environment, and no number from 0; give "
            "--hosts.cluster none, and --hosts.count, --hosts.index and --hosts.coordinator."
        )
    return int(text)


_CLUSTERS = {
    "mpi": _Cluster(
        _find_mpi, "OMPI_COMM_WORLD_RANK or PMI_RANK in the environment",
        "start bmg train with mpirun",
    ),
    "slurm": _Cluster(
        _find_slurm, "SLURM_STEP_NUM_TASKS in the environment",
        "start bmg train with srun, in a job of SLURM",
    ),
    "tpu": _Cluster(
        _find_tpu_or_ask, "TPU_WORKER_ID in the environment, nor a TPU VM's metadata server",
        "start bmg train on every worker of a slice",
    ),
    "kubernetes": _Cluster(
        _find_kubernetes, "JOB_COMPLETION_INDEX in the environment",
        "start bmg train in the pods of a Job with completionMode: Indexed",
    ),
}  # fmt: skip
# What auto tries, in this order: mpirun may start its own helpers by srun. It asks no server, and
# pods of a Job are hosts only where their number and host 0's address are given.
_OF_AUTO = (_find_mpi, _find_slurm, _find_tpu, _find_kubernetes)
