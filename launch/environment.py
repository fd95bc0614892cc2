"""What of the user's environment a run may see: a variable that changes what libraries do is left
out, or is named in a line before the run starts.

The table was made by going through the documentation and the sources of gRPC, JAX, XLA, numpy,
TensorFlow, matplotlib and Python 3.10. The first pattern that fits decides, in capital letters.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

from bmg.storage.compiled import keeping_compiled_programs

_NOTED = "BMG_ENVIRONMENT"  # what was found, for the program that this one is executed as again


class Rule(NamedTuple):
    """What is done about the variables of a name."""

    pattern: str
    action: str  # drop, name, or keep, of which nothing is said
    why: str


RULES = [
    # gRPC, which Reverb, courier and jax.distributed talk by, sends even the loopback to a proxy.
    Rule("*_PROXY", "drop", "a run's processes talk to each other alone"),
    Rule("GRPC_VERBOSITY", "name", "more in the logs"),
    Rule("GRPC_TRACE", "name", "more in the logs"),
    Rule("GRPC_DEFAULT_SSL_ROOTS_*", "keep", "certificates, which no run uses"),
    Rule("GRPC_*", "drop", "changes how a run's processes are connected"),
    # What JAX computes: results, and which checkpoints fit.
    Rule("JAX_ENABLE_X64", "drop", "trains in float64"),
    Rule("JAX_DEFAULT_*", "drop", "changes types, precision or random numbers"),
    Rule("JAX_NUMPY_*", "drop", "changes types"),
    Rule("JAX_ENABLE_CUSTOM_PRNG", "drop", "changes random numbers"),
    Rule("JAX_LEGACY_PRNG_KEY", "drop", "changes random numbers"),
    Rule("JAX_HIGH_DYNAMIC_RANGE_GUMBEL", "drop", "changes random numbers"),
    Rule("JAX_SOFTMAX_CUSTOM_JVP", "drop", "changes derivatives"),
    Rule("JAX_DYNAMIC_SHAPES", "drop", "changes the compiled programs"),
    Rule("JAX_RANDOM_SEED_OFFSET", "drop", "changes random numbers"),
    Rule("JAX_THREEFRY_*", "drop", "changes random numbers"),
    Rule("JAX_EXEC_TIME_*", "drop", "changes the compiled programs"),
    Rule("JAX_*", "name", "changes how JAX compiles, places or reports"),
    Rule("XLA_*", "name", "changes how programs are compiled and placed"),
    Rule("LIBTPU_INIT_ARGS", "name", "changes how programs are compiled"),
    Rule("TPU_SKIP_MDS_QUERY", "keep", "JAX sets it for itself"),
    Rule("TPU_*", "name", "changes how a TPU is found"),
    Rule("*_NUM_THREADS", "keep", "changes speed alone; batch systems set it for every job"),
    Rule("KMP_*", "keep", "changes speed alone"),
    Rule("NPY_PROMOTION_STATE", "drop", "changes types"),
    Rule("NPY_*", "name", "changes how numpy computes"),
    Rule("NUMPY_*", "name", "changes how numpy computes"),
    Rule("TF_XLA_FLAGS", "name", "changes how programs are compiled"),
    Rule("TF_CONFIG", "drop", "Launchpad would take this machine for a part of another cluster"),
    Rule("CLUSTER_SPEC", "drop", "Launchpad would take this machine for a part of another cluster"),
    Rule("TF2_BEHAVIOR", "keep", "TensorFlow sets it for itself"),
    Rule("NVIDIA_TF32_OVERRIDE", "drop", "changes precision"),
    Rule("NCCL_*", "name", "changes how devices are connected"),
    Rule("MPLBACKEND", "drop", "pictures are drawn without a display"),
    Rule("PYTHONINSPECT", "drop", "processes would not end"),
    Rule("PYTHONWARNINGS", "drop", "a warning of a library would be an error"),
    Rule("PYTHONOPTIMIZE", "drop", "checks and help texts would be left out"),
    Rule("PYTHONDEVMODE", "name", "slower, with more checks"),
    Rule("PYTHONMALLOC*", "name", "slower, with more checks"),
    Rule("PYTHONTRACEMALLOC", "name", "slower"),
    Rule("PYTHONPROFILEIMPORTTIME", "name", "more in the logs"),
    Rule("PYTHONVERBOSE", "name", "more in the logs"),
    # Neither what is read or written nor a number's form depends on a locale: Python parses and
    # prints numbers alike in all, and the processes of a run read and write UTF-8 (see `clean`).
    Rule("PYTHON*", "keep", "where Python finds modules, and its own files"),
]


def rule_of(name: str) -> Rule | None:
    """What is done about a variable; None for one that changes nothing here."""
    return next((rule for rule in RULES if fnmatch.fnmatchcase(name.upper(), rule.pattern)), None)


def clean(environment: MutableMapping[str, str] = os.environ) -> None:
    """What a run begins with: `tidy`, and a look at what would stop JAX.

    Raises:
      ValueError: JAX is to use a platform that is not installed; one line.
    """
    _check_platforms(environment.get("JAX_PLATFORMS", ""))
    tidy(environment)


def tidy(environment: MutableMapping[str, str] = os.environ) -> None:
    """Takes out of the environment what a run must not see, keeps for `report` what was found, and
    adds where compiled programs are kept; before JAX is imported, which reads it then. Programs
    that are executed or started later inherit it."""
    found = json.loads(environment.get(_NOTED, "{}"))
    for name in sorted(environment):
        rule = rule_of(name)
        if rule is None or rule.action == "keep":
            continue
        if rule.action == "drop":
            del environment[name]
            found[name] = f"left out {name} ({rule.why})"
        else:
            found.setdefault(name, f"{name}={_short(environment[name])} ({rule.why})")
    ours = keeping_compiled_programs(environment)
    environment |= ours
    environment[_NOTED] = json.dumps({**dict.fromkeys(ours, ""), **found})
    environment["PYTHONUTF8"] = "1"  # read by processes that are started from here


def _short(value: str) -> str:
    return value if len(value) <= 80 else value[:77] + "..."


def _check_platforms(names: str) -> None:
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    there = {"cpu", *(["tpu"] if importlib.util.find_spec("libtpu") else [])}
    for name in filter(None, names.split(",")):
        if name not in there and not plugins:  # whose names are not those of their platforms
            raise ValueError(
                f"JAX_PLATFORMS is {names!r}, and here is {', '.join(sorted(there))} alone; unset "
                "it, or install what it names."
            )


def expected(environment: Mapping[str, str], **ours: str) -> dict[str, str]:
    """An environment for a program that is started from here, with variables of which nothing is
    said there."""
    found = json.loads(environment.get(_NOTED, "{}"))
    noted = json.dumps({**dict.fromkeys(ours, ""), **found})
    return {**environment, **ours, _NOTED: noted}


def report(environment: Mapping[str, str] = os.environ) -> str:
    """What was found, in one line; nothing where nothing was."""
    found = json.loads(environment.get(_NOTED, "{}"))
    text = "; ".join(" ".join(ascii(line)[1:-1].split()) for line in found.values() if line)
    return f"environment: {text}" if text else ""
