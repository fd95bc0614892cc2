"""A run goes on from a checkpoint that a learner has written, or from none."""

from __future__ import annotations

import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmg.agents.messages import Evaluation
from bmg.learner.guard import LearnerState
from bmg.learner.learner import Learner
from bmg.learner.progress import Progress, check_checkpoint
from bmg.storage import checkpoint
from bmg.storage.checkpoint import Checkpoint, CheckpointError
from tests.learner import fakes

FRAMES_PER_UPDATE = 40
EVALUATION = {**Evaluation(2, 80, 0.5, 0.25, 10, False)._asdict(), "human_normalized_score": 0.9}
HEADER = {
    "format": 1, "updates": 3, "frames": 120, "seconds": 1.5, "episodes": 2, "returns": [1.0, -2.5],
    "evaluation": EVALUATION, "game": "catch", "identity": {"game": "catch"},
}  # fmt: skip
STATE = LearnerState(
    {"w": np.float32([1.5])}, np.int32(3), np.int32(1), np.int32(0), np.uint32([1, 2])
)


def check(number: int | None = 3, state: LearnerState = STATE, **changes) -> None:
    header = {k: v for k, v in {**HEADER, **changes}.items() if v is not ...}
    check_checkpoint(Checkpoint(state, header, number), FRAMES_PER_UPDATE)


def refused(**changes) -> str:
    with pytest.raises(CheckpointError) as caught:
        check(**changes)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 300
    return text


def test_what_a_learner_writes_is_accepted():
    check()
    check(evaluation=None, returns=[], episodes=0, seconds=0)
    check(returns=[1.0] * 100, episodes=120)
    check(evaluation={**EVALUATION, "mean_return": 7, "final": True})
    check(state=STATE._replace(skipped=np.int32(3), skipped_in_a_row=np.int32(3)))


COUNTS = [-1, "3", None, True, 3.0, 1e30, 10**30, 10**400, math.nan, math.inf, [3], {}, ...]
NUMBERS = ["0.5", None, True, 1e300, 10**400, math.nan, -math.inf, [0.5], {}, ...]


@pytest.mark.parametrize(
    "name, values",
    [
        ("updates", COUNTS),
        ("frames", COUNTS),
        ("episodes", COUNTS),
        ("seconds", [*NUMBERS, -1.0, 1e30]),
        ("returns", [*COUNTS[:-3], {}, ..., [0.0] * 101, *([1.0, x] for x in NUMBERS)]),
        ("evaluation", ["none", 0.5, False, [], {}, ..., {**EVALUATION, "more": 1}]),
    ],
)
def test_headers_that_no_learner_writes(name, values):
    for value in values:
        text = refused(**{name: value})
        assert f"{name} in its header" in text, value
    assert "..." in refused(**{name: "\x1b]0;title\x07\n" * 1_000})


def test_evaluations_that_no_learner_writes():
    for name in EVALUATION:
        wrong = COUNTS if name in ("version", "frames", "episodes") else NUMBERS
        if name == "final":
            wrong = [0, 1, None, "true", ...]
        if name == "human_normalized_score":  # a game may have none
            wrong = [x for x in wrong if x is not None]
        for value in wrong:
            evaluation = {k: v for k, v in {**EVALUATION, name: value}.items() if v is not ...}
            assert "evaluation in its header" in refused(evaluation=evaluation), (name, value)


@pytest.mark.parametrize(
    "changes",
    [
        {"updates": 4}, {"updates": 0, "frames": 0}, {"updates": 4, "frames": 160}, {"frames": 121},
        {"frames": 0}, {"number": 4}, {"number": None}, {"number": 30}, {"episodes": 121},
        {"state": STATE._replace(updates=np.int32(4))},
        {"state": STATE._replace(updates=np.int32(-3))},
    ],
    ids=str,
)  # fmt: skip
def test_counters_that_do_not_belong_together(changes):
    assert "do not belong together" in refused(**changes)


def test_states_that_no_learner_writes():
    for skipped, in_a_row in ((4, 0), (1, 2), (-1, -1), (1, -1)):
        state = STATE._replace(skipped=np.int32(skipped), skipped_in_a_row=np.int32(in_a_row))
        assert "skipped" in refused(state=state)
    for value in (np.nan, np.inf, -np.inf):
        assert "not finite" in refused(state=STATE._replace(agent={"w": np.float32([1.0, value])}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([0, 3, 120, 0.5, 10**400]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300)
@given(
    changes=st.dictionaries(st.sampled_from(sorted(HEADER)), json_values, max_size=3),
    evaluation=st.dictionaries(st.sampled_from(sorted(EVALUATION)), json_values, max_size=2),
)
def test_any_json_in_the_header(changes, evaluation):
    """Refused in one line, or counters that a run can go on from."""
    changes = {"evaluation": {**EVALUATION, **evaluation}, **changes}
    try:
        check(**changes)
    except CheckpointError as error:
        assert str(error).isprintable() and len(str(error)) < 300
        return
    header = Progress({**HEADER, **changes}).header()
    json.dumps(header, allow_nan=False)
    assert header["updates"] == 3 and 0 <= header["episodes"] <= 120
    assert 0.0 <= float(header["seconds"]) < 1e11
    assert all(math.isfinite(x) for x in [*header["returns"], float(np.sum(header["returns"]))])
    assert header["evaluation"] is None or math.isfinite(header["evaluation"]["mean_return"])


def resumed(agent, folder) -> tuple[Learner, list[str]]:
    said: list[str] = []
    learner = fakes.make_learner(agent, folder, 5, notify=said.append, resume=True)
    return learner, said


def test_resuming_takes_the_newest_that_a_learner_has_written(agent, tmp_path):
    """Each kind of lie in the newest file: the run goes on from the one before, bit for bit."""
    run_to = fakes.make_learner(agent, tmp_path, 3, {"checkpoint_interval": 0.0})
    run_to.report_evaluation(Evaluation(1, 40, 0.5, 0.0, 10, False))
    fakes.run(run_to, fakes.online_stream(returns=[0.5]))
    older, newest = checkpoint.list_checkpoints(tmp_path / "checkpoints")
    template = agent.init(jax.random.PRNGKey(0))
    before, good = (checkpoint.load(path, template) for path in (older, newest))
    assert resumed(agent, tmp_path)[0].frames == 120

    header = {name: value for name, value in good.header.items() if name != "format"}
    leaves, treedef = jax.tree.flatten(good.state)
    not_finite = []
    for index, leaf in enumerate(leaves):
        if leaf.dtype.kind == "f" and leaf.size:
            wrong = [x.copy() for x in leaves]
            wrong[index].flat[0] = np.nan
            not_finite.append(jax.tree.unflatten(treedef, wrong))
    assert len(not_finite) > 20, "parameters, optimiser state, meta-parameters and their averages"
    lies = [
        (good.state, {**header, "updates": -5}),
        (good.state, {**header, "updates": 4, "frames": 160}),
        (good.state, {**header, "frames": 1e30}),
        (good.state, {**header, "returns": None}),
        (good.state, {**header, "evaluation": "\x1b[2J"}),
        (good.state, {**header, "identity": []}),
        (good.state, {**header, "identity": {"game": "\x1b[2J\n" * 500}}),
        (good.state._replace(updates=np.int32(2)), header),
        *((state, header) for state in (not_finite[0], not_finite[-1])),
    ]
    for state, lie in lies:
        checkpoint.save(newest.parent, 3, state, lie, keep=2)
        learner, (said,) = resumed(agent, tmp_path)
        assert learner.frames == 80 and said.startswith("going on from update 2: ")
        assert str(newest) in said and said.isprintable() and len(said) < 600, lie
        fakes.assert_same(learner._state, before.state)
        assert learner._progress.header() == Progress(before.header).header()
    for state in not_finite:
        wrong = Checkpoint(state, good.header, 3)
        with pytest.raises(CheckpointError, match="not finite"):
            check_checkpoint(wrong, FRAMES_PER_UPDATE)
    older.unlink()
    with pytest.raises(CheckpointError, match="not finite") as caught:
        resumed(agent, tmp_path)
    assert str(newest) in fakes.one_line(caught.value)


def test_a_file_under_another_name_is_no_newer_one(agent, tmp_path):
    """Copied, or renamed: the counters in it are what counts."""
    fakes.run(fakes.make_learner(agent, tmp_path, 2))
    (path,) = checkpoint.list_checkpoints(tmp_path / "checkpoints")
    copied = path.with_name("checkpoint_0000000007.npz")
    copied.write_bytes(path.read_bytes())
    learner, (said,) = resumed(agent, tmp_path)
    assert learner.frames == 80 and str(copied) in said
