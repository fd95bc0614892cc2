"""A meta-batch, what it records, evaluations, the sweep, and what is chosen from its results."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from bmg.experiments import runner
from bmg.experiments.few_shot import experiment, figures, lifetime
from bmg.experiments.few_shot.adaptation import make_task_gradient
from bmg.experiments.few_shot.config import (
    FewShotConfig,
    FewShotFiguresOptions,
    FewShotSuiteOptions,
)
from bmg.experiments.few_shot.evaluation import meta_test
from bmg.experiments.few_shot.tasks import sample_task
from bmg.experiments.lifetime import Lifetime, State
from bmg.experiments.records import Run
from bmg.experiments.runner import Runner
from bmg.meta.side_by_side import SHARDS
from bmg.storage.checkpoint import CheckpointError
from bmg.storage.fields import FieldError
from tests.experiments.few_shot import oracle
from tests.programs import once

pytestmark = [
    pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation", "shared_programs"),
]  # fmt: skip
make_lifetime = once(lifetime.make_lifetime)
KEY = jax.random.PRNGKey(0)
SMALL = dataclasses.replace(
    oracle.SMALL, inner_steps=1, target_steps=1, meta_gradient_clip=0.0, record_every=2, steps=5,
    evaluate_every=2, evaluation_tasks=5, evaluation_steps=3, evaluation_queries=2,
)  # fmt: skip
RNG = np.random.default_rng(0)
IMAGES = lifetime.Images(
    *(RNG.integers(0, 256, (classes, 8, *oracle.SHAPE)).astype(np.uint8) for classes in (7, 5, 5))
)
task_gradient = jax.jit(make_task_gradient(oracle.small_network(), SMALL))
draw_task = jax.jit(sample_task, static_argnums=(2, 3, 4))


@functools.cache
def meta_tested(config: FewShotConfig):
    return jax.jit(lambda params, images, key: meta_test(params, images, key, config))


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@pytest.mark.parametrize("devices", [1, 2])
def test_two_meta_batches_and_their_records(devices, monkeypatch):
    """On one device, and with the tasks spread over two."""
    there = jax.devices()[:devices]
    monkeypatch.setattr(jax, "devices", lambda: there)
    found = make_lifetime(SMALL, IMAGES)
    alone = Runner(found, 1, 7, 1)
    assert len(alone.devices) == devices
    begin = alone.lifetime(0)
    alone.advance()
    first = alone.lifetime(0)
    alone.advance()
    second = alone.lifetime(0)
    _, columns = alone.records.means(2)
    assert set(columns) == set(found.columns)
    one, two = ({name: x[0, i] for name, x in columns.items()} for i in range(2))
    assert (one["evaluations"], two["evaluations"]) == (0, 1)
    before, now = (flat(state.agent.gradient) for state in (first, second))
    norm = np.linalg.norm
    np.testing.assert_allclose(one["meta_gradient_norm"], norm(before), rtol=1e-5)
    assert one["cosine"] == 0
    cosine = before @ now / (norm(before) * norm(now))
    np.testing.assert_allclose(two["cosine"], cosine, rtol=1e-4)
    ratio = two["meta_gradient_norm"] / two["variance"]
    np.testing.assert_allclose(two["norm_over_variance"], ratio, rtol=1e-5)
    # The meta-gradient is that of tasks of the training classes, and Adam takes it.
    _, sample_key, task_key = jax.random.split(begin.key, 3)
    sizes = SMALL.ways, SMALL.shots, SMALL.queries
    keys = (jax.random.split(key, SMALL.meta_batch) for key in (sample_key, task_key))
    of_tasks = [
        task_gradient(begin.meta.params, draw_task(sample_key, IMAGES.train, *sizes), key)
        for sample_key, key in zip(*keys)
    ]
    mean = np.mean([flat(found.gradient) for found in of_tasks], axis=0)
    np.testing.assert_allclose(before, mean, atol=1e-5)
    # Adam's first step: of one size, along the signs.
    step = SMALL.meta_learning_rate * before / (np.abs(before) + 1e-8)
    expected = flat(begin.meta.params) - step
    np.testing.assert_allclose(flat(first.meta.params), expected, atol=1e-6)
    # The evaluation is of the new meta-parameters, on classes of their own.
    for seed, split in enumerate(("validation", "test")):
        key, images = jax.random.PRNGKey(seed), getattr(IMAGES, split)
        accuracy = meta_tested(SMALL)(second.meta.params, images, key)
        np.testing.assert_allclose(two[f"{split}_accuracy"], accuracy.mean, atol=1e-6)


@functools.cache
def evaluation(config: FewShotConfig):
    """(params, meta-batches) -> what is evaluated then, compiled."""
    settled = config.settled("cpu")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), (SHARDS,))
    mapped = jax.shard_map(
        lambda params, count: lifetime.evaluate_sometimes(params, count, IMAGES, settled),
        mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False,
    )  # fmt: skip
    return jax.jit(mapped).lower(oracle.some_params(), np.int32(2)).compile()


def test_an_evaluation_that_is_never_due_is_not_compiled():
    config = dataclasses.replace(SMALL, steps=1)
    runner = Runner(make_lifetime(config, IMAGES), 1, 0, 1)
    assert "conditional" not in runner.compile().as_text()
    assert "conditional" in evaluation(SMALL).as_text()
    runner.advance()
    _, columns = runner.records.means(1)
    assert columns["evaluations"] == 0 and columns["query_loss"] > 0


def test_an_evaluation_past_the_end_is_none():
    """A chunk of an accelerator goes on past the end of a run, whose results know nothing of it."""
    runner = Runner(make_lifetime(SMALL, IMAGES), 1, 0, 1)
    for _ in range(6):
        runner.advance()
    _, columns = runner.records.means(6)
    assert columns["evaluations"].tolist() == [[0, 1, 0, 1, 0, 0]]
    best = runner.lifetime(0).agent.best
    accuracy = columns["validation_accuracy"][0]
    assert best.meta_batches == 1 + np.argmax(accuracy)
    assert best.validation_accuracy == np.float32(accuracy.max())


def test_the_clip_is_of_each_element():
    gradient = {"a": jnp.array([30.0, -2.0]), "b": jnp.array([-11.0])}

    def moments(config):  # 0.1 of the first gradient
        optimizer = lifetime.make_optimizer(config)
        _, state = jax.jit(lambda g: optimizer.update(g, optimizer.init(g)))(gradient)
        return state[1][0].mu

    found = moments(FewShotConfig())
    np.testing.assert_allclose(found["a"], [1.0, -0.2], rtol=1e-6)
    np.testing.assert_allclose(found["b"], [-1.0], rtol=1e-6)
    found = moments(FewShotConfig(meta_gradient_clip=0.0))
    np.testing.assert_allclose(found["a"], [3.0, -0.2], rtol=1e-6)


def test_lifetimes_at_once_as_on_an_accelerator(monkeypatch):
    """Tasks as a batch, lifetimes mapped, meta-batches in a loop: to rounding what a CPU does.
    Evaluations stay conditional: they are the only loops over batches of tasks."""
    there = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: there)
    slowly = make_lifetime(SMALL, IMAGES)
    one_by_one = Runner(slowly, 2, 3, 1)
    assert one_by_one.chunk_windows == 1
    one_by_one.run(4, lambda done: None)
    monkeypatch.setattr(runner, "convolves_slowly", lambda device: False)
    config = dataclasses.replace(
        SMALL, tasks_mapped="together", evaluation_batch=2, evaluation_convolution="lax"
    )
    quickly = make_lifetime(config, IMAGES)._replace(chunk_steps=2)
    at_once = Runner(quickly, 2, 3, 1)
    assert at_once.chunk_windows == 2
    at_once.run(4, lambda done: None)
    expected, found = (each.records.means(4)[1] for each in (one_by_one, at_once))
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-3, atol=2e-5, err_msg=name)
    np.testing.assert_array_equal(found["evaluations"], [[0, 1, 0, 1]] * 2)


@pytest.mark.parametrize("at_once", [None, 2, 9])
def test_an_evaluation_is_the_slow_loop_over_tasks(at_once):
    config = dataclasses.replace(SMALL, evaluation_batch=at_once)
    params = oracle.some_params(SMALL)
    found = meta_tested(config)(params, IMAGES.test, KEY)
    assert found.of_tasks.shape == (5,)
    for i, key in enumerate(jax.random.split(KEY, 5)[:2]):
        task_key = jax.random.split(key, 3)[0]
        task = draw_task(task_key, IMAGES.test, SMALL.ways, SMALL.shots, 2)
        weights = oracle.adapted(params, task, dataclasses.replace(SMALL, inner_steps=3))
        answers = np.argmax(oracle.predictions(weights, params.offsets, task.query_x), axis=1)
        correct = np.mean(answers == np.asarray(task.query_y))
        np.testing.assert_allclose(found.of_tasks[i], correct, atol=1e-6)
    np.testing.assert_allclose(found.mean, np.mean(found.of_tasks), rtol=1e-5)
    expected = 1.96 * np.std(found.of_tasks) / np.sqrt(5)
    np.testing.assert_allclose(found.half_width, expected, rtol=1e-5)


def test_the_best_by_validation_is_kept():
    """The first of equally good ones; between evaluations nothing is."""
    best = lifetime.Best(np.float32(0), np.float32(-1), np.float32(0), np.int32(0))
    better, found = jax.jit(lifetime.better), []
    for count, (evaluations, validation, test) in enumerate(
        [(0, 0, 0), (1, 0.5, 0.6), (0, 0, 0), (1, 0.5, 0.7), (1, 0.6, 0.4), (1, 0.1, 0.9)], 1
    ):
        evaluated = {
            "evaluations": np.float32(evaluations),
            "validation_accuracy": np.float32(validation),
            "test_accuracy": np.float32(test),
        }
        best = better(best, np.float32(count), np.int32(count), evaluated)
        found.append((float(best.params), int(best.meta_batches), float(best.test_accuracy)))
    few, more = (2, 2, pytest.approx(0.6)), (5, 5, pytest.approx(0.4))
    assert found == [(0, 0, 0), few, few, few, more, more]


def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(tmp_path):
    """To the last bit: parameters, records and the best so far, and the tasks that come next."""
    found = make_lifetime(SMALL, IMAGES)
    whole = Runner(found, 1, 3, 1)
    whole.run(5, lambda done: None)
    stopped = Runner(found, 1, 3, 1, tmp_path)
    stopped.run(3, lambda done: None)
    resumed = Runner(found, 1, 3, 1, tmp_path)
    assert resumed.restore() == [] and resumed.records.steps == 3
    resumed.run(5, lambda done: None)
    jax.tree.map(np.testing.assert_array_equal, whole.lifetime(0), resumed.lifetime(0))
    jax.tree.map(np.testing.assert_array_equal, whole.records.means(5), resumed.records.means(5))
    assert int(resumed.lifetime(0).agent.best.meta_batches) in (2, 4)


def test_images_below_sixteen_pixels_are_refused():
    small = lifetime.Images(*(x[:, :, :15] for x in IMAGES))
    with pytest.raises(ValueError, match="images of 15x17 pixels; give at least 16 each way"):
        lifetime.make_lifetime(SMALL, small)


def test_the_sweep_has_the_papers_48_runs():
    configs = experiment.suite(FewShotSuiteOptions(seeds=3, steps=10_000))
    assert len(configs) == 48
    maml, bmg = (
        [c for c in configs.values() if c.objective == objective] for objective in ("maml", "bmg")
    )
    assert len(maml) == len(bmg) == 24
    assert {c.inner_steps for c in maml} == {1, 5, 10} and {c.inner_steps for c in bmg} == {1, 5}
    assert sum(c.first_order for c in maml) == sum(c.head_only for c in maml) == 12
    assert not any(c.first_order or c.head_only for c in bmg)
    assert {c.target_steps for c in bmg} == {1, 5, 10}
    assert {c.matching for c in bmg} == {"kl", "reverse_kl"}
    assert {c.meta_learning_rate for c in configs.values()} == {1e-3, 1e-4}
    assert all(c.seeds == 3 and c.steps == 10_000 for c in configs.values())


def some_run(config: FewShotConfig, validation, test) -> Run:
    """Evaluated at the end of every second stretch of ten meta-batches, two of them."""
    zeros = np.zeros((1, 4))
    columns = dict.fromkeys(lifetime.COLUMNS, zeros)
    every = np.array([[0, 0.1, 0, 0.1]])
    columns |= {
        "evaluations": every,
        "validation_accuracy": every * np.repeat(validation, 2),
        "test_accuracy": every * np.repeat(test, 2),
        "cosine": np.array([[9.0, 9.0, 0.2, 0.4]]),
    }
    return Run(config.label, config, np.arange(10, 50, 10), columns)


def test_what_is_best_is_chosen_by_validation():
    runs = [
        some_run(FewShotConfig(), [0.6, 0.5], [0.55, 0.45]),
        some_run(FewShotConfig(inner_steps=1), [0.5, 0.7], [0.8, 0.66]),
        some_run(FewShotConfig(objective="maml"), [0.3, 0.4], [0.35, 0.33]),
    ]
    at, found = figures.evaluations(runs[0].steps, runs[0].columns)
    np.testing.assert_array_equal(at, [20, 40])
    np.testing.assert_allclose(found["validation_accuracy"], [[0.6, 0.5]])
    np.testing.assert_allclose(figures.best_so_far(found)["test_accuracy"], [[0.55, 0.55]])
    rows = figures.table_7(runs)
    assert [row["meta-batches"] for row in rows] == ["20", "40"]
    assert [row["BMG: accuracy, %"] for row in rows] == ["55.0", "66.0"]
    assert [row["BMG: best"] for row in rows] == ["bmg-k5-l5-kl-0.001", "bmg-k1-l5-kl-0.001"]
    assert [row["MAML: accuracy, %"] for row in rows] == ["35.0", "33.0"]
    assert {row["cosine"] for row in figures.table_6(runs)} == {"0.3"}, "of the last half"
    result = experiment.summarise(runs[0].config, runs[0].steps, runs[0].columns)
    assert result["test_accuracy_mean"] == pytest.approx(0.55)


def test_budgets_of_meta_batches_and_of_minutes():
    """BMG takes four times as long for a meta-batch, and is ahead after as many of them."""
    maml = some_run(FewShotConfig(objective="maml"), [0.5, 0.6], [0.5, 0.6])
    bmg = some_run(FewShotConfig(), [0.7, 0.8], [0.7, 0.8])

    def minutes(run, at):
        return at * (4 if run is bmg else 1)

    budgets = figures.budgets_of([maml, bmg], minutes)
    assert budgets == [20, 40, 80, 160]
    chosen = figures.select([maml, bmg], "bmg", budgets, minutes)
    assert [(c.budget, round(c.accuracy[0], 3)) for c in chosen] == [(80, 0.7), (160, 0.8)]
    rows = figures.table_8([maml, bmg], minutes)
    assert [row["MAML: accuracy, %"] for row in rows] == ["50.0", "60.0", "60.0", "60.0"]
    assert [row["BMG: accuracy, %"] for row in rows] == ["", "", "70.0", "80.0"]
    many = Run(
        "many", bmg.config, np.arange(1, 61), dict.fromkeys(lifetime.COLUMNS, np.ones([1, 60]))
    )
    assert figures.budgets_of([many]) == [1, 8, 14, 21, 27, 34, 40, 47, 53, 60]
    assert figures.budgets_of([many], lambda run, at: at / 60)[:2] == [0.1, 0.2]


def test_minutes_come_from_the_runs_or_from_a_table(tmp_path):
    bmg, maml = (
        some_run(FewShotConfig(), [0, 0], [0, 0]),
        some_run(FewShotConfig(objective="maml"), [0, 0], [0, 0]),
    )
    (tmp_path / bmg.name).mkdir()
    results = tmp_path / bmg.name / "results.json"
    results.write_text('{"seeds": 3, "steps_per_second": 2}')
    cost = figures.minutes_by_runs(tmp_path)
    np.testing.assert_allclose(cost(bmg, np.array([40, 80])), [1, 2])
    assert cost(maml, np.array([40])) is None
    table = tmp_path / "speeds.json"
    table.write_text('[{"method": "maml-k5", "meta_steps_per_second": 0.5}]')
    cost = figures.minutes_by_table(table)
    np.testing.assert_allclose(cost(maml, np.array([30])), [1])
    assert cost(bmg, np.array([30])) is None
    table.write_text('{"rows": 1}')
    with pytest.raises(ValueError, match="speeds.json is no table of bmg benchmark few-shot"):
        figures.minutes_by_table(table)


def test_the_pictures_have_a_line_for_each_method_and_each_run(tmp_path, pictures):
    runs = [
        some_run(FewShotConfig(), [0.6, 0.5], [0.55, 0.45]),
        some_run(FewShotConfig(inner_steps=1), [0.6, 0.7], [0.55, 0.65]),
        some_run(FewShotConfig(objective="maml"), [0.3, 0.4], [0.35, 0.33]),
    ]

    def minutes(run, at):
        return None if run is runs[2] else at

    figures.draw_figure_5(runs, minutes, tmp_path)
    by_batches, by_time, of_each_k = pictures["figure_5.png"]
    assert set(by_batches.lines) == {"MAML", "BMG"}
    assert set(by_time.lines) == {"BMG"}, "the other's speed is not known"
    assert of_each_k.bars == 3
    figures.draw_runs(runs, tmp_path)
    one, five = pictures["runs.png"]
    assert set(one.lines) == {runs[1].name}
    assert set(five.lines) == {runs[0].name, runs[2].name}


def test_figures_compare_what_can_be_compared(tmp_path, pictures):
    """Other tasks are refused; what was not evaluated is left out; seeds that all have count."""
    options = FewShotFiguresOptions(root="runs", output=str(tmp_path))
    run = some_run(FewShotConfig(), [0.6, 0.5], [0.55, 0.45])
    other = some_run(FewShotConfig(objective="maml", ways=2), [0.9, 0.9], [0.9, 0.9])
    with pytest.raises(ValueError, match="runs holds runs of different tasks, 2 ways"):
        list(experiment.draw([run, other], options))
    nothing = other._replace(
        name="new", config=FewShotConfig(objective="maml"),
        columns={name: 0 * x for name, x in other.columns.items()},
    )  # fmt: skip
    with pytest.raises(ValueError, match="no run in runs has been evaluated"):
        list(experiment.draw([nothing], options))
    twice = run._replace(
        name="twice", columns={name: np.repeat(x, 2, 0) for name, x in run.columns.items()}
    )
    shown = list(experiment.draw([run, nothing, twice], options))
    lines = [x for x in shown if isinstance(x, str)]
    assert "new is left out" in lines[0] and "the first 1 seeds" in lines[1]
    assert {"figure_5.png", "runs.png"} <= set(pictures)


def test_an_evaluation_has_a_row_of_its_own():
    with pytest.raises(FieldError, match="multiples of record_every, 500"):
        FewShotConfig(evaluate_every=100, steps=1_000)
    assert FewShotConfig(evaluate_every=100, record_every=50).evaluate_every == 100


def test_weights_that_are_no_numbers_have_no_accuracy():
    """Of their logits the first is the largest: as good as chance, and never the best."""
    params = oracle.some_params()
    assert np.isfinite(evaluation(SMALL)(params, np.int32(2))["validation_accuracy"])
    nothing = jax.tree.map(lambda x: np.full_like(x, np.nan), params)
    broken = evaluation(SMALL)(nothing, np.int32(2))
    assert broken["evaluations"] == 1 and np.isnan(broken["validation_accuracy"])
    best = lifetime.Best(params, np.float32(-1), np.float32(0), np.int32(0))
    after = jax.jit(lifetime.better)(best, params, np.int32(2), broken)
    assert after.validation_accuracy == -1


def test_a_run_goes_on_with_the_same_images(tmp_path):
    """A class that has come or gone shares all of them out anew."""

    def init(key):
        return State(None, None, key)

    def window(state, data):
        return state, {"images": data[None]}

    def runner(digest):
        own = Lifetime(
            init, window, 1, 1, ("images",), True, jnp.ones(()), identity={"images": digest}
        )
        return Runner(own, 1, 0, 2, tmp_path)

    first = runner("a")
    first.run(2, lambda done: None)
    again = runner("a")
    assert again.restore() == [] and again.records.steps == 2
    assert first.steps_per_second > 0
    assert again.steps_per_second == pytest.approx(first.steps_per_second)
    with pytest.raises(CheckpointError, match="is of another run: images was 'a', not 'b'"):
        runner("b").restore()


def test_each_backend_has_its_own_way():
    cpu, other = (FewShotConfig().settled(backend) for backend in ("cpu", "gpu"))
    assert (cpu.tasks_mapped, cpu.evaluation_convolution) == ("unrolled", "im2col")
    assert (other.tasks_mapped, other.evaluation_convolution) == ("together", "lax")
    assert (cpu.evaluation_batch, other.evaluation_batch) == (1, 100)
    asked = FewShotConfig(tasks_mapped="loop", evaluation_convolution="lax", evaluation_batch=7)
    assert asked.settled("cpu") == asked.settled("gpu") == asked
