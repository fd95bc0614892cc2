"""The command line reads the configuration without paying for Reverb and TensorFlow."""

import pathlib
import subprocess
import sys

from tests.waiting import DEADLINE


def test_config_imports_neither_reverb_nor_tensorflow():
    code = (
        "import sys, bmg.replay.config\n"
        "heavy = {'reverb', 'tensorflow', 'jax', 'launchpad'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
