"""`bmg suite minatar`: methods compared over games and seeds; the sweep that their settings were
chosen by; tables and pictures."""

from __future__ import annotations

import itertools
import shlex

from bmg.launch import environment
from bmg.launch.options import choose, parse_options
from bmg.launch.pictures import no_picture
from bmg.launch.suites import minatar
from bmg.launch.suites.options import CompareOptions, FiguresOptions, RunsOptions, TuneOptions
from bmg.launch.tables import print_table

_SUITES = {"minatar": "IMPALA, STACX and BMG on MinAtar's five games, in one compiled program"}
_BELOW = {
    "tune": "the sweep that the settings were chosen by, of IMPALA alone",
    "figures": "print and draw what a table of finished runs comes to",
}
_FEW = 3  # seeds, below which an interval means little


def main(arguments: list[str]) -> int:
    """Runs `bmg suite SUITE`.

    Returns:
      The exit code: 0 complete, 1 some runs failed, 130 stopped by Ctrl-C.

    Raises:
      ValueError: bad input, one line.
    """
    if choose("bmg suite", "suite", _SUITES, arguments) is None:
        return 0
    words = arguments[1:]
    if words[:1] == ["tune"]:
        return tune(words[1:])
    if words[:1] == ["figures"]:
        return figures(words[1:])
    if words[:1] in (["-h"], ["--help"]):
        width = max(map(len, _BELOW))
        for word, meaning in _BELOW.items():
            print(f"bmg suite minatar {word:<{width}}   {meaning}")
        print()
    return compare(words)


def compare(arguments: list[str]) -> int:
    """Trains what is missing of every method on every game."""
    from bmg.launch.suites.runs import run_all

    options = parse_options(CompareOptions, "bmg suite minatar", arguments)
    configs = {
        (game, method): _run_of(minatar.agent_of(method), game, options)
        for game, method in itertools.product(options.games, options.methods)
    }
    again = shlex.join(["bmg", "suite", "minatar", *arguments])
    code = run_all("minatar", options, configs, again)
    if not code:
        print(f"complete: {options.table}")
    return code


def tune(arguments: list[str]) -> int:
    """Trains IMPALA with each combination of settings, and prints what each comes to."""
    from bmg.launch.suites.runs import run_all

    options = parse_options(TuneOptions, "bmg suite minatar tune", arguments)
    settings = {
        f"rate{rate:g}-entropy{entropy:g}-clip{norm:g}": (rate, entropy, norm)
        for rate, entropy, norm in itertools.product(
            options.learning_rates, options.entropy_costs, options.max_norms
        )
    }
    configs = {
        (game, name): _run_of(minatar.impala_of(*values), game, options)
        for game, (name, values) in itertools.product(options.games, settings.items())
    }
    again = shlex.join(["bmg", "suite", "minatar", "tune", *arguments])
    code = run_all("minatar tune", options, configs, again)
    if not code:
        _show_sweep(options, settings)
    return code


def _show_sweep(options: TuneOptions, settings: dict[str, tuple[float, float, float]]) -> None:
    """A row for each combination, the best one first; name -> rate, entropy cost, clip."""
    from bmg.experiments.comparison import statistics
    from bmg.experiments.comparison.figures import gather
    from bmg.experiments.comparison.table import read_table

    def score(run) -> float:
        return run.late_return

    comparison, notes = gather(read_table(options.table), options.games, tuple(settings), score)
    for note in notes:
        print(note)
    returns = comparison.matrix(score)
    scores = statistics.normalise(returns, _chance(comparison.games))
    rows = [
        {"learning rate": f"{rate:g}", "entropy cost": f"{entropy:g}", "clip": f"{norm:g}",
         **dict(zip(comparison.games, map(float, returns[name].mean(0)))),
         "score": float(scores[name].mean())}
        for name, (rate, entropy, norm) in settings.items() if name in returns
    ]  # fmt: skip
    print_table(sorted(rows, key=lambda row: -row["score"]))


def figures(arguments: list[str]) -> int:
    """Prints and draws what a table of finished runs comes to."""
    from bmg.experiments.comparison import figures as shown
    from bmg.experiments.comparison import statistics
    from bmg.experiments.comparison.table import read_table

    options = parse_options(FiguresOptions, "bmg suite minatar figures", arguments)
    runs = read_table(options.table)
    if not runs:
        raise ValueError(
            f"no runs in {options.table}; give the --root of a suite that has finished ones, or "
            "their table, --results."
        )
    late = options.score == "late"

    def score(run) -> float:
        return run.late_return if late else run.evaluation_return

    remedy = "give --score evaluation, or run more steps" if late else "run more steps"
    comparison, notes = shown.gather(runs, options.games, options.methods, score, remedy)
    environment.clean()
    for note in notes:
        print(note)
    if few := [m for m, seeds in comparison.seeds.items() if len(seeds) < _FEW]:
        print(f"fewer than {_FEW} seeds, whose intervals mean little: {', '.join(few)}")

    print_table(shown.returns_rows(comparison, score))
    scores = statistics.normalise(comparison.matrix(score), _chance(comparison.games))
    aggregates = statistics.aggregates(scores, options.resamples)
    print_table(shown.aggregate_rows(aggregates))
    pairs = shown.pairs_of(comparison.methods, minatar.ORDERS)
    improvements = statistics.improvements(scores, pairs, options.resamples)
    print_table(shown.improvement_rows(improvements))
    folder = options.pictures
    try:
        for path in shown.draw(
            comparison, scores, aggregates, improvements, options.resamples, folder
        ):
            print(path)
    except OSError as error:
        raise no_picture(folder, error) from None
    return 0


def _run_of(agent, game: str, options: RunsOptions):
    return minatar.run_of(agent, game, options.steps, options.seeds, options.first_seed)


def _chance(games):
    """Returns of a random policy, [G]."""
    import numpy as np

    return np.array([minatar.RANDOM_RETURNS[game] for game in games])
