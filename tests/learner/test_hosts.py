"""Several hosts as processes of their own: they learn what one learns, and leave together."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.learner.config import HostsConfig
from bmg.learner.hosts import _checksum, check_port, code_digest
from bmg.storage import checkpoint
from tests.learner import fakes, host
from tests.ports import free_port
from tests.waiting import DEADLINE

ROOT = pathlib.Path(__file__).resolve().parents[2]


def together(scenario: str, folder, count: int = 2, devices: int = 1) -> list[tuple[int, dict]]:
    """Runs the hosts to their end; of each its exit code and what it said."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.learner.host", scenario, str(index), str(count),
             str(port), str(folder)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(count)
    ]  # fmt: skip
    try:
        ended = [process.communicate(timeout=DEADLINE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = []
    for process, (out, err) in zip(processes, ended):
        lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        assert len(lines) <= 1 and (lines or process.returncode), err
        said.append((process.returncode, lines[0] if lines else {}))
    return said


def alone(algorithm: str):
    """Where one process with four devices begins, and where it comes by the same global batches."""
    config = dataclasses.replace(fakes.AGENT, algorithm=algorithm)
    agent = fakes.make_agent(config, host.GLOBAL, num_devices=4)
    start = agent.init(jax.random.PRNGKey(0))
    state = agent.replicate(start)
    for update in range(host.NUM_UPDATES):
        batch = host.global_batch(update, agent.agent.num_extra_batches)
        state, _ = agent.update(state, agent.shard(batch))
    return *jax.tree.map(np.asarray, (start, state)), agent.agent.acting_params


@pytest.mark.parametrize(
    ("count", "devices", "algorithm"),
    [(2, 2, "bmg"), pytest.param(4, 1, "impala", marks=pytest.mark.heavy)],
)
def test_several_hosts_learn_what_one_learns(tmp_path, count, devices, algorithm):
    """Two and four hosts against one with four devices: every array of the state, to 1e-5."""
    ended = together(f"learns-{algorithm}", tmp_path, count, devices)
    assert [code for code, _ in ended] == [0] * count
    for _, said in ended:
        assert said["end"] == "" and said["header"] == {"updates": 7}
        for update, (returns, versions) in enumerate(said["infos"]):
            assert sorted(returns) == [100 + update, 200 + update, 300 + update]
            assert versions == [10 * update + i for i in range(4)]
        assert len(said["infos"]) == host.NUM_UPDATES
    start, expected, acting_params = alone(algorithm)
    found, _ = checkpoint.load_newest(tmp_path, expected)
    before, after = acting_params(start.agent), acting_params(expected.agent)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), before, after)
    assert min(jax.tree.leaves(moved)) > 1e-4, "the updates were to change every layer"
    for x, y in zip(jax.tree.leaves(found.state), jax.tree.leaves(expected)):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_all_leave_when_one_is_asked_to_stop(tmp_path):
    (code, first), (other_code, second) = together("leaves", tmp_path)
    assert (code, other_code) == (0, 0)
    assert first["end"].startswith("HostLeft: host 1 was asked to stop")
    assert "after update 2" in first["end"] and "--resume" in first["end"]
    assert second["end"] == "" and len(first["infos"]) == len(second["infos"]) == 2
    assert list(tmp_path.glob("checkpoint_*.npz")), "host 0 still has its state"


@pytest.mark.parametrize("scenario", ["dies", "hangs"])
def test_a_missing_host_ends_the_others(tmp_path, scenario):
    (code, said), *_ = together(scenario, tmp_path)
    assert code != 0
    text = said.get("end") or said.get("missing") or ""
    assert "a host is missing before update 3" in text and "--resume" in text, said
    if scenario == "hangs":
        assert "no answer within 5 s" in text


def test_one_bit_that_differs_is_noticed(tmp_path):
    """At the next check, on all hosts."""
    for code, said in together("differs", tmp_path):
        assert code != 0
        assert said["end"].startswith("HostsDiffer: the hosts' states differ after update 2")
        assert len(said["infos"]) == 2


def test_hosts_with_other_options_are_refused(tmp_path):
    for code, said in together("seeds", tmp_path):
        assert code != 0
        assert "host 1 has seed = 1, host 0 0" in said["differ"]


def test_a_port_that_is_taken_is_refused():
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = HostsConfig(count=2, coordinator=f"127.0.0.1:{port}")
        with pytest.raises(ValueError, match=f"port {port} .*give another") as caught:
            check_port(config)
        fakes.one_line(caught.value)
        check_port(HostsConfig(count=2, index=1, coordinator=f"127.0.0.1:{port}"))
    check_port(HostsConfig(count=2, coordinator=f"127.0.0.1:{free_port()}"))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"count": 2, "index": 2, "coordinator": "a:1"}, "0 to 1"),
        ({"count": 2}, "ADDRESS:PORT"),
        ({"count": 2, "coordinator": "host"}, "ADDRESS:PORT"),
        ({"count": 2, "coordinator": "host:99999"}, "ADDRESS:PORT"),
        ({"count": 2, "coordinator": "host:" + "9" * 5000}, "ADDRESS:PORT"),
        ({"count": 2, "coordinator": "host:٣"}, "ADDRESS:PORT"),
    ],
)
def test_what_makes_no_sense_is_refused(values, word):
    with pytest.raises(ValueError) as caught:
        HostsConfig(**values)
    assert word in fakes.one_line(caught.value)


def test_the_checksum_sees_every_bit_and_every_exchange():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": (jnp.int32(4), jnp.array([True, False]))}
    base = int(_checksum(tree))
    assert int(jax.jit(_checksum)(tree)) == base
    seen = {base}
    for bit in range(32):
        flipped = np.array(tree["a"])
        flipped.view(np.uint32)[1, 2] ^= np.uint32(1 << bit)
        seen.add(int(_checksum({**tree, "a": jnp.asarray(flipped)})))
    seen.add(int(_checksum({**tree, "a": tree["a"][::-1]})))
    seen.add(int(_checksum({**tree, "b": (jnp.int32(4), jnp.array([False, True]))})))
    seen.add(int(_checksum({**tree, "b": (jnp.int32(5), jnp.array([True, False]))})))
    assert len(seen) == 1 + 32 + 3


def test_the_digest_is_of_the_code_alone(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/core.py").write_text("a = 1\n")
    digest = code_digest(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/text.md").write_text("words")
    for folder in (".venv-newest/lib", "tests/meta"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "other.py").write_text("b = 1\n")
    assert code_digest(tmp_path) == digest
    (tmp_path / "meta/core.py").write_text("a = 2\n")
    assert code_digest(tmp_path) != digest
