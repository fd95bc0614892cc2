"""`bmg pod`: several hosts as one run, on a Cloud TPU slice or as processes of this machine."""

from __future__ import annotations

from launch.options import check_name

_COMMANDS = {
    "local": "the same workers as processes of this machine, each a host with CPU devices",
    "create": "make a TPU slice",
    "run": "ship the code, install it, start every worker, show worker 0's console",
    "status": "the slice's state, and every worker's",
    "logs": "show a worker's console",
    "stop": "end the run in order; with --delete the slice as well",
    "resume": "go on with a run that was stopped or interrupted",
}


def main(arguments: list[str]) -> int:
    """Runs `bmg pod COMMAND`.

    Raises:
      ValueError: bad input; one line.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: bmg pod COMMAND [OPTIONS]\n")
        print("\n".join(f"  {name:<7} {text}" for name, text in _COMMANDS.items()))
        print("\nAll but local call gcloud; --dry-run prints what they would call.")
        return 0
    command, *rest = arguments
    check_name("pod command", command, _COMMANDS)
    if command == "local":
        from launch import local_pod

        return local_pod.main(rest)
    from launch import tpu

    return tpu.main(command, rest)
