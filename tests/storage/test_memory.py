"""Freed memory that a process keeps."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


def _page_faults(how: str) -> int:
    """Of the last of many large arrays, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _PASSES, how], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_large_array_comes_from_the_memory_of_the_one_before():
    assert _page_faults("kept") < 100 < 10_000 < _page_faults("as it is")
