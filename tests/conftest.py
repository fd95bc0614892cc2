"""Settings of every test process; they must be made before JAX is imported."""

import atexit
import contextlib
import gc
import importlib.util
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time

import pytest
from hypothesis import HealthCheck, settings

if "jax" in sys.modules:
    raise RuntimeError("JAX was imported before tests/conftest.py could set its devices")

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Eight devices, so that data-parallel updates are tested without accelerators. Each program is
# compiled on one core, since the others have tests of their own: up to a tenth less work.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_cpu_parallel_codegen_split_count=1",
)
# On busy cores the threads of numpy's matrix products wait for each other: 20 ms instead of 0.2.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Tracing makes millions of objects, few of them in cycles: a tenth of the time is saved.
gc.set_threshold(50_000, 50, 100)
# A persistent cache could hand a test a program compiled from other code or for another machine.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
# What commands keep in the user's cache folder goes to one of this session's, which its processes
# share.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="bmg-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# A shell's job in the background ignores Ctrl-C, and so would every command that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples each time, on any machine: however long one takes, or drawing it.
settings.register_profile(
    "tests", database=None, derandomize=True, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("tests")

# Whole files for the marker `long`: they start programs, or train with everything that a run has.
LONG = {
    "benchmarks/test_replay.py", "launch/runtimes/test_runtimes.py",
    "launch/runtimes/test_threads.py", "launch/test_demo.py", "launch/test_lifetimes.py",
    "launch/test_mrp.py", "launch/test_output.py", "launch/test_signals.py",
    "launch/test_snake.py", "launch/test_two_colors.py", "learner/test_hosts.py",
}  # fmt: skip


def pytest_collection_modifyitems(items):
    """Marks the long files; skips the tests marked as needing a package that is not installed."""
    folder = pathlib.Path(__file__).parent
    assert all((folder / name).is_file() for name in LONG)
    for item in items:
        if item.path.is_relative_to(folder) and str(item.path.relative_to(folder)) in LONG:
            item.add_marker(pytest.mark.long)
    for package in ("reverb", "launchpad", "rlax"):
        if importlib.util.find_spec(package) is None:
            reason = f"needs {package}, which is for Linux x86-64 with Python 3.10 alone"
            for item in items:
                if item.get_closest_marker(package):
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def the_same_environment():
    """Commands that run in a test's process set variables, which are another test's user's."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def no_threads_left():
    """A test ends the threads that it starts: one that stays prints into another test's output."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 60
    while (left := ours(set(threading.enumerate()) - before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def ours(threads: set[threading.Thread]) -> list[str]:
    """Names of threads that run this project's functions."""
    targets = {thread.name: getattr(thread, "_target", None) for thread in threads}
    modules = {name: getattr(target, "__module__", None) or "" for name, target in targets.items()}
    return [name for name, module in modules.items() if module.startswith(("bmg.", "tests."))]


@pytest.fixture
def doubles():
    """JAX computes in float64: for finite differences."""
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module")
def quick_compilation():
    """Leaves out the compiler's costly passes; the arithmetic is the same."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def kept_programs():
    """Keeps what is compiled for the session, as `bmg` does for its user: for tests that run the
    same commands several times in their own process."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    from bmg.storage.compiled import keeping_compiled_programs

    kept = keeping_compiled_programs(os.environ)
    if not kept:
        yield
        return
    # All of them: without the size JAX notes no times of use, and the next command removes what it
    # takes for unfinished.
    before = {name: getattr(jax.config, name.lower()) for name in kept}
    for name, value in kept.items():
        was = before[name]
        jax.config.update(name.lower(), value if was is None else type(was)(value))
    compilation_cache.reset_cache()  # it has looked for a folder once, and found none
    yield
    for name, was in before.items():
        jax.config.update(name.lower(), was)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def shared_programs():
    """See `tests.programs`."""
    from tests import programs

    with programs.shared():
        yield


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of one megabyte, where mounting is allowed."""
    from bmg.benchmarks import faults

    with contextlib.ExitStack() as mounted:
        try:
            disk = mounted.enter_context(faults.small_disk(tmp_path, kilobytes=1024))
        except PermissionError as error:
            pytest.skip(str(error))
        yield disk


@pytest.fixture
def pictures(monkeypatch):
    """What the pictures show that are written during the test, see `tests.pictures`."""
    from matplotlib.figure import Figure

    from tests.pictures import Pictures

    found, write = Pictures(), Figure.savefig

    def savefig(figure, path, *arguments, **options):
        found.record(figure, path)
        return write(figure, path, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return found
