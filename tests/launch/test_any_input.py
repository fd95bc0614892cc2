"""Whatever is typed and whatever stands in config.json: one line and nothing was started or
written, or a run within every range."""

from __future__ import annotations

import copy
import importlib
import json
import math
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmg.launch import actors, benchmark, demo, isolation, lifetimes, suite
from bmg.launch.hosts import local_pod
from bmg.launch.presets import PRESETS
from bmg.launch.suites import runs
from bmg.storage.fields import range_of
from bmg.storage.run_directory import config_file, to_dict
from tests.launch.commands import files
from tests.launch.configs import get, numbers
from tests.tables import named

FUZZ = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@pytest.fixture
def inert(command, monkeypatch):
    """The command, of which no part starts anything."""

    def start(config, *_) -> int:
        command.launched.append((config, None, None))
        return 0

    monkeypatch.setattr(lifetimes, "make_lifetime", lambda experiment, config: None)
    monkeypatch.setattr(lifetimes, "make_runner", lambda config, lifetime: None)
    monkeypatch.setattr(lifetimes, "_run", lambda experiment, config, *_: start(config))
    monkeypatch.setattr(demo, "_show", start)
    monkeypatch.setattr(runs, "run_all", lambda name, options, *_: start(options))
    monkeypatch.setattr(suite, "_show_sweep", lambda *_: None)
    monkeypatch.setattr(benchmark, "print_table", lambda rows: None)
    for name in benchmark._BENCHMARKS:
        module = importlib.import_module(f"bmg.benchmarks.{name.replace('-', '_')}")
        monkeypatch.setattr(module, "measure", lambda config: [{"code": start(config)}])
    read_join = actors.read_join
    monkeypatch.setattr(actors, "read_join", lambda x: x.name == "some.json" or read_join(x))
    monkeypatch.setattr(actors, "why_no_launchpad", lambda: "")
    monkeypatch.setattr(actors, "_act", lambda config, join: start(config))
    monkeypatch.setattr(isolation, "enter", lambda command: "")
    monkeypatch.setattr(local_pod, "_networks", lambda hosts, why: None)
    monkeypatch.setattr(local_pod, "_start", lambda layout, *_: start(layout))
    monkeypatch.setattr(local_pod, "_wait", lambda *_: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None)  # no gcloud
    return command


def check(command, *arguments: str) -> None:
    """Runs it: a refusal in one line that leaves everything as it was, or an answer on the screen,
    or a start with every number in its range."""
    before, started = files(command.folder), len(command.launched)
    code, out, err = command(*arguments)
    text = out + err
    if code == 2:
        assert text.startswith("bmg: ") and len(text.splitlines()) == 1, text
        assert text.rstrip("\n").isprintable() and len(text) < 2_000, text
        assert len(command.launched) == started and files(command.folder) == before
        return
    assert code == 0, text
    assert text or len(command.launched) > started
    for config, _, _ in command.launched[started:]:
        for field in numbers(type(config)):
            value = get(config, field.path)
            for x in value if isinstance(value, tuple) else (value,):
                assert x is None or (math.isfinite(x) and x in range_of(field.item)), field


LINES = [
    "train --preset local --game catch --frames 1000 --workdir a --actors.num-actors 2",
    "train --game pong --agent.network.channels 1 2 --agent.network.head-hidden --seed=4",
    "train --hosts.count 2 --hosts.index 1 --hosts.coordinator a:1 --learner.replay-batch 2 "
    "--game catch",
    "train --game catch --resume --workdir saved --no-resume --agent.meta.matching kl",
    "evaluate --workdir saved --episodes 3 --seed 1",
    "plot --workdirs saved b --output x.png --metrics training/return",
    "demo --steps 100 --seeds 2 --output f.png",
    "suite minatar --games breakout --methods impala bmg-l1-kl --seeds 2 --steps 9 --root g",
    "suite minatar tune --learning-rates 0.01 --entropy-costs 0 --games freeway --root h",
    "suite minatar figures --results g/results.csv --output i --resamples 10 --score evaluation",
    "two-colors --method mg --steps 100 --workdir b --matching kl --actor-critic.discount 0.5",
    "two-colors all --only fixed-* --meta-learning-rates 1e-4 3e-4 --root c --seeds 2",
    "two-colors figures --root c --output d",
    "mrp --objective bmg --kappa 0.5 --steps 640 --hidden 3 3 --workdir e --checkpoint-interval 0",
    "mrp variance --n-step 1 2 --mixed --oracle 2 --draws 2 --points 3",
    "snake all --n-step 1 --mixed --bmg 2 --no-fixed --first-seed 3 --root f",
    "benchmark learner --networks 1x --quick --seconds 1 --horizons 1 2",
    "benchmark replay --writers 2 --only noise --atari.height 84",
    "pod local --hosts 2 --game catch --learner.replay-batch 2 --cores-per-host 1",
    "pod create --accelerator-type v4-32 --dry-run --spot",
    "pod run --name x --dry-run -- --preset local --game catch",
    "actors --learner 10.0.0.1:8500 --join some.json --actors 3 --patience 5 --env-threads 2",
    "pod logs --worker 0 --dry-run --zone us-central2-b",
]
WORDS = st.sampled_from([
    "", "-", "--", "=", "nan", "-inf", "-1", "0", "1e400", "1e-400", "9" * 400, "9" * 5_000,
    "x" * 5_000, "-" * 300, "--" + "y" * 5_000, "\0", "\x1b[31mred", "a\nb", "\u0663", "\ud800",
    "\u202e", "None", "[]", "{}", "True", "catch", "pong", "--game", "--resume", "--workdir",
    "--frames", "--help", "--tyro-print-completion", "--workdir=\0", "--game=", "--seed=--seed",
    "--learner.log-interval=nan", "--agent", "--agent.", "--.", "--no-resume", "local", "all",
])  # fmt: skip


@st.composite
def command_lines(draw) -> list[str]:
    """A valid one with words dropped, doubled, moved and put in."""
    words = draw(st.sampled_from(LINES)).split()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(1, len(words) - 1)) if len(words) > 1 else 0
        change = draw(st.sampled_from(["drop", "double", "move", "put", "replace", "join"]))
        word = draw(st.one_of(WORDS, st.text(st.characters(blacklist_characters="/."), max_size=6)))
        if change == "drop":
            del words[at]
        elif change == "double":
            words.insert(at, words[at])
        elif change == "move":
            words.append(words.pop(at))
        elif change == "put":
            words.insert(at, word)
        elif change == "replace":
            words[at] = word
        else:
            words[at] += "=" + word
        words = words or [word]
    return words


def test_the_lines_themselves_are_valid(inert, tmp_path):
    """Or lack no more than a run."""
    for number, line in enumerate(LINES):
        with named(line):
            inert.move(tmp_path / str(number))
            code, _, err = inert(*line.split())
            assert code == 0 or "no run" in err, err
            check(inert, *line.split())


NOTHING_TO_DO = [
    ("two-colors all --only", "--only is empty; give at least one"),
    ("two-colors all --meta-learning-rates", "--meta-learning-rates is empty; give at least one"),
    ("two-colors all --meta-learning-rates 1e-4 0.0001", "has 0.0001 twice; give each once"),
    ("mrp all --n-step --mixed --bmg --mixed-bmg --no-fixed", "nothing to run"),
    ("mrp variance --n-step --mixed --bmg --mixed-bmg --oracle 0", "nothing to measure"),
    ("evaluate", "--workdir is missing"),
]


def test_nothing_to_do_is_refused(inert):
    for line, words in NOTHING_TO_DO:
        with named(line):
            assert words in inert.refused(*line.split())


@pytest.mark.long
@FUZZ
@given(words=command_lines())
def test_any_command_line(inert, words):
    check(inert, *words)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8)
    | st.integers(-(10**20), 10**20) | st.sampled_from([10**400, -1, 0, 1, 2**31, 2**63, "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)  # fmt: skip
SAVED = to_dict(PRESETS["local"]("catch"))


@st.composite
def changed_configurations(draw) -> dict:
    """A valid one with fields and groups replaced, removed and put in."""
    config = copy.deepcopy(SAVED)
    for _ in range(draw(st.integers(1, 3))):
        group = config
        while True:
            name = draw(st.sampled_from(sorted(group) or ["x"]))
            if not isinstance(group.get(name), dict) or draw(st.integers(0, 3)) == 0:
                break
            group = group[name]
        change = draw(st.sampled_from(["replace", "remove", "put"]))
        if change == "remove":
            group.pop(name, None)
        else:
            group[name if change == "replace" else draw(st.text(max_size=6))] = draw(JSON)
    return config


def check_file(command, content: bytes) -> None:
    """Goes on with a run whose config.json this is."""
    folder = command.folder / "run"
    folder.mkdir(exist_ok=True)
    config_file(folder).write_bytes(content)
    check(command, "train", "--workdir", "run", "--resume")


@pytest.mark.long
@FUZZ
@given(config=st.one_of(changed_configurations(), changed_configurations(), JSON))
def test_any_json(inert, config):
    check_file(inert, json.dumps(config).encode())


@FUZZ
@given(content=st.binary(max_size=40))
def test_any_bytes(inert, content):
    check_file(inert, content)


WRONG_FILES = [
    (b"", "cannot be read"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"agent":' * 100_000, "nested too deeply"),
    (b" " * 2**21, "too large"),
    (b'{"frames": ' + b"9" * 5_000 + b"}", "frames is "),
    (b'{"frames": NaN}', "frames is nan; allowed are integers from 1"),
    (b'{"frames": "many"}', "frames is 'many'; allowed are integers from 1"),
    (b'{"game": []}', "game is a list; allowed are texts"),
    (b'{"game": "pongg"}', "did you mean 'pong'"),
    (b'{"workdir": "a\\u0000b"}', "workdir is 'a\\x00b'; allowed are texts"),
    (b'{"agent": null}', "agent is None; allowed are groups of fields"),
    (b'{"agent": {"meta": {"inner_steps": 0}}}', "agent.meta.inner_steps is 0; allowed are"),
    (b'{"replay": {"min_replay_size": 99}}', "replay.min_replay_size is 99; allowed are"),
    (b'{"learner": {"online_batch": 4, "x": 1}}', "learner.'x' is no field of LearnerConfig"),
    (b"[1]", "it is a list; allowed are groups of fields"),
]


def test_what_is_wrong_with_a_file_is_said(inert):
    for content, words in WRONG_FILES:
        with named(content):
            check_file(inert, content)
            for arguments in ("train --workdir run --resume", "evaluate --workdir run"):
                line = inert.refused(*arguments.split())
                assert line.startswith("bmg: run/config.json") and words in line, line
