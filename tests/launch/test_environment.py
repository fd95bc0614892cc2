"""What of a user's environment a run sees: nothing that changes what it computes or whom it meets,
without a word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bmg.launch import environment
from tests.launch import commands
from tests.waiting import DEADLINE

DROPPED = """
    http_proxy https_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY all_proxy no_proxy NO_PROXY grpc_proxy
    GRPC_POLL_STRATEGY GRPC_DNS_RESOLVER GRPC_EXPERIMENTS JAX_ENABLE_X64 NPY_PROMOTION_STATE
    JAX_DEFAULT_MATMUL_PRECISION JAX_DEFAULT_PRNG_IMPL JAX_DEFAULT_DTYPE_BITS JAX_ENABLE_CUSTOM_PRNG
    JAX_NUMPY_RANK_PROMOTION JAX_NUMPY_DTYPE_PROMOTION JAX_THREEFRY_PARTITIONABLE
    JAX_RANDOM_SEED_OFFSET PYTHONWARNINGS PYTHONINSPECT PYTHONOPTIMIZE MPLBACKEND TF_CONFIG
    CLUSTER_SPEC
""".split()
NAMED = """
    XLA_FLAGS XLA_PYTHON_CLIENT_MEM_FRACTION JAX_PLATFORMS JAX_DISABLE_JIT JAX_DEBUG_NANS
    JAX_COMPILATION_CACHE_DIR GRPC_VERBOSITY GRPC_TRACE LIBTPU_INIT_ARGS PYTHONMALLOC TF_XLA_FLAGS
""".split()
KEPT = """
    PATH HOME LANG LC_ALL TMPDIR PYTHONPATH PYTHONHOME PYTHONHASHSEED PYTHONUNBUFFERED
    OMP_NUM_THREADS TF_CPP_MIN_LOG_LEVEL CUDA_VISIBLE_DEVICES GRPC_DEFAULT_SSL_ROOTS_FILE_PATH
    TF2_BEHAVIOR TPU_SKIP_MDS_QUERY
""".split()


def test_the_list():
    """Each name is dropped, named or kept, as it stands here."""
    variables = dict.fromkeys((*DROPPED, *NAMED, *KEPT), "1") | {"JAX_PLATFORMS": "cpu"}
    environment.clean(variables)
    line = environment.report(variables)
    assert "\n" not in line
    for name in DROPPED:
        assert name not in variables and f"left out {name} (" in line, name
    for name in NAMED:
        assert f"{name}={variables[name]} (" in line, name
    for name in KEPT:
        assert variables[name] == "1" and f" {name}" not in line, name


def test_every_option_of_jax_has_been_thought_of():
    """None is kept in silence."""
    import jax

    names = [name.upper() for name in dir(jax.config) if name.startswith("jax_")]
    assert len(names) > 50
    for name in names:
        assert environment.rule_of(name).action in ("drop", "name"), name


def test_a_platform_that_is_not_there_is_refused(command):
    for names in ("cuda", "cpu,rocm", "nonsense"):
        with pytest.raises(ValueError, match=f"JAX_PLATFORMS is '{names}', and here is cpu"):
            environment.clean({"JAX_PLATFORMS": names})
    environment.clean({"JAX_PLATFORMS": "cpu"})
    environment.clean({"JAX_PLATFORMS": ""})


def test_nothing_is_said_of_nothing():
    variables = {"PATH": "/bin"}
    environment.clean(variables)
    assert environment.report(variables) == "" and environment.report({}) == ""
    assert variables["PYTHONUTF8"] == "1"


def test_what_was_left_out_is_known_to_the_program_that_is_executed_again():
    variables = {"http_proxy": "http://x", "XLA_FLAGS": "--a"}
    environment.clean(variables)
    before = environment.report(variables)
    environment.clean(variables)
    assert environment.report(variables) == before and "http_proxy" in before


def test_of_a_launchers_own_variables_nothing_is_said():
    variables = {"XLA_FLAGS": "--a"}
    environment.clean(variables)
    ours = environment.expected(variables, XLA_FLAGS="--a --b", JAX_PLATFORMS="cpu")
    environment.clean(ours)
    assert ours["XLA_FLAGS"] == "--a --b" and ours["JAX_PLATFORMS"] == "cpu"
    expected = "environment: XLA_FLAGS=--a (changes how programs are compiled and placed)"
    assert environment.report(ours) == expected


def test_values_reach_the_terminal_in_one_line_and_escaped():
    variables = {"XLA_FLAGS": "a\nb\x1b[31m" + "x" * 1_000}
    environment.clean(variables)
    line = environment.report(variables)
    assert "\n" not in line and "\x1b" not in line and len(line) < 250


EXPERIMENTS = ("two-colors", "mrp", "snake", "few-shot", "lpg")


def test_experiments_compute_in_float32_whatever_is_set(tmp_path):
    """Their declarations import JAX, which reads its variables then."""
    program = (
        "from bmg.launch.cli import run\n"
        f"codes = [run([name, '--steps', '0']) for name in {EXPERIMENTS}]\n"
        "import jax\n"
        "assert codes == [2] * 5 and not jax.config.jax_enable_x64\n"
        "assert jax.config.jax_default_matmul_precision is None\n"
        "print('fine')\n"
    )
    hostile = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"}
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path,
        env={**commands.environment(), **hostile}, capture_output=True, text=True,
        timeout=DEADLINE,
    )  # fmt: skip
    assert process.stdout.endswith("fine\n"), process.stderr


@pytest.mark.slow
def test_a_run_in_a_hostile_environment(tmp_path):
    """It learns as it does without: in float32, past the proxy, and says what it left out."""
    hostile = {
        "http_proxy": "http://192.0.2.1:9", "JAX_ENABLE_X64": "1", "PYTHONWARNINGS": "error",
        "JAX_NUMPY_RANK_PROMOTION": "raise", "MPLBACKEND": "nonsense", "LC_ALL": "C",
    }  # fmt: skip
    arguments = "train --game catch --frames 4000 --workdir run".split()
    arguments += ["--evaluator.num-evaluators", "0"]
    process = subprocess.run(
        [*commands.BMG, *arguments], cwd=tmp_path, env={**commands.environment(), **hostile},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    for name in hostile.keys() - {"LC_ALL"}:
        assert f"left out {name} (" in process.stdout
    # Without any of it the run is the same one.
    code, out, err = commands.bmg(
        *"train --resume --workdir run --frames 4800".split(), cwd=tmp_path
    )
    assert code == 0 and "another agent" not in out + err, out + err
    assert "left out" not in out


def test_the_interpreter_that_runs_this_reads_no_variable_of_the_list():
    """Else the tests would have to be cleaned as well."""
    assert not [name for name in DROPPED if name.startswith(("JAX", "NPY")) and name in os.environ]
    assert sys.flags.optimize == 0


def test_where_compiled_programs_are_kept_is_set_in_silence(tmp_path):
    """And again in a program that is executed in this one's place."""
    variables = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    for _ in range(2):
        environment.clean(variables)
        assert environment.report(variables) == ""
    kept = variables.get("JAX_COMPILATION_CACHE_DIR")
    assert (kept or "").startswith(str(tmp_path)) or not any(tmp_path.iterdir())
