"""What the commands need of few-shot learning; see `experiments.declaration.Functions`."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from bmg.experiments.declaration import Shown
from bmg.experiments.few_shot import figures, lifetime
from bmg.experiments.few_shot.config import (
    FewShotConfig,
    FewShotEvaluateOptions,
    FewShotFiguresOptions,
    FewShotSuiteOptions,
)
from bmg.experiments.few_shot.data.sets import DataSet, check_tasks
from bmg.experiments.few_shot.data.source import load
from bmg.experiments.few_shot.evaluation import meta_test
from bmg.experiments.lifetime import Lifetime, State
from bmg.experiments.records import Run

__all__ = ["curves", "draw", "evaluate", "make_lifetime", "meta_test", "suite", "summarise"]

DESCRIPTIONS = {
    "meta_loss": "What the meta-learner minimises.",
    "query_loss": "Cross-entropy of the queries after adaptation, nats.",
    "query_accuracy": "Share of the queries that are right after adaptation.",
    "meta_gradient_norm": "Norm of the meta-gradient, before its clip.",
    "cosine": "Cosine of this meta-gradient and the one before (table 6).",
    "variance": "Variance of the meta-gradient (table 6).",
    "norm_over_variance": "Norm of the meta-gradient over its variance (table 6).",
    "validation_accuracy": "Accuracy on tasks of validation classes.",
    "test_accuracy": "Accuracy on tasks of test classes.",
    "test_half_width": "Half the width of its 95 % interval over tasks.",
}


def make_lifetime(config: FewShotConfig) -> Lifetime:
    """A lifetime on the images that the configuration names."""
    found = load_images(config)
    images = lifetime.Images(*(split.images for split in found))
    return lifetime.make_lifetime(config, images)._replace(identity={"images": digest(found)})


def digest(dataset: DataSet) -> str:
    """Of all classes and images: a run goes on with the same, and is evaluated on the same."""
    found = hashlib.sha256()
    for split in dataset:
        found.update(json.dumps([split.names, split.images.shape]).encode())
        found.update(np.ascontiguousarray(split.images))
    return found.hexdigest()[:16]


def load_images(config: FewShotConfig) -> DataSet:
    """What the configuration names, enough for its tasks.

    Raises:
      ValueError: the images cannot be had, or are too few; one line.
    """
    found = load(config.data)
    check_images([split.images for split in found], config)
    return found


def check_images(splits: Sequence[np.ndarray], config: FewShotConfig) -> None:
    """Refuses tasks that there are too few classes or images for.

    Raises:
      ValueError: one line.
    """
    check_tasks(splits, config.ways, config.shots, max(config.queries, config.evaluation_queries))


def summarise(config: FewShotConfig, steps: np.ndarray, columns: dict[str, np.ndarray]) -> dict:
    """Accuracies at the best evaluation of each lifetime by validation, means over seeds."""
    result = {
        "objective": config.objective,
        "inner_steps": config.inner_steps,
        "query_accuracy": float(columns["query_accuracy"][:, -1].mean()),
    }
    at, found = figures.evaluations(steps, columns)
    result["evaluations"] = len(at)
    if len(at):
        best = figures.best_so_far(found)
        result["validation_accuracy"] = float(best["validation_accuracy"][:, -1].mean())
        result["test_accuracy_mean"] = float(best["test_accuracy"][:, -1].mean())
        result["test_accuracy_std"] = float(best["test_accuracy"][:, -1].std())
        result["test_half_width"] = float(best["test_half_width"][:, -1].mean())
    return result


def curves(
    steps: np.ndarray, columns: dict[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For TensorBoard: evaluations where they were, everything else at each row."""
    at, found = figures.evaluations(steps, columns)
    every = [name for name in columns if name not in found and name != "evaluations"]
    return {
        **{name: (at, values) for name, values in found.items()},
        **{name: (steps, columns[name]) for name in every},
    }


def evaluate(
    config: FewShotConfig,
    options: FewShotEvaluateOptions,
    lifetimes: Sequence[State],
    data: lifetime.Images,
) -> Iterable[Shown]:
    """A row for each seed, and one for their mean.

    Raises:
      ValueError: there are too few images for the tasks, or nothing was evaluated yet; one line.
    """
    shots = options.shots or config.shots
    images = getattr(data, options.classes)
    config = dataclasses.replace(
        config, shots=shots, evaluation_tasks=options.tasks, evaluation_steps=options.steps
    )
    check_images(data, config)
    learn = jax.jit(lambda params, images, key: meta_test(params, images, key, config))
    rows, means = [], []
    for seed, state in enumerate(lifetimes, config.first_seed):
        best = state.agent.best
        params, count = state.meta.params, int(state.agent.meta_batches)
        if options.initialisation == "best":
            params, count = best.params, int(best.meta_batches)
            if best.validation_accuracy < 0:
                raise ValueError(
                    f"no evaluation of seed {seed} in {config.workdir} yet; give --initialisation "
                    "last."
                )
        found = learn(params, images, jax.random.PRNGKey(options.seed))
        means.append(100 * float(found.mean))
        rows.append(
            {
                "seed": seed,
                "meta-batches": f"{count:,}",
                "accuracy, %": f"{means[-1]:.2f}",
                "95 % interval": f"± {100 * float(found.half_width):.2f}",
            }
        )
    yield (
        f"{options.tasks} tasks of {options.classes} classes, {config.ways} ways, {shots} shots, "
        f"{options.steps} steps each"
    )
    yield rows
    if len(means) > 1:
        spread = f"{np.mean(means):.2f} % on average, standard deviation {np.std(means):.2f}"
        yield f"{len(means)} seeds: {spread}"


def suite(options: FewShotSuiteOptions) -> dict[str, FewShotConfig]:
    """Table 4: 24 runs of MAML and 24 of BMG."""
    few = tuple(dict.fromkeys(options.inner_steps))
    if len(few) > 1:
        few = tuple(k for k in few if k < max(few))
    switches = (False, True)
    maml = itertools.product(options.meta_learning_rates, options.inner_steps, switches, switches)
    bmg = itertools.product(
        options.meta_learning_rates, few, options.target_steps, ("kl", "reverse_kl")
    )
    shared = {
        "seeds": options.seeds, "steps": options.steps, "ways": options.ways,
        "shots": options.shots, "evaluate_every": min(options.evaluate_every, options.steps),
        "record_every": min(options.record_every, options.steps),
    }  # fmt: skip
    configs = []
    for beta, k, first_order, head_only in maml if options.maml else ():
        configs.append(
            FewShotConfig(
                **shared, objective="maml", meta_learning_rate=beta, inner_steps=k,
                first_order=first_order, head_only=head_only,
            )
        )  # fmt: skip
    for beta, k, length, matching in bmg if options.bmg else ():
        configs.append(
            FewShotConfig(
                **shared, objective="bmg", meta_learning_rate=beta, inner_steps=k,
                target_steps=length, matching=matching,
            )
        )  # fmt: skip
    return {config.label: config for config in configs}


def draw(runs: Sequence[Run], options: FewShotFiguresOptions) -> Iterable[Shown]:
    """Tables 6, 7 and 8, figure 5, and a picture of all runs.

    Raises:
      ValueError: the runs cannot be compared, or none was evaluated; one line.
    """
    tasks = {figures.task_of(run): run.name for run in runs}
    if len(tasks) > 1:
        found = "; ".join(f"{task} ({name})" for task, name in sorted(tasks.items()))
        raise ValueError(f"{options.root} holds runs of different tasks, {found}; part them.")
    evaluated = []
    for run in runs:
        if len(figures.evaluations(run.steps, run.columns)[0]):
            evaluated.append(run)
        else:
            yield (
                f"{run.name} is left out: it has no evaluation up to {run.steps[-1]:,} "
                f"meta-batches, with --evaluate-every {run.config.evaluate_every}"
            )
    seeds = min((len(run.columns["evaluations"]) for run in evaluated), default=0)
    if any(len(run.columns["evaluations"]) > seeds for run in evaluated):
        yield f"of each run the first {seeds} seeds are compared, which all have"
    runs = [
        run._replace(columns={name: x[:seeds] for name, x in run.columns.items()})
        for run in evaluated
    ]
    if not runs:
        raise ValueError(f"no run in {options.root} has been evaluated: nothing is drawn.")
    yield f"{next(iter(tasks))}, {len(runs)} runs"
    minutes = figures.minutes_by_runs(pathlib.Path(options.root))
    if options.speeds:
        minutes = figures.minutes_by_table(pathlib.Path(options.speeds))
    yield "Table 6: meta-gradients, means over the last half"
    yield figures.table_6(runs)
    yield "Table 7: the best configuration by meta-batches, chosen by validation"
    yield figures.table_7(runs)
    yield "Table 8: by the minutes of one lifetime"
    yield figures.table_8(runs, minutes)
    output = options.folder
    yield figures.draw_figure_5(runs, minutes, output)
    yield figures.draw_runs(runs, output)
