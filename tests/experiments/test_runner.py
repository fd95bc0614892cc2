"""Many lifetimes in one program: what each sees is its own, and nothing of a stop."""

from __future__ import annotations

import functools
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmg.experiments import records as records_module
from bmg.experiments import runner as runner_module
from bmg.experiments.lifetime import SHARDS, Lifetime, State, alike, gathered, share
from bmg.experiments.records import Records, read_csv, write_csv
from bmg.experiments.runner import Runner
from bmg.experiments.two_colors import experiment
from bmg.experiments.two_colors.config import ActorCriticConfig, QLambdaConfig, TwoColorsConfig
from bmg.storage import checkpoint
from bmg.storage.checkpoint import CheckpointError
from tests.programs import once

CRITIC = TwoColorsConfig(
    actor_critic=ActorCriticConfig(hidden=(12, 9), meta_hidden=(6,)), target_steps=3, flip_every=512
)
Q = TwoColorsConfig(
    agent="q-lambda", q_lambda=QLambdaConfig(hidden=(12, 9), meta_hidden=(6,)), target_steps=5
)
STRETCH = 160


@once
def make_lifetime(config: TwoColorsConfig):
    return experiment.make_lifetime(config)._replace(chunk_steps=500)


pytestmark = [
    pytest.mark.heavy, pytest.mark.usefixtures("quick_compilation", "shared_programs"),
]  # fmt: skip


def lived(runner: Runner, steps: int = 1_900):
    runner.run(steps, lambda done: None)
    return runner.records.means(steps)


def same(actual, expected, **tolerance):
    np.testing.assert_array_equal(actual[0], expected[0])
    assert actual[1].keys() == expected[1].keys()
    for name in expected[1]:
        np.testing.assert_allclose(actual[1][name], expected[1][name], **tolerance)


@pytest.mark.parametrize("config", [CRITIC, Q], ids=["actor-critic", "q-lambda"])
def test_lifetimes_side_by_side_are_those_one_by_one(config):
    """Three on eight forced devices, against each alone."""
    lifetime = make_lifetime(config)
    together = Runner(lifetime, 3, 3, STRETCH)
    assert len(together.devices) == 3
    steps, columns = lived(together)
    rewards = columns["reward"]
    assert len({tuple(row) for row in rewards}) == 3, "every seed lives another life"
    for index in range(3):
        alone = Runner(lifetime, 1, 3 + index, STRETCH)
        own = {name: values[index : index + 1] for name, values in columns.items()}
        same(lived(alone), (steps, own), rtol=1e-4, atol=1e-6)


def test_seeds_that_do_not_divide_among_the_devices(monkeypatch):
    lifetime = make_lifetime(CRITIC)
    whole = lived(Runner(lifetime, 3, 0, STRETCH))
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda: two)
    uneven = Runner(lifetime, 3, 0, STRETCH)
    assert len(uneven.devices) == 2
    same(lived(uneven), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", [CRITIC, Q], ids=["actor-critic", "q-lambda"])
def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(config, tmp_path):
    lifetime = make_lifetime(config)
    whole = lived(Runner(lifetime, 3, 0, STRETCH, tmp_path / "whole"))

    def stop(done):
        if done >= 900:
            raise KeyboardInterrupt

    first = Runner(lifetime, 3, 0, STRETCH, tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        first.run(1_900, stop)
    assert 900 <= first.records.steps < 1_900
    second = Runner(lifetime, 3, 0, STRETCH, tmp_path / "parts")
    assert second.restore() == []
    assert second.records.steps == first.records.steps
    same(lived(second), whole, rtol=0)


@pytest.mark.parametrize("devices", [1, 2])
def test_lifetimes_that_are_not_finite_are_named(monkeypatch, devices):
    """Whether a part of them is on each device, or all are on one; whole numbers never are."""
    there = jax.devices()[:devices]
    monkeypatch.setattr(jax, "devices", lambda: there)

    def window(state, data):
        agent, step = state.agent["x"], state.agent["step"] + 1
        broken = (state.key[1] == 1) & (step == 2)  # of the second seed, in its second window
        agent = jnp.where(broken, jnp.nan, agent)
        return State({"x": agent, "step": step}, None, state.key), {"x": agent[:1]}

    def init(key):
        return State({"x": jnp.ones(3), "step": jnp.int32(0)}, None, key)

    runner = Runner(Lifetime(init, window, 1, 1, ("x",), chunk_steps=1), 3, 0, 1)
    runner.advance()
    assert runner.not_finite() == []
    runner.advance()
    assert runner.not_finite() == [1]


@pytest.mark.parametrize("convolves", [False, True])
def test_data_are_an_argument_that_all_lifetimes_read(monkeypatch, convolves):
    """A few-shot learner in little: each window is a mean over examples drawn for it, and counts as
    one. As constants, the examples would be a part of the program."""
    data = {"images": np.random.default_rng(0).normal(size=(64, 32, 32)).astype(np.float32)}
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda: two)

    def init(key):
        return State(None, None, key)

    def drawn(state):
        next_key, key = jax.random.split(state.key)
        return next_key, jax.random.choice(key, 64, (4,))

    def window(state, data):
        next_key, index = drawn(state)
        brightness = jnp.mean(data["images"][index])
        return State(None, None, next_key), {"brightness": brightness[None]}

    lifetime = Lifetime(init, window, 1, 1, ("brightness",), convolves, data, chunk_steps=3)
    runner = Runner(lifetime, 3, 5, 2)
    assert runner.chunk_windows == (1 if convolves else 3)
    steps, columns = lived(runner, 6)
    np.testing.assert_array_equal(steps, [2, 4, 6])
    for seed in range(3):
        state, expected = init(jax.random.PRNGKey(5 + seed)), []
        for _ in range(6):
            key, index = drawn(state)
            expected.append(data["images"][np.asarray(index)].mean())
            state = state._replace(key=key)
        expected = np.reshape(expected, (3, 2)).mean(1)
        np.testing.assert_allclose(columns["brightness"][seed], expected, atol=1e-6)
    program = runner._chunk.lower(runner._progress.state[0], runner._data).compile()
    assert program.memory_analysis().argument_size_in_bytes >= data["images"].nbytes


def test_what_is_alike_is_decided_once():
    """For lifetimes side by side the other branch is not computed, unlike on each one's own."""

    def step(count, x, decide):
        return jax.lax.cond(decide(count) == 2, jnp.sin, lambda x: x, x)

    counts, x = jnp.full(3, 2), jnp.arange(3.0)
    for decide, branches in ((alike, True), (lambda count: count, False)):
        mapped = jax.vmap(functools.partial(step, decide=decide))
        np.testing.assert_allclose(mapped(counts, x), jnp.sin(x), rtol=1e-6)
        assert (" cond[" in str(jax.make_jaxpr(mapped)(counts, x))) == branches
    one = jax.vmap(functools.partial(step, decide=alike), in_axes=(None, 0))
    np.testing.assert_array_equal(one(jnp.int32(1), x), x)


@pytest.mark.parametrize("num_devices, seeds", [(1, 1), (4, 1), (4, 3), (3, 2)])
def test_pieces_of_a_lifetime_on_several_devices(monkeypatch, num_devices, seeds):
    """Each device adds up the numbers of its pieces; all of them keep the sum of all."""
    there = jax.devices()[:num_devices]
    monkeypatch.setattr(jax, "devices", lambda: there)

    def window(state, data):
        mine = share(jnp.arange(1.0, 5.0))
        total = state.agent + jax.lax.psum(jnp.sum(mine), SHARDS)
        everyone = gathered(mine)[:4]
        return State(total, None, state.key), {"total": total[None], "last": everyone[-1][None]}

    lifetime = Lifetime(
        lambda key: State(jnp.float32(0), None, key), window, 1, 1, ("total", "last"),
        convolves=True, shards=4,
    )  # fmt: skip
    runner = Runner(lifetime, seeds, 0, 1)
    _, columns = lived(runner, 2)
    np.testing.assert_array_equal(columns["total"], [[10, 20]] * seeds)
    np.testing.assert_array_equal(columns["last"], [[4, 4]] * seeds)
    assert [float(runner.lifetime(i).agent) for i in range(seeds)] == [20] * seeds


def test_devices_are_shared_out_so_that_none_waits_for_long():
    spread = runner_module._spread
    assert spread(1, 1, 8) == (1, 1)
    assert spread(3, 1, 2) == (2, 1), "one of four places is empty"
    assert spread(3, 4, 2) == (1, 2), "none is"
    assert spread(2, 4, 2) == (2, 1), "and nothing crosses devices"
    assert spread(1, 4, 3) == (1, 2) and spread(2, 4, 8) == (2, 4) and spread(1, 4, 16) == (1, 4)


def test_a_signal_while_recording_leaves_one_step_whole(tmp_path, monkeypatch):
    """Ctrl-C when the lifetimes went on and what they did is half added."""
    lifetime = make_lifetime(CRITIC)
    whole = lived(Runner(lifetime, 3, 0, STRETCH))
    first = Runner(lifetime, 3, 0, STRETCH, tmp_path)
    first.advance()
    steps = first.records.steps
    pads, whole_pad = itertools.count(), np.pad

    def pad(*arguments):
        if next(pads) == 1:  # the second column
            raise KeyboardInterrupt
        return whole_pad(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(records_module.np, "pad", pad)
        first.run(1_900, lambda done: None)
    assert next(pads) == 2 and first.records.steps == steps
    second = Runner(lifetime, 3, 0, STRETCH, tmp_path)
    second.restore()
    same(lived(second), whole, rtol=0)


def test_a_run_can_be_made_longer(tmp_path):
    lifetime = make_lifetime(CRITIC)
    whole = lived(Runner(lifetime, 3, 0, STRETCH), 2_500)
    lived(Runner(lifetime, 3, 0, STRETCH, tmp_path), 1_100)
    longer = Runner(lifetime, 3, 0, STRETCH, tmp_path)
    longer.restore()
    same(lived(longer, 2_500), whole, rtol=0)


def test_a_broken_checkpoint_gives_way_to_the_one_before(tmp_path):
    lifetime = make_lifetime(CRITIC)
    runner = Runner(lifetime, 3, 0, STRETCH, tmp_path)
    runner.advance()
    runner.save()
    steps = runner.records.steps
    runner.advance()
    runner.save()
    newest = sorted(tmp_path.glob("*.npz"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    again = Runner(lifetime, 3, 0, STRETCH, tmp_path)
    problems = again.restore()
    assert len(problems) == 1 and str(newest) in problems[0]
    assert again.records.steps == steps
    with pytest.raises(CheckpointError):
        Runner(make_lifetime(Q), 3, 0, STRETCH, tmp_path).restore()


def test_a_checkpoint_that_no_run_can_have_written_gives_way_to_the_one_before(tmp_path):
    """The header, the records and the name of one file belong together; a lifetime that diverged is
    a result like any other."""
    runner = Runner(make_lifetime(CRITIC), 3, 0, STRETCH, tmp_path)
    runner.advance()
    runner.save()
    steps = runner.records.steps
    runner.advance()
    runner.save()
    newest = checkpoint.list_checkpoints(tmp_path)[-1]
    with np.load(newest) as file:
        arrays = dict(file)
    header = json.loads(bytes(arrays.pop("header")))
    sums = {name: x for name, x in arrays.items() if name.startswith("['records']")}
    updates = "['records']['updates']"
    assert updates in sums and header["stretches"] > 1

    def restored(header: dict, **changes: np.ndarray) -> list[str]:
        text = np.frombuffer(json.dumps(header).encode(), np.uint8)
        with open(newest, "wb") as file:
            np.savez(file, header=text, **{**arrays, **changes})
        return runner.restore()

    nan = {name: np.full_like(x, np.nan) for name, x in arrays.items() if x.dtype.kind == "f"}
    for changes in ({}, nan):
        assert restored(header, **changes) == [] and runner.records.steps > steps

    wrong = [-1, "2", None, True, 2.0, 1e30, 10**30, math.nan, [], {}, "\x1b[2J\n" * 999]
    lies = [({**header, "stretches": value}, {}) for value in wrong]
    lies += [({"format": 1}, {}), ({**header, "stretches": header["stretches"] + 1}, {})]
    lies += [
        (header, {updates: np.int64(value)})
        for value in (-1, 0, 1, 2**62, int(arrays[updates]) + 1)
    ]
    lies += [(header, {updates: np.float64(arrays[updates])})]
    longer = {name: np.pad(x, ((0, 0), (0, 3))) for name, x in sums.items() if x.ndim}
    lies += [({**header, "stretches": header["stretches"] + 3}, longer)]
    for lie, changes in lies:
        (problem,) = restored(lie, **changes)
        assert runner.records.steps == steps, lie
        assert str(newest) in problem and problem.isprintable() and len(problem) < 400
    newest.rename(newest.with_name("checkpoint_9999999999.npz"))
    assert len(runner.restore()) == 1 and runner.records.steps == steps


def test_a_checkpoint_is_written_on_the_way(tmp_path, monkeypatch):
    clock = itertools.count(0, 45.0)
    monkeypatch.setattr(runner_module.time, "monotonic", lambda: next(clock))
    runner = Runner(make_lifetime(CRITIC), 1, 0, STRETCH, tmp_path)
    found = []
    runner.run(2_500, lambda done: found.append(len(list(tmp_path.glob("*.npz")))), 60.0)
    assert found[0] == 0 and found[-1] >= 1


@pytest.mark.parametrize("steps_per_update, stretch", [(1, 7), (16, 160), (16, 40)])
def test_records_are_the_slow_sums(steps_per_update, stretch):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 200))
    records = Records(("x",), 3, steps_per_update, stretch)
    cuts = [0, 5, 6, 90, 200]
    for begin, end in itertools.pairwise(cuts):
        records = records.plus({"x": values[:, begin:end]})
    groups: dict[int, list[int]] = {}
    for update in range(200):
        groups.setdefault(update * steps_per_update // stretch, []).append(update)
    steps, columns = records.means(200 * steps_per_update)
    kept = [groups[stretch] for stretch in sorted(groups)]
    np.testing.assert_array_equal(steps, [(g[-1] + 1) * steps_per_update for g in kept])
    expected = np.stack([values[:, g].mean(1) for g in kept], axis=1)
    np.testing.assert_allclose(columns["x"], expected, rtol=1e-9)


def test_a_table_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    steps = np.array([2_000, 4_000, 5_000])
    columns = {"reward": rng.normal(size=(2, 3)), "epsilon": rng.uniform(size=(2, 3))}
    path = tmp_path / "results.csv"
    write_csv(path, 5, steps, columns)
    lines = path.read_text().splitlines()
    assert lines[0] == "seed,step,reward,epsilon" and len(lines) == 7
    assert lines[1].startswith("5,2000,") and lines[-1].startswith("6,5000,")
    found_steps, found = read_csv(path)
    np.testing.assert_array_equal(found_steps, steps)
    for name in columns:
        np.testing.assert_allclose(found[name], columns[name], rtol=1e-5)


TABLE = b"seed,step,a\n0,10,1.5\n0,20,nan\n1,10,3\n1,20,4\n"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"seed,step,a\n", b"seed,step,a\n0,1\n", b"step,seed,a\n1,0,2\n", b"\xff\xfe",
        TABLE + b"0,30,1\n", TABLE + b"2,10,1\n2,30,1\n", TABLE.replace(b"1.5", b"x"),
        TABLE.replace(b"10", b"1.5"), TABLE.replace(b"10", b"9" * 30), TABLE.replace(b"3", b'"'),
        TABLE.replace(b"3", b"\0"), TABLE.replace(b"3", b"1" * 200_000 + b"x"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_one_line(tmp_path, content):
    path = tmp_path / "results.csv"
    path.write_bytes(TABLE)
    steps, columns = read_csv(path)
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_array_equal(columns["a"], [[1.5, np.nan], [3, 4]])
    path.write_bytes(content)
    with pytest.raises(ValueError, match="results.csv is no table") as caught:
        read_csv(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@settings(max_examples=100)
@given(content=st.binary(max_size=100), at=st.integers(0, len(TABLE)))
def test_any_bytes_are_a_table_or_one_line(tmp_path_factory, content, at):
    path = tmp_path_factory.getbasetemp() / "bytes.csv"
    for damaged in (content, TABLE[:at] + content + TABLE[at:], TABLE[:at] + content):
        path.write_bytes(damaged)
        try:
            steps, columns = read_csv(path)
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            assert all(x.shape[1:] == steps.shape for x in columns.values())
