"""`bmg pod`: several hosts as one run, on a Cloud TPU slice or as processes of this machine."""

from __future__ import annotations

from bmg.launch.options import choose

_COMMANDS = {
    "local": "the same workers as processes of this machine, each a host with CPU devices",
    "create": "make a TPU slice",
    "run": "ship the code, install it, start every worker, show worker 0's console",
    "status": "the slice's state, and every worker's",
    "logs": "show a worker's console",
    "stop": "end the run in order; with --delete the slice as well",
    "resume": "go on with a run that was stopped or interrupted",
}
_MORE = "All but local call gcloud; --dry-run prints what they would call."


def main(arguments: list[str]) -> int:
    """Runs `bmg pod COMMAND`.

    Raises:
      ValueError: bad input; one line.
    """
    command = choose("bmg pod", "command", _COMMANDS, arguments, _MORE)
    if command is None:
        return 0
    if command == "local":
        from bmg.launch.hosts import local_pod

        return local_pod.main(arguments[1:])
    from bmg.launch.hosts import tpu

    return tpu.main(command, arguments[1:])
