"""A small language for which fields a document may have, for what is somebody else's format.

A type stands for a value of it; a set for one of its members; [x] for a list of x; {name: x} for an
object with no other fields, where "name!" must be there; {str: x} for any names.
"""

from __future__ import annotations

from typing import Any


def problems(value: Any, allowed: Any, path: str = "") -> list[str]:
    """What of a value is not allowed, each as "path: what"; empty where all is well."""
    if isinstance(allowed, set):
        return [] if value in allowed else [f"{path}: {value!r}"]
    if isinstance(allowed, list):
        if not isinstance(value, list):
            return [f"{path}: no list"]
        return [x for i, one in enumerate(value) for x in problems(one, allowed[0], f"{path}[{i}]")]
    if not isinstance(allowed, dict):
        return [] if type(value) is allowed else [f"{path}: {type(value).__name__}"]
    if not isinstance(value, dict):
        return [f"{path}: no object"]
    if str in allowed:
        return [
            x for name, one in value.items() for x in problems(one, allowed[str], f"{path}.{name}")
        ]
    known = {name.rstrip("!"): one for name, one in allowed.items()}
    wrong = [f"{path}.{name}: unknown" for name in value.keys() - known.keys()]
    wrong += [f"{path}.{x[:-1]}: missing" for x in allowed if x[-1] == "!" and x[:-1] not in value]
    for name in value.keys() & known.keys():
        wrong += problems(value[name], known[name], f"{path}.{name}")
    return sorted(wrong)
