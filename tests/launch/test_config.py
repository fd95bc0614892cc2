"""Configurations: presets, their file, what a resumed run may change."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import pathlib
import typing

import pytest

from bmg.environments.scores import GAMES
from bmg.launch.config import FIXED, TrainConfig
from bmg.launch.presets import PRESETS
from bmg.storage.fields import from_dict, names_of, range_of
from bmg.storage.run_directory import check_same, load_config, to_dict
from tests.launch.configs import get, leaves
from tests.tables import named


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text and "\n" not in text
    return text


# BMG Table 2, in the words of this project; the table's own words where they differ.
TABLE_2 = {
    "atari.height": 210,
    "atari.width": 160,
    "atari.max_pool": False,
    "atari.grayscale": False,
    "atari.num_stack": 4,
    "atari.action_repeat": 4,
    "atari.sticky_actions": 0.0,
    "agent.loss.max_abs_reward": 1.0,
    "atari.zero_discount_on_life_loss": True,
    "atari.max_episode_frames": 108_000,
    "atari.noop_max": 30,
    "agent.network.torso": "resnet",
    "agent.network.channels": (64, 128, 128, 64),
    "agent.network.residual_blocks": 2,
    "agent.network.features": 512,
    "agent.meta.auxiliary_tasks": 2,
    "agent.network.head_hidden": (256, 256),
    "agent.loss.max_entropy": 0.9,
    "learner.unroll_length": 20,
    "learner.replay_batch": 12,
    "learner.online_batch": 6,
    "replay.replay_capacity": 10_000,
    "agent.loss.laser_threshold": 2.0,
    "agent.optimizer.learning_rate": 1e-4,
    "agent.optimizer.decay_frames": 200_000_000,  # printed in thousands
    "agent.optimizer.decay": 0.99,
    "agent.optimizer.epsilon": 1e-4,
    "agent.optimizer.max_norm": 0.3,
    "agent.loss.discount": 0.995,
    "agent.loss.lambda_": 1.0,
    "agent.loss.rho_clip": 1.0,
    "agent.loss.c_clip": 1.0,
    "agent.loss.alpha": 1.0,
    "agent.loss.policy_cost": 1.0,
    "agent.loss.entropy_cost": 0.01,
    "agent.loss.value_cost": 0.25,
    "agent.meta.learning_rate": 1e-3,
    "agent.meta.b1": 0.9,
    "agent.meta.b2": 0.999,
    "agent.meta.epsilon": 1e-4,
    # Beside the table: section 5.2 and appendix C.
    "agent.algorithm": "bmg",
    "agent.meta.inner_steps": 1,
    "agent.meta.target_steps": 1,
    "agent.meta.matching": "kl_value",
    "agent.meta.value_weight": 0.25,
    "agent.meta.target_optimizer": "rmsprop",
    "agent.meta.initial_logit": 4.6,  # STACX
    "frames": 200_000_000,
}


READINGS = {
    "paper": ("sum", "sum", False),
    "paper-mean-loss": ("mean", "sum", False),
    "paper-mean": ("mean", "mean", True),
}
OPEN = ("agent.loss.reduction", "agent.meta.matching_reduction", "agent.optimizer.epsilon_in_root")


def test_the_paper_presets_are_table_2():
    for preset in READINGS:
        with named(preset):
            config = PRESETS[preset]("ms_pacman")
            assert {name: get(config, name) for name in TABLE_2} == TABLE_2
            assert tuple(get(config, name) for name in OPEN) == READINGS[preset]


def test_a_run_that_knew_no_reduction_of_the_matching_goes_on_as_it_was():
    values = to_dict(PRESETS["paper-mean"]("pong"))
    values["preset"] = "paper"
    del values["agent"]["meta"]["matching_reduction"]
    again = from_dict(TrainConfig, json.loads(json.dumps(values)))
    assert again == dataclasses.replace(PRESETS["paper-mean"]("pong"), preset="paper")


def test_the_paper_acts_in_48_environments():
    actors = PRESETS["paper"]("pong").actors
    assert actors.num_actors * actors.envs_per_actor == 48


def test_the_local_preset_is_light():
    config = PRESETS["local"]("pong")
    assert (config.atari.height, config.atari.width, config.atari.grayscale) == (84, 84, True)
    assert config.agent.algorithm == "bmg" and config.agent.meta.auxiliary_tasks == 2
    paper = PRESETS["paper"]("pong").atari
    for name in ("action_repeat", "noop_max", "sticky_actions", "zero_discount_on_life_loss",
                 "max_episode_frames", "full_action_space"):  # fmt: skip
        assert getattr(config.atari, name) == getattr(paper, name), "the protocol stays the paper's"


def test_every_preset_of_every_game_survives_its_file():
    for preset in PRESETS:
        for game in (*GAMES, "catch"):
            with named(preset, game):
                config = PRESETS[preset](game)
                assert (config.game, config.preset) == (game, preset)
                text = json.dumps(to_dict(config))
                again = from_dict(TrainConfig, json.loads(text))
                assert again == config
                assert isinstance(again.agent.network.channels, tuple)
                assert hash(again) == hash(config)


def changed(config, name: str, value):
    """`config` with one field, given by its dotted name, replaced."""
    head, _, rest = name.partition(".")
    if rest:
        value = changed(getattr(config, head), rest, value)
    return dataclasses.replace(config, **{head: value})


# Where the number above or below does not go together with the others.
OTHER = {"replay.min_replay_size": 6, "hosts.count": 1, "hosts.index": 1}


def another(name: str, hint, before):
    """A value that such a field may have in place of the one before."""
    if hint is bool:
        return not before
    if hint is str:
        return {
            "game": "catch", "game_options": '{"size": 3}', "workdir": "a b/c",
            "learner.platform": "cpu", "wandb": "my project",
            "hosts.coordinator": "10.0.0.2:8476", "agent.lpg.rule": "a b/rule.npz",
        }[name]  # fmt: skip
    if allowed := range_of(hint):
        near = [before + 2, before - 2] if hint.__origin__ is int else [before + 0.5, before / 2]
        return OTHER.get(name) or next(x for x in near if x in allowed and x != before)
    if names := names_of(hint):
        return next(x for x in names.known if x != before)
    if typing.get_origin(hint) is typing.Literal:
        return next(x for x in typing.get_args(hint) if x != before)
    return (1, 2, 3)


def test_each_field_survives_its_file():
    config = PRESETS["local"]("gymnasium:CartPole-v1")  # which has options
    for name, value in {
        "learner.replay_batch": 2,
        "runtime": "in-graph",  # which may have several seeds
        "hosts": dataclasses.replace(config.hosts, count=2, coordinator="10.0.0.1:8476"),
    }.items():
        config = changed(config, name, value)
    seen = 0
    for _, name, hint in leaves(TrainConfig):
        value = another(name, hint, get(config, name))
        assert value != get(config, name), name
        new = changed(config, name, value)
        again = from_dict(TrainConfig, json.loads(json.dumps(to_dict(new))))
        assert get(again, name) == value and again == new, name
        assert type(get(again, name)) is type(value), name
        seen += 1
    assert seen > 70


def test_every_option_is_described():
    """A docstring under each field is what --help shows."""
    for cls, path, _ in leaves(TrainConfig):
        body = ast.parse(inspect.getsource(cls)).body[0].body
        fields = {x.target.id: i for i, x in enumerate(body) if isinstance(x, ast.AnnAssign)}
        below = body[fields[path.rpartition(".")[2]] + 1 :][:1]
        assert below and isinstance(below[0], ast.Expr), path
        assert isinstance(below[0].value, ast.Constant), path


def test_missing_fields_keep_their_defaults():
    config = from_dict(TrainConfig, {"game": "breakout", "learner": {"online_batch": 4}})
    assert config.game == "breakout" and config.learner.online_batch == 4
    assert config.learner.replay_batch == TrainConfig().learner.replay_batch


def test_unknown_fields_are_refused():
    with pytest.raises(ValueError, match="learner.'batch' is no field of LearnerConfig"):
        from_dict(TrainConfig, {"learner": {"batch": 4}})


def test_the_run_directory():
    assert TrainConfig(game="breakout").path == pathlib.Path("runs/breakout")
    assert TrainConfig(game="breakout", workdir="x/y").path == pathlib.Path("x/y")


KEPT = [
    ("game", "breakout"),
    ("seed", 1),
    ("agent.algorithm", "stacx"),
    ("agent.meta.matching", "kl"),
    ("agent.network.features", 123),
    ("agent.optimizer.learning_rate", 1.0),
    ("atari.grayscale", False),
    ("learner.unroll_length", 11),
    ("learner.online_batch", 31),
    ("learner.replay_batch", 33),
]


def test_what_a_resumed_run_may_not_change():
    for name, value in KEPT:
        with named(name):
            saved = dataclasses.replace(PRESETS["local"]("pong"), workdir="runs/some")
            with pytest.raises(ValueError) as caught:
                check_same(changed(saved, name, value), saved, FIXED)
            text = one_line(caught.value)
            assert name in text and repr(get(saved, name)) in text and repr(value) in text
            assert "runs/some" in text


FREE = [
    ("frames", 10),
    ("resume", True),
    ("workdir", "moved/here"),
    ("launch", "local_mt"),
    ("actors.num_actors", 7),
    ("evaluator.episodes", 3),
    ("replay.replay_capacity", 77),
    ("devices.learner", 2),
    ("learner.checkpoint_interval", 1.0),
]


def test_what_a_resumed_run_may_change():
    for name, value in FREE:
        with named(name):
            saved = PRESETS["local"]("pong")
            assert get(saved, name) != value
            check_same(changed(saved, name, value), saved, FIXED)


def test_no_file_is_refused(tmp_path):
    with pytest.raises(ValueError) as caught:
        load_config(tmp_path / "none", TrainConfig)
    assert str(tmp_path / "none") in one_line(caught.value)
