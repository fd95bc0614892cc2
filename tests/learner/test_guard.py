"""What surrounds any agent: keys, counts, and updates that are left out."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmg.agents.agent import Agent
from bmg.learner.guard import FORMER_PATHS, guarded
from bmg.storage import checkpoint
from bmg.storage.checkpoint import CheckpointError
from tests.learner import fakes


def counting(**fields) -> Agent:
    """Its state counts updates and keeps what each was called with; the batch's first reward is its
    loss, the second a metric of another group, the third goes into the state."""

    def init(key):
        return {"count": jnp.int32(0), "frames": jnp.float32(-1), "key": key, "x": jnp.float32(0)}

    def update(state, batch, frames, key):
        loss, other, x = batch.online.reward[0, :3]
        new = {"count": state["count"] + 1, "frames": frames, "key": key, "x": x}
        return new, {"loss/total": loss, "meta/ratio": other}

    return Agent(init, update, None, None, **fields)


def batch_of(loss: float, other: float = 0.0, x: float = 0.0):
    batch = fakes.update_batch(0, num_extra=0)
    batch.online.reward[0, :3] = loss, other, x
    return batch


def test_an_update_gets_the_frames_before_it_and_a_key_of_its_own():
    whole = guarded(counting(), frames_per_update=40)
    state, keys = whole.init(jax.random.PRNGKey(0)), []
    for update in range(3):
        state, metrics = jax.jit(whole.update)(state, batch_of(1.0))
        assert state.agent["frames"] == 40 * update and state.updates == update + 1
        keys.append(state.agent["key"].tobytes())
    assert len(set(keys)) == 3
    assert metrics.keys() == {
        "loss/total", "meta/ratio", "learner/skipped_updates", "learner/skipped_in_a_row",
    }  # fmt: skip


def test_an_update_whose_loss_or_state_is_not_finite_is_left_out():
    whole = guarded(counting(), 40)
    state, update = whole.init(jax.random.PRNGKey(0)), jax.jit(whole.update)
    seen = []
    for values in [(1.0,), (np.nan,), (1.0, 0.0, np.inf), (1.0, np.inf, 2.0), (-np.inf,)]:
        state, metrics = update(state, batch_of(*values))
        skipped = int(state.skipped), int(state.skipped_in_a_row)
        assert skipped[1] == metrics["learner/skipped_in_a_row"]
        seen.append((int(state.agent["count"]), float(state.agent["x"]), *skipped))
    # A metric of another group may be what it is.
    assert seen == [(1, 0, 0, 0), (1, 0, 1, 1), (1, 0, 2, 2), (2, 2, 2, 0), (2, 2, 3, 1)]
    assert state.updates == 5


def test_a_batch_without_what_the_agent_takes_from_replay_is_refused():
    empty = jax.tree.map(lambda x: x[:0], fakes.trajectories(0, 1))
    for fields, num_extra, replay, words in [
        ({"num_extra_batches": 2}, 1, True, "1 extra replay batches; the agent takes 2"),
        ({}, 1, True, "1 extra replay batches; the agent takes 0"),
        ({"num_extra_batches": 1}, 1, False, "replay batch is empty"),
        ({"needs_replay": True}, 0, False, "replay batch is empty"),
        ({}, 0, False, ""),
        ({"needs_replay": True}, 0, True, ""),
    ]:
        whole = guarded(counting(**fields), 40)
        batch = fakes.update_batch(0, num_extra=num_extra)
        batch = batch if replay else batch._replace(replay=empty)
        state = whole.init(jax.random.PRNGKey(0))
        if not words:
            jax.eval_shape(whole.update, state, batch)
            continue
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(whole.update, state, batch)


class FormerState(NamedTuple):
    """What checkpoints held before agents had a state of their own."""

    agent: Any
    meta: Any
    updates: Any
    skipped: Any
    skipped_in_a_row: Any
    key: Any


def test_checkpoints_from_before_agents_had_a_state_of_their_own_are_read(tmp_path):
    """Of STACX and BMG; IMPALA's are as they were."""
    state = jax.tree.map(np.asarray, fakes.make_agent().init(jax.random.PRNGKey(0)))
    former = FormerState(state.agent.inner, state.agent.meta, np.int32(3), *state[2:])
    path = checkpoint.save(tmp_path, 3, former, {}, keep=1)
    with pytest.raises(CheckpointError, match="another agent"):
        checkpoint.load(path, state)
    found = checkpoint.load(path, state, former=FORMER_PATHS)
    fakes.assert_same(found.state, state._replace(updates=np.int32(3)))

    simple = fakes.make_agent(fakes.AGENT.__class__("impala", network=fakes.AGENT.network))
    state = jax.tree.map(np.asarray, simple.init(jax.random.PRNGKey(0)))
    path = checkpoint.save(tmp_path, 4, FormerState(state.agent, None, *state[1:]), {}, keep=1)
    fakes.assert_same(checkpoint.load(path, state, former=FORMER_PATHS).state, state)


def test_an_update_that_changes_more_than_numbers_is_refused():
    def agent(init, update):
        return guarded(Agent(lambda key: init, update, None, None), 40)

    batch = fakes.update_batch(0, num_extra=0)
    for init, update, words in [
        ({"n": 0}, lambda s, *_: ({"n": s["n"] + 0.5}, {}), "['n'] as float32[]; it was int32[]"),
        ({"n": 0}, lambda s, *_: ({"n": jnp.zeros(4, int)}, {}), "['n'] as int32[4]"),
        ({"n": 0}, lambda s, *_: ({"m": 1}, {}), "structure"),
        ({"n": 0}, lambda s, *_: (s, {"a/b": jnp.zeros(3)}), "metric a/b has the shape [3]"),
        ({"n": jax.random.key(0)}, None, "raw keys"),
    ]:
        with pytest.raises(ValueError) as caught:
            whole = agent(init, update)
            jax.eval_shape(whole.update, whole.init(jax.random.PRNGKey(0)), batch)
        assert words in fakes.one_line(caught.value)
    # Python's numbers are arrays to the guard, in state and metrics.
    whole = agent({"n": 1.0}, lambda s, *_: ({"n": s["n"] + 1}, {"loss/x": 2.0, "own/flag": True}))
    state, metrics = whole.update(whole.init(jax.random.PRNGKey(0)), batch)
    assert state.agent["n"] == 2 and state.agent["n"].dtype == np.float32
    assert metrics["loss/x"] == 2 and metrics["own/flag"]
