"""Freed memory that a process keeps, how much there is, and that there was none."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import psutil
import pytest

from bmg.storage.memory import keeping_freed_memory, out_of_memory, total_memory

_PASSES = """
import resource, sys
if sys.argv[1] == "kept":
    from bmg.storage.memory import keep_freed_memory
    assert keep_freed_memory()
for turn in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(how: str, **variables: str) -> int:
    """Of the last of many large arrays, in a process of its own."""
    done = subprocess.run(
        # By a shell, as Launchpad starts its nodes.
        ["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", _PASSES, how], capture_output=True,
        text=True, check=True, timeout=60, env={**os.environ, **variables},
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_large_array_comes_from_the_memory_of_the_one_before():
    assert _page_faults("kept") < 100 < 10_000 < _page_faults("as it is")
    assert _page_faults("as it is", **keeping_freed_memory({})) < 100


def test_settings_of_the_users_stay():
    found = keeping_freed_memory({"MALLOC_ARENA_MAX": "3", "OTHER": "4"})
    assert found["MALLOC_ARENA_MAX"] == "3" and found["MALLOC_MMAP_MAX_"] == "0"
    assert "OTHER" not in found


def test_the_machines_memory():
    assert total_memory() == psutil.virtual_memory().total


def test_an_array_that_no_machine_has_room_for():
    """As XLA's CPU client has it; an accelerator's has another text."""
    huge = jax.jit(lambda x: jax.numpy.broadcast_to(x, (2**22, 2**22)) + 1)
    with pytest.raises(RuntimeError) as caught:
        jax.block_until_ready(huge(jax.numpy.ones(2**22)))
    assert out_of_memory(caught.value), caught.value
    assert out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm."))
    assert not out_of_memory(RuntimeError("INVALID_ARGUMENT: shapes"))
