"""One host of several, as a program of its own: `python -m tests.learner.host SCENARIO INDEX COUNT
PORT FOLDER`. Prints a line of JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import sys

import jax
import numpy as np

from bmg.learner.batches import read_info
from bmg.learner.config import DevicesConfig, HostsConfig
from bmg.learner.hosts import HostLeft, HostMissing, Hosts, HostsDiffer, join
from bmg.learner.placement import place
from bmg.learner.update import first, make_sharded_agent
from bmg.storage import checkpoint
from bmg.storage.fields import Mistake
from tests.learner import fakes
from tests.waiting import DEADLINE

GLOBAL = dataclasses.replace(fakes.LEARNER, online_batch=4, replay_batch=8)
NUM_UPDATES = 4


def global_batch(update: int, num_extra: int = 1):
    """Of all hosts; unrolls carry their number as version, and episodes end in some."""
    batch = fakes.update_batch(update, GLOBAL, num_extra)
    batch.online.parameter_version[:] = 10 * update + np.arange(4)
    batch.online.episode_return[1, 2] = 100 + update
    batch.online.episode_return[2, [0, 3]] = [200 + update, 300 + update]
    return batch


def share(tree, index: int, count: int):
    """This host's part of each array."""
    return jax.tree.map(lambda x: np.split(x, count)[index], tree)


def missing(message: str) -> None:
    print(json.dumps({"missing": message}), flush=True)
    os._exit(1)


def main(scenario: str, index: int, count: int, port: str, folder: str) -> None:
    # One that is to be missing is missed soon, but not before it is missing; others never.
    timeout = 5.0 if scenario in ("dies", "hangs") else DEADLINE
    address = f"127.0.0.1:{port}"
    config = HostsConfig(count, index, address, DEADLINE, timeout, check_updates=2)
    identity = {"game": "catch", "seed": index if scenario == "seeds" else 0}
    try:
        join(config, identity)
    except Mistake as error:
        print(json.dumps({"differ": str(error)}), flush=True)
        os._exit(1)
    devices = place(DevicesConfig(), "cpu", central_inference=False).learner
    # IMPALA compiles sooner.
    algorithm = "bmg" if scenario == "learns-bmg" else "impala"
    learning = dataclasses.replace(fakes.AGENT, algorithm=algorithm)
    agent = make_sharded_agent(learning, GLOBAL, fakes.SPEC, fakes.ACTION_REPEAT, devices)
    hosts = Hosts(config, agent.mesh, 4 // count, fakes.LENGTH, missing)
    start = agent.init(jax.random.PRNGKey(index))  # host 0's counts
    state, header = hosts.as_on_first(jax.tree.map(np.asarray, start), {"updates": 7 + index})
    state, infos = agent.replicate(state), []
    try:
        for update in range(NUM_UPDATES):
            batch = share(global_batch(update, agent.agent.num_extra_batches), index, count)
            info = read_info(batch.online)
            if scenario == "leaves" and index == 1 and update == 2:
                info = None
            if scenario == "dies" and index == 1 and update == 2:
                os._exit(3)
            if scenario == "hangs" and index == 1 and update == 2:
                signal.pause()
            if scenario == "differs" and index == 1 and update == 1:
                state = tampered(state)
            info = hosts.agree(info, update, state)
            if info is None:
                break
            infos.append([info.episode_returns.tolist(), info.versions.tolist()])
            with hosts.deadline(f"in update {update + 1}"):
                state, metrics = agent.update(state, agent.shard(batch))
                hosts.updated(metrics)
        end = ""
    except (HostLeft, HostsDiffer, HostMissing) as error:
        end = f"{type(error).__name__}: {error}"
    said = {"header": header, "infos": infos, "end": end}
    if end.startswith(("HostMissing", "HostsDiffer")):
        print(json.dumps(said), flush=True)
        os._exit(1)
    if index == 0:
        checkpoint.save(pathlib.Path(folder), NUM_UPDATES, first(state), {}, 1)
    hosts.leave(DEADLINE)
    print(json.dumps(said), flush=True)


def tampered(state):
    """One bit of one copy of one array is another."""
    leaves, structure = jax.tree.flatten(state)
    place = max(range(len(leaves)), key=lambda i: leaves[i].size)
    whole = leaves[place]
    copies = [np.array(shard.data) for shard in whole.addressable_shards]
    for copy in copies:
        copy.view(np.uint32).ravel()[3] ^= 1
    leaves[place] = jax.make_array_from_single_device_arrays(
        whole.shape,
        whole.sharding,
        [jax.device_put(c, s.device) for c, s in zip(copies, whole.addressable_shards)],
    )
    return jax.tree.unflatten(structure, leaves)


if __name__ == "__main__":
    scenario, index, count, port, folder = sys.argv[1:]
    main(scenario, int(index), int(count), port, folder)
