"""Hosts that learn together against as many runs that do not, on the same cores: what it costs to
wait for each other and to sum gradients. Pong 84x84, the shallow network, one actor on each host.

Batches grow with the hosts: each of them has as much to learn from as a run of its own.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterator

from bmg.benchmarks.config import BenchmarkConfig
from bmg.benchmarks.system import end_all, run_and_measure
from bmg.storage.fields import LocalHosts

_RUN = [
    *("--preset", "local", "--game", "pong", "--frames", "10000000000"),
    *("--evaluator.num-evaluators", "0", "--actors.num-actors", "1"),
]
_ONLINE, _REPLAY = 4, 1  # unrolls of each host in an update


@dataclasses.dataclass(frozen=True)
class Config(BenchmarkConfig):
    """Measure several hosts on this machine."""

    hosts: tuple[LocalHosts, ...] = (2, 4)
    """Numbers of hosts."""
    pinned: bool = False
    """Each host on one core, its own as far as there are any; else all share all cores."""


def _batch(hosts: int) -> list[str]:
    sizes = ["--learner.online-batch", str(_ONLINE * hosts)]
    return [*_RUN, *sizes, "--learner.replay-batch", str(_REPLAY * hosts)]


def _apart(hosts: int, seconds: float, pinned: bool) -> float:
    """Frames per second of each of so many separate runs, side by side; their mean."""
    cores = sorted(os.sched_getaffinity(0)) if pinned else [None]
    with concurrent.futures.ThreadPoolExecutor(hosts) as pool:
        runs = [
            pool.submit(
                run_and_measure,
                _batch(1),
                seconds,
                core=cores[index % len(cores)],
                name=f"run {index + 1} of {hosts}, alone",
            )  # fmt: skip
            for index in range(hosts)
        ]
        try:
            return sum(run.result()["frames_per_second"] for run in runs) / hosts
        except BaseException:  # the pool waits for its threads, and they for the runs
            end_all()
            raise


def measure(config: Config) -> Iterator[dict]:
    """A row for each number of hosts."""
    seconds = 20.0 if config.quick else 60.0
    for hosts in config.hosts[:1] if config.quick else config.hosts:
        apart = _apart(hosts, seconds, config.pinned)
        command = ["pod", "local", "--hosts", str(hosts)]
        command += ["--cores-per-host", "1"] if config.pinned else []
        together = run_and_measure(_batch(hosts), seconds, command)
        per_host = together["frames_per_second"] / hosts
        yield {
            "hosts": hosts,
            "cores_per_host": min(1.0, len(os.sched_getaffinity(0)) / hosts),
            "frames_per_second_of_a_run": apart,
            "frames_per_second_per_host": per_host,
            "ratio": per_host / apart,
            "updates_per_second": together["updates_per_second"],
        }
