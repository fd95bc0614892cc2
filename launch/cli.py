"""The `bmg` command. Nothing heavy is imported before a subcommand needs it."""

from __future__ import annotations

import difflib
import sys

_COMMANDS = {
    "train": ("launch.train", "train an agent: actors, replay, learner, evaluators"),
    "evaluate": ("launch.evaluate", "play episodes with a run's newest checkpoint"),
    "benchmark": ("launch.benchmark", "measure: pipeline, impala, learner"),
    "plot": ("launch.plot", "draw the learning curves of runs"),
}


def _usage() -> str:
    lines = ["usage: bmg COMMAND [OPTIONS]", "", "Bootstrapped meta-gradients, distributed.", ""]
    lines += [f"  {name:<10} {text}" for name, (_, text) in _COMMANDS.items()]
    lines += ["", "bmg COMMAND --help shows a command's options and their defaults."]
    return "\n".join(lines)


def main() -> None:
    """Runs a subcommand; errors that the user can mend are printed in one line, exit code 2."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    name = arguments[0]
    if name not in _COMMANDS:
        near = difflib.get_close_matches(name, _COMMANDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        sys.exit(fail(f"no command {name!r}; there are {', '.join(_COMMANDS)}.{hint}"))
    import importlib

    module = importlib.import_module(_COMMANDS[name][0])
    try:
        sys.exit(module.main(arguments[1:]))
    except (ValueError, OSError) as error:
        sys.exit(fail(str(error)))


def fail(message: str) -> int:
    """Prints an error in one line; the exit code 2."""
    print("bmg: " + " ".join(message.split()), file=sys.stderr)
    return 2
