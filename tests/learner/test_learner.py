"""The learner's loop over samplers in memory: counting, publishing, reporting."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bmg.agents.factory import make_agent
from bmg.agents.messages import Evaluation, VersionedParameters
from bmg.agents.networks import main_task_params
from bmg.environments.scores import human_normalized_score
from bmg.learner import reports
from bmg.learner.dashboard import tag_of
from bmg.learner.learner import NotFiniteError
from bmg.learner.metrics import MetricsWriter, read_metrics
from bmg.learner.reports import Report, summarise_reports
from bmg.learner.update import first
from bmg.storage import checkpoint
from tests.learner import fakes
from tests.learner.fakes import checkpoints_of, results_of, rows_of, run

FRAMES_PER_UPDATE = 2 * 5 * 4
ONE_ROW = {"log_rows": 1, "log_interval": 3600.0}  # of a run
REPORT = {"environment": 0.5, "inference": 0.25, "writing": 0.125, "steps_per_second": 100.0}

# What TensorBoard has to show, by the names that people see.
LOSSES = (
    "total", "policy", "entropy", "value", "policy_entropy", "rho", "clipped_ratio", "accepted",
)  # fmt: skip
META_PARAMETERS = ("discount", "lambda", "alpha", "policy_cost", "entropy_cost", "value_cost")
TASKS = ("main", "auxiliary_1", "auxiliary_2")
TENSORBOARD = {
    *(f"loss_{task}/{name}" for task in TASKS for name in LOSSES),
    "learner/gradient_norm",
    "learner/gradient_clipped",
    "learner/learning_rate",
    *fakes.REPLAY_METRICS,
    *(f"policy_lag/{name}" for name in ("min", "mean", "max")),
    "learner/frames_per_second",
    "learner/updates_per_second",
    *(f"learner_time/{name}" for name in ("waiting", "updating", "publishing")),
    *(f"actors_time/{name}" for name in ("environment", "inference", "writing")),
    "actors/steps_per_second",
    *(f"meta_{task}/{name}" for task in TASKS for name in META_PARAMETERS),
    "meta/gradient_norm",
    "meta/gradient_cosine",
    "meta/gradient_norm_to_variance",
    "training/return",
    "training/human_normalized_score",
    "evaluation/return",
    "evaluation/human_normalized_score",
}


def events_of(workdir) -> EventAccumulator:
    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    return events


def test_a_run_counts_environment_frames(agent, tmp_path):
    """It stops with the first update at or beyond the total."""
    learner = fakes.make_learner(agent, tmp_path, 0, total_frames=3 * FRAMES_PER_UPDATE + 1)
    assert learner.frames == 0
    assert run(learner) is True
    assert learner.frames == 4 * FRAMES_PER_UPDATE
    rows = rows_of(tmp_path)
    assert [row["frames"] for row in rows] == [FRAMES_PER_UPDATE * i for i in (1, 2, 3, 4)]
    assert [row["learner/updates"] for row in rows] == [1, 2, 3, 4]
    assert [row["learner/frames"] for row in rows] == [row["frames"] for row in rows]
    assert checkpoints_of(tmp_path) == ["checkpoint_0000000004.npz"]
    for row in rows:
        ratio = row["learner/frames_per_second"] / row["learner/updates_per_second"]
        assert ratio == pytest.approx(FRAMES_PER_UPDATE)
        shares = [row[f"learner_time/{n}"] for n in ("waiting", "updating", "publishing")]
        assert all(0 <= share <= 1 for share in shares) and sum(shares) <= 1.0 + 1e-6


def test_the_learner_learns_from_exactly_its_batches(agent, tmp_path):
    """Its state is that of the same updates made by hand."""
    learner = fakes.make_learner(agent, tmp_path, 3)
    run(learner)
    state = agent.replicate(agent.init(jax.random.PRNGKey(3)))
    online, replay = fakes.online_stream(), fakes.replay_stream()
    for _ in range(3):
        batch = fakes.UpdateBatch(next(online), next(replay), (next(replay),))
        state, _ = agent.update(state, agent.shard(batch))
    expected = first(state)
    found, _ = checkpoint.load_newest(tmp_path / "checkpoints", expected)
    fakes.assert_same(found.state, expected)


def test_the_learning_rate_falls_with_frames(agent, tmp_path):
    """Linearly to zero: from 1e-2 over 4,800 frames, which is 120 updates of 40."""
    run(fakes.make_learner(agent, tmp_path, 130))
    rates = [row["learner/learning_rate"] for row in rows_of(tmp_path)]
    expected = [1e-2 * max(0.0, 1 - 40 * i / 4_800) for i in range(130)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-9)
    assert rates[119] > 0 and rates[120:] == [0.0] * 10


@pytest.fixture
def reports_stay(monkeypatch):
    """An actor counts as one that reports, however long the updates take to compile."""
    monkeypatch.setattr(reports, "_REPORTS_MISSED", math.inf)


@pytest.mark.usefixtures("reports_stay")
def test_everything_of_the_list_is_in_tensorboard(agent, tmp_path):
    returns = [1.0, None, -1.0, 0.5]
    learner = fakes.make_learner(agent, tmp_path, 4)
    learner.report("actor_0", REPORT)
    learner.report("actor_1", {**REPORT, "environment": 0.7})
    learner.report_evaluation(Evaluation(2, 80, 0.25, 0.5, 10, False))
    run(learner, fakes.online_stream(returns=returns))

    events, rows = events_of(tmp_path), rows_of(tmp_path)
    tags = set(events.Tags()["scalars"])
    missing = {tag_of(name) for name in TENSORBOARD} - tags
    assert not missing
    # Both files tell the same.
    names = set().union(*rows) - {"frames", "time"}
    for name in names:
        points = [(row["frames"], row[name]) for row in rows if name in row]
        found = [(event.step, event.value) for event in events.Scalars(tag_of(name))]
        assert [frames for frames, _ in found] == [frames for frames, _ in points], name
        np.testing.assert_allclose([x for _, x in found], [x for _, x in points], rtol=1e-6)
        assert read_metrics(tmp_path, name) == points
    assert tags == {tag_of(name) for name in names}

    last = rows[-1]
    assert last["training/return"] == pytest.approx((1.0 - 1.0 + 0.5) / 3)
    assert last["training/episodes"] == 3
    assert last["training/human_normalized_score"] == pytest.approx((1 / 6 + 0.6) / 1.6)
    assert last["actors/reporting"] == 2 and last["actors/steps_per_second"] == 200.0
    assert last["actors_time/environment"] == pytest.approx(0.6)
    assert last["replay/online_size"] == 7
    (evaluation,) = [row for row in rows if "evaluation/return" in row]
    assert evaluation["frames"] == 80, "an evaluation stands at the frames that it belongs to"
    assert evaluation["evaluation/parameter_version"] == 2
    assert evaluation["evaluation/human_normalized_score"] == pytest.approx((0.25 + 0.6) / 1.6)


def test_results_have_their_keys(agent, tmp_path):
    learner = fakes.make_learner(agent, tmp_path, 3)
    learner.report_evaluation(Evaluation(1, 40, -0.5, 0.1, 10, False))
    run(learner, fakes.online_stream(returns=[1.0, 0.0]))
    results = results_of(tmp_path)
    assert results["game"] == "catch"
    assert results["frames"] == 120 and results["updates"] == 3 and results["complete"] is True
    assert results["wall_seconds"] > 0
    assert results["frames_per_second"] == pytest.approx(120 / results["wall_seconds"])
    assert results["training_return"] == 0.5 and results["episodes"] == 2
    assert results["evaluation_return"] == -0.5
    assert results["human_normalized_score"] == human_normalized_score("catch", -0.5)
    assert results["protocol"] == {"seed": 3} and results["versions"] == {"python": "3.10"}
    assert not list(tmp_path.glob("*.tmp"))


def test_the_newest_of_several_evaluators_counts(agent, tmp_path):
    """One that took longer may come later; curves stand in order of frames all the same."""
    learner = fakes.make_learner(agent, tmp_path, 3)
    for version in (1, 2, 1):
        learner.report_evaluation(Evaluation(version, 40 * version, float(version), 0.1, 10, False))
    run(learner)
    assert results_of(tmp_path)["evaluation"]["version"] == 2
    assert read_metrics(tmp_path, "evaluation/return") == [(40, 1.0), (40, 1.0), (80, 2.0)]


def test_a_complete_run_that_is_resumed_keeps_its_score(agent, tmp_path):
    learner = fakes.make_learner(agent, tmp_path, 2)
    learner.report_evaluation(Evaluation(2, 80, 0.5, 0.1, 10, False))
    learner.report_evaluation(Evaluation(2, 80, 0.25, 0.1, 10, True))
    run(learner)
    assert results_of(tmp_path)["evaluation_return"] == 0.25, "the last evaluation counts"
    learner = fakes.make_learner(agent, tmp_path, 2, resume=True)
    learner.report_evaluation(Evaluation(2, 80, -1.0, 0.1, 10, True))
    run(learner)
    assert results_of(tmp_path)["evaluation_return"] == 0.25
    learner = fakes.make_learner(agent, tmp_path, 3, resume=True)
    run(learner)
    learner.report_evaluation(Evaluation(3, 120, 0.75, 0.1, 10, True))
    assert learner._progress.evaluation["mean_return"] == 0.75


def test_a_run_beyond_its_frames_says_so(agent, tmp_path):
    run(fakes.make_learner(agent, tmp_path, 3))
    said = []
    assert run(fakes.make_learner(agent, tmp_path, 2, notify=said.append, resume=True)) is True
    assert said == ["the run has 120 frames already; give more --frames to go on"]
    assert results_of(tmp_path)["updates"] == 3


def test_a_run_that_was_stopped_in_its_last_evaluation_says_so(agent, tmp_path):
    """Also where it had a last evaluation once, and was made longer since."""
    more, missing = "give more --frames to go on", "its last evaluation is missing and is made"

    def stopped(updates: int, resume: bool) -> None:
        learner = fakes.make_learner(
            agent, tmp_path, updates, resume=resume, num_evaluators=1, final_timeout=0.0
        )
        run(learner)  # no evaluation comes in time

    def said(updates: int) -> list[str]:
        lines = []

        def notify(line: str) -> None:
            lines.append(line)
            learner.report_evaluation(Evaluation(updates, 40 * updates, 0.5, 0.1, 10, True))

        learner = fakes.make_learner(
            agent, tmp_path, updates, notify=notify, resume=True, num_evaluators=1
        )
        run(learner)
        return lines

    stopped(2, resume=False)
    assert said(2) == [f"the run has 80 frames already; {missing}"]
    assert results_of(tmp_path)["evaluation_return"] == 0.5
    assert said(2) == [f"the run has 80 frames already; {more}"]
    stopped(3, resume=True)
    assert said(3) == [f"the run has 120 frames already; {missing}"]
    assert said(3) == [f"the run has 120 frames already; {more}"]


def test_results_without_a_single_episode(agent, tmp_path):
    run(fakes.make_learner(agent, tmp_path, 1))
    results = results_of(tmp_path)
    assert results["training_return"] is None and results["evaluation_return"] is None
    assert results["human_normalized_score"] is None
    assert "training/return" not in rows_of(tmp_path)[-1]


def test_training_return_is_of_the_last_hundred_episodes(agent, tmp_path):
    returns = [float(i) for i in range(105)]
    run(fakes.make_learner(agent, tmp_path, 105), fakes.online_stream(returns=returns))
    assert results_of(tmp_path)["training_return"] == pytest.approx(np.mean(returns[5:]))
    assert results_of(tmp_path)["episodes"] == 105


def test_policy_lag_is_in_learner_updates(agent, tmp_path):
    """Update i (from 0) on unrolls of version v has lag i - v."""
    versions = [0, 0, 1, 0, 4]
    run(fakes.make_learner(agent, tmp_path, 5), fakes.online_stream(versions=versions))
    rows = rows_of(tmp_path)
    for i, row in enumerate(rows):
        lags = [row[f"policy_lag/{name}"] for name in ("min", "mean", "max")]
        assert lags == [i - versions[i]] * 3


def test_policy_lag_over_several_updates(agent, tmp_path):
    """One line for all five: lags 0, 1, 1, 3, 0, but with one unroll of the last batch older."""

    def online():
        for i, batch in enumerate(fakes.online_stream(versions=[0, 0, 1, 0, 4])):
            if i == 4:
                batch.parameter_version[1] = -2
            yield batch

    run(fakes.make_learner(agent, tmp_path, 5, ONE_ROW), online())
    (row,) = rows_of(tmp_path)
    lags = [0, 0, 1, 1, 1, 1, 3, 3, 0, 6]
    assert row["policy_lag/min"] == 0 and row["policy_lag/max"] == 6
    assert row["policy_lag/mean"] == pytest.approx(np.mean(lags))


def test_metrics_of_a_line_are_means_over_its_updates(agent, tmp_path):
    (each := tmp_path / "each").mkdir()
    (all_ := tmp_path / "all").mkdir()
    run(fakes.make_learner(agent, each, 4))
    run(fakes.make_learner(agent, all_, 4, ONE_ROW))
    (row,) = rows_of(all_)
    batch = agent.shard(fakes.update_batch(0))
    _, metrics = jax.eval_shape(agent.update, agent.init(jax.random.PRNGKey(0)), batch)
    assert len(metrics.names) > 40
    for name in metrics.names:
        expected = np.mean([one[name] for one in rows_of(each)])
        assert row[name] == pytest.approx(expected, rel=1e-5, abs=1e-7), name


@pytest.mark.usefixtures("reports_stay")
def test_what_is_not_finite_is_left_out_and_counted(agent, tmp_path):
    learner = fakes.make_learner(agent, tmp_path, 1)
    learner.report("actor_0", {**REPORT, "inference": math.nan, "writing": math.inf})
    run(learner)
    (row,) = rows_of(tmp_path)
    assert row["learner/not_finite_metrics"] == 2
    assert "actors_time/inference" not in row and "actors_time/writing" not in row
    assert row["actors_time/environment"] == 0.5
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert tag_of("actors_time/inference") not in events_of(tmp_path).Tags()["scalars"]


@pytest.mark.parametrize("rows", [130, 1])
def test_training_return_is_of_all_episodes_since_the_row_before(agent, tmp_path, rows):
    """Of the last hundred where fewer ended, and in results.json."""
    returns = [float(i * i) for i in range(130)]
    learner = fakes.make_learner(agent, tmp_path, 130, {**ONE_ROW, "log_rows": rows})
    run(learner, fakes.online_stream(returns=returns))
    found = [row["training/return"] for row in rows_of(tmp_path)]
    if rows == 1:
        expected = [np.mean(returns)]
    else:
        expected = [np.mean(returns[max(i - 99, 0) : i + 1]) for i in range(130)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert results_of(tmp_path)["training_return"] == pytest.approx(np.mean(returns[30:]))


def test_metrics_are_continued(tmp_path):
    for frames in (40, 80):
        writer = MetricsWriter(tmp_path, frames - 40)
        writer.write(frames, {"a/b": frames / 2})
        writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"frames": 120, "a/b": 6')  # as after a crash
    assert read_metrics(tmp_path, "a/b") == [(40, 20.0), (80, 40.0)]
    assert [(e.step, e.value) for e in events_of(tmp_path).Scalars(tag_of("a/b"))] == [
        (40, 20),
        (80, 40),
    ]


@pytest.mark.parametrize(
    ("rows", "updates"), [(1, 7), (4, 7), (7, 7), (100, 7), (3, 100), (40, 130)]
)
def test_rows_are_spread_evenly_over_the_frames(agent, tmp_path, rows, updates):
    """However fast the machine is: each is written by the first update at or beyond its share."""
    changes = {"log_rows": rows, "log_interval": 3600.0}
    run(fakes.make_learner(agent, tmp_path, updates, changes))
    shares = {-(-i * updates // rows) for i in range(1, rows + 1)}
    expected = [FRAMES_PER_UPDATE * update for update in sorted(shares)]
    assert [row["frames"] for row in rows_of(tmp_path)] == expected


def test_reports_of_actors_are_joined():
    assert summarise_reports({}, 0.0) == {}
    other = {**REPORT, "writing": 0.375, "steps_per_second": 50.0}
    reports = {"actor_0": Report(REPORT, 0.0, None), "actor_1": Report(other, 0.0, None)}
    assert summarise_reports(reports, 1.0) == {
        "actors/reporting": 2.0,
        "actors_time/environment": 0.5,
        "actors_time/inference": 0.25,
        "actors_time/writing": 0.25,
        "actors/steps_per_second": 150.0,
    }


def test_an_actor_that_is_silent_leaves_the_rates_and_not_the_totals():
    def at(seconds: float, name: str, before=None) -> Report:
        totals = {"stalls": 3.0, "not_finite_rewards": 1.0}
        return Report({**REPORT, **totals}, seconds, before)

    reports = {name: at(0.0, name) for name in ("frozen", "quick", "slow")}
    reports["slow"] = at(40.0, "slow", reports["slow"])  # its unrolls take so long
    reports["quick"] = at(100.0, "quick", at(95.0, "quick"))
    found = summarise_reports(reports, 101.0)
    assert found["actors/reporting"] == 2 and found["actors/steps_per_second"] == 200.0
    assert found["actors/stalls"] == 9 and found["actors/not_finite_rewards"] == 3
    found = summarise_reports(reports, 1_000.0)
    assert found["actors/reporting"] == 0 and found["actors/steps_per_second"] == 0
    assert "actors_time/environment" not in found and found["actors/stalls"] == 9


def test_parameters_are_there_from_the_start(agent, tmp_path):
    learner = fakes.make_learner(agent, tmp_path, 1)
    published = learner.get_parameters(-1)
    assert isinstance(published, VersionedParameters)
    assert (published.version, published.frames, published.final) == (0, 0, False)
    expected = main_task_params(agent.init(jax.random.PRNGKey(3)).agent.inner.params)
    fakes.assert_same(published.params, jax.tree.map(np.asarray, expected))
    assert not any(name.startswith(("task_1", "task_2")) for name in published.params)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(published.params))
    assert learner.get_parameters(0) is None


def test_each_update_is_published(agent, tmp_path):
    """Versions go up by one, and what was fetched stays what it was while the learner goes on."""
    learner = fakes.make_learner(agent, tmp_path, 6)
    fetched, copies = [], []

    def online():
        for batch in fakes.online_stream():
            newer = learner.get_parameters(fetched[-1].version if fetched else -1)
            if newer is not None:
                fetched.append(newer)
                copies.append(jax.tree.map(np.copy, newer.params))
            yield batch

    run(learner, online())
    final = learner.get_parameters(6)
    assert (final.version, final.frames, final.final) == (6, 240, True)
    versions = [published.version for published in fetched]
    assert versions == sorted(set(versions)) and versions[0] == 0
    assert all(p.frames == 40 * p.version and not p.final for p in fetched)
    for published, copy in zip(fetched, copies):
        fakes.assert_same(published.params, copy)

    # What is published is what was learned.
    state = agent.replicate(agent.init(jax.random.PRNGKey(3)))
    online_batches, replay = fakes.online_stream(), fakes.replay_stream()
    by_version = {published.version: published for published in [*fetched, final]}
    for version in range(1, 7):
        batch = fakes.UpdateBatch(next(online_batches), next(replay), (next(replay),))
        state, _ = agent.update(state, agent.shard(batch))
        if version in by_version:
            expected = main_task_params(first(state).agent.inner.params)
            fakes.assert_same(by_version[version].params, expected)


@pytest.mark.parametrize("interval", [2, 3])
def test_publications_may_be_rarer(agent, tmp_path, interval):
    learner = fakes.make_learner(agent, tmp_path, 7, {"publish_interval": interval})
    published = []
    publish = learner._publish

    def record(final):
        publish(final)
        published.append(learner.get_parameters(-1).version)

    learner._publish = record
    run(learner)
    assert published == [*range(interval, 8, interval), 7]
    assert learner.get_parameters(-1).final
    assert len(rows_of(tmp_path)) == 7


def test_a_run_in_which_nothing_is_learned_any_more_ends_with_its_last_good_state(agent, tmp_path):
    def online():
        for i, batch in enumerate(fakes.online_stream()):
            if i >= 2:
                batch.reward[:] = np.inf
                batch.behaviour_logits[0, 0, 0] = np.nan
            yield batch

    learner = fakes.make_learner(agent, tmp_path, 1_000)
    with pytest.raises(NotFiniteError) as caught:
        run(learner, online())
    text = fakes.one_line(caught.value)
    assert "the last 100 updates" in text and "after update 2" in text and "--resume" in text
    row = rows_of(tmp_path)[-1]
    assert row["learner/skipped_updates"] >= 99 and "loss_main/total" not in row
    (good := tmp_path / "good").mkdir()
    run(fakes.make_learner(agent, good, 2))
    template = agent.init(jax.random.PRNGKey(3))
    last, _ = checkpoint.load_newest(tmp_path / "checkpoints", template)
    expected, _ = checkpoint.load_newest(good / "checkpoints", template)
    fakes.assert_same(last.state.agent, expected.state.agent)
    assert last.state.skipped == 100 and last.state.updates == 102


def test_some_updates_are_profiled(agent, tmp_path):
    run(fakes.make_learner(agent, tmp_path, 9, {"profile_updates": 2}))
    assert not (tmp_path / "profile").exists(), "the run ended before"
    (other := tmp_path / "other").mkdir()
    run(fakes.make_learner(agent, other, 14, {"profile_updates": 2}))
    # TensorBoard's plugin reads the first, Perfetto the second.
    assert list((other / "profile" / "plugins" / "profile").glob("*/*.xplane.pb"))
    assert list((other / "profile").rglob("perfetto_trace.json.gz"))


def make_forgetful(config, spec):
    """An agent of one's own that averages nothing over devices."""
    own = dataclasses.replace(config, algorithm="impala")
    return make_agent(own, spec._replace(axis_name=None))


@pytest.mark.parametrize("algorithm, devices, forgets", [
    ("impala", 2, False), (f"{__name__}:make_forgetful", 1, False),
    (f"{__name__}:make_forgetful", 2, True),
])  # fmt: skip
def test_an_agent_that_forgets_the_other_devices_is_told(tmp_path, algorithm, devices, forgets):
    """Once, after the first update."""
    config = dataclasses.replace(fakes.AGENT, algorithm=algorithm)
    said = []
    learner = fakes.make_learner(
        fakes.make_agent(config, num_devices=devices), tmp_path, 2, notify=said.append
    )
    run(learner)
    assert [line for line in said if "another agent on each device" in line] == said
    assert len(said) == forgets
