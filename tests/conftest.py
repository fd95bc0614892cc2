"""Settings of every test process; they must be made before JAX is imported."""

import contextlib
import os
import sys

if "jax" in sys.modules:
    raise RuntimeError("JAX was imported before tests/conftest.py could set its devices")

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Eight devices, so that data-parallel updates are tested without accelerators.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
# A persistent cache could hand a test a program compiled from other code or for another machine.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

# rlax, the oracle of some tests, cannot be imported after TensorFlow (which Reverb brings): its
# TensorFlow Probability then looks for a newer TensorFlow. The other way round both work.
with contextlib.suppress(ImportError):
    import rlax  # noqa: F401
