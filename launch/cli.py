"""The `bmg` command. Nothing heavy is imported before a subcommand needs it, and nothing at all
before signals are answered."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

from bmg.launch import environment, output, provenance, signals
from bmg.storage.files import reason
from bmg.storage.memory import keep_freed_memory, out_of_memory

# A command's module, or an experiment's declaration.
_COMMANDS = {
    "demo": ("bmg.launch.demo", "BMG beside a fixed entropy weight, live, in three minutes"),
    "train": ("bmg.launch.train", "train an agent: actors, replay, learner, evaluators"),
    "actors": ("bmg.launch.actors", "join a run on another machine with actors of this one"),
    "pod": (
        "bmg.launch.hosts.pod",
        "several hosts as one run: a TPU slice, or processes here",
    ),
    "evaluate": ("bmg.launch.evaluate", "play episodes with a run's newest checkpoint"),
    "watch": ("bmg.launch.watch", "draw an episode whenever a run has a newer checkpoint"),
    "diagnose": ("bmg.launch.diagnose", "a run's meta-gradients under each reading of the paper"),
    "two-colors": (
        "bmg.experiments.two_colors:EXPERIMENT",
        "the paper's controlled experiment (section 5.1)",
    ),
    "mrp": (
        "bmg.experiments.mrp:EXPERIMENT",
        "multi-step meta-gradients on the Markov reward process",
    ),
    "snake": (
        "bmg.experiments.snake:EXPERIMENT",
        "multi-step meta-gradients of A2C on Snake",
    ),
    "few-shot": (
        "bmg.experiments.few_shot:EXPERIMENT",
        "MAML and BMG over tasks of images (section 6)",
    ),
    "lpg": (
        "bmg.experiments.lpg:EXPERIMENT",
        "meta-learn an update rule in toy worlds (LPG)",
    ),
    "benchmark": (
        "bmg.launch.benchmark",
        "measure speed and memory of system and experiments",
    ),
    "suite": ("bmg.launch.suite", "compare IMPALA, STACX and BMG over games and seeds"),
    "sweep": ("bmg.launch.sweep", "train over games, seeds and settings, here or on SLURM"),
    "report": ("bmg.launch.report", "compare runs over games by human-normalised scores"),
    "completion": ("bmg.launch.completion", "what a shell reads to complete commands and options"),
    "plot": ("bmg.launch.plot", "draw the learning curves of runs"),
    "wandb": ("bmg.launch.mirror", "send what runs have written to Weights & Biases"),
    "runs": ("bmg.launch.runs", "list runs: how far they are, returns, state"),
}
# A step in this process takes arrays of many megabytes: it is faster where memory is kept. Steps on
# small ones are faster where each thread has a pool of its own: two colours by a fifth.
_LARGE_ARRAYS = {"few-shot", "lpg", "suite", "train"}
_QUIET = "--quiet"
_SMALLER = "give smaller sizes, such as of batches and networks, or fewer seeds."
_LONGEST = 300  # characters of a word in an error
_MORE = (
    "COMMAND may be package.module:NAME, your own experiment; --help after it, --quiet before it."
)


def main() -> None:
    """The program: ends the process with the command's exit code."""
    if _has_large_arrays(sys.argv[1:]):
        keep_freed_memory()  # before there are threads
    code = run(sys.argv[1:])
    signals.ignore()  # it is over
    sys.exit(code)


def _has_large_arrays(arguments: list[str]) -> bool:
    """Whether the command, or what is measured, is one of those."""
    words = arguments[1:] if arguments[:1] == [_QUIET] else arguments
    words = words[1:] if words[:1] == ["benchmark"] else words
    return words[:1] != [] and words[0] in _LARGE_ARRAYS


def run(arguments: list[str]) -> int:
    """Runs a subcommand.

    Returns:
      The exit code; 2 for an error that the user can mend, which is printed in one line.
    """
    provenance.note_command(arguments)
    environment.tidy()  # the declarations of experiments import JAX
    with signals.handled(), output.unbreakable():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    from bmg.launch.options import choose

    if arguments[:1] == [_QUIET]:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return _run(arguments[1:])
    if arguments == ["--version"]:
        from bmg import __version__

        print(f"bmg {__version__}")
        return 0
    meanings = {name: text for name, (_, text) in _COMMANDS.items()}
    try:
        if arguments and ":" in arguments[0]:  # package.module:NAME, somebody's own experiment
            target = arguments[0]
        else:
            command = choose("bmg", "command", meanings, arguments, _MORE)
            if command is None:
                return 0
            target, _ = _COMMANDS[command]
        if ":" in target:
            from bmg.launch import experiment

            return experiment.main(target, arguments[1:])
        return importlib.import_module(target).main(arguments[1:])
    except ModuleNotFoundError as error:  # what an extra would have installed
        if not error.name or error.name.partition(".")[0] == "bmg":
            raise
        return fail(f"{error.name} is not installed; give pip install 'bmg[all]', or make setup.")
    except FileExistsError as error:  # where a folder should be made
        return fail(f"{reason(error)}; give another one.")
    except OSError as error:  # no permission, a full disk
        return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ValueError as error:
        return fail(str(error))
    except KeyboardInterrupt:  # what was begun is tidied up
        return signals.EXIT_CODE
    except MemoryError as error:  # numpy names the array
        return fail(f"not enough memory ({str(error) or 'of this machine'}); {_SMALLER}")
    except RuntimeError as error:  # an accelerator that JAX cannot use
        if out_of_memory(error):
            return fail(f"not enough memory ({str(error).splitlines()[0]}); {_SMALLER}")
        if "Unable to initialize backend" not in str(error):
            raise
        return fail(str(error))


def fail(message: str) -> int:
    """Prints an error in one line, which a terminal takes for nothing but text; the exit code 2."""
    from bmg.launch.options import BAD_INPUT

    print("bmg: " + " ".join(_printable(word) for word in message.split()), file=sys.stderr)
    return BAD_INPUT


def _printable(word: str) -> str:
    """Without control characters, and not endless: a path that was typed may be both."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in word[: _LONGEST + 1])
    return text if len(word) <= _LONGEST else f"{text[:_LONGEST]}..."
